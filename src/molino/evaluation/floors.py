"""The losses that counting alone reaches, to stand beside every loss of a model."""

import json
import math
from pathlib import Path

import numpy as np

from molino.base.console import working
from molino.base.files import write_text
from molino.evaluation.ngrams import (
    best_bigram_loss,
    bigram_optimum,
    interpolated_losses,
    unigram_loss,
)

KEYS = frozenset({"floor/unigram", "floor/bigram", "floor/bigram_train", "floor/ngram", "floor/ngram_order"})
ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0)


def floors(train: np.ndarray, heldout: np.ndarray, vocab_size: int) -> dict[str, float]:
    """Count on `train`, score on `heldout`; all in nats per token, under TensorBoard's tags.

    - floor/unigram: add-one unigram.
    - floor/bigram: add-alpha bigram with the best alpha of ALPHAS.
    - floor/bigram_train: the exact optimum of a bigram table on `train` itself.
    - floor/ngram, floor/ngram_order: interpolated absolute discounting of the best order from 2 to 7, and that order.

    Alpha and order are chosen on `heldout`, which flatters the floors by a hair. Arguments, the limit on long streams
    and the DataError as in `ngrams.unigram_loss`.
    """
    losses = interpolated_losses(train, heldout, vocab_size)
    order = min(losses, key=losses.__getitem__)
    return {
        "floor/unigram": unigram_loss(train, heldout, vocab_size),
        "floor/bigram": best_bigram_loss(train, heldout, vocab_size, ALPHAS),
        "floor/bigram_train": bigram_optimum(train),
        "floor/ngram": losses[order],
        "floor/ngram_order": order,
    }


def cached_floors(path: Path, train: np.ndarray, heldout: np.ndarray, vocab_size: int) -> dict[str, float]:
    """`floors`, read from the JSON file `path` where it holds them, else counted and written there atomically.

    The caller names the file after the tokens: nothing in it says which tokens were counted.

    Raises:
        DataError: as `floors`.
        ResourceError: `path` cannot be written.
    """
    found = _read(path)
    if found is None:
        with working("counting n-grams"):
            found = floors(train, heldout, vocab_size)
        write_text(path, json.dumps(found, indent=2) + "\n")
    return found


def _read(path: Path) -> dict[str, float] | None:
    """The floors in `path`; None where the file is absent, damaged or from another version."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.keys() != KEYS:
        return None
    sound = all(type(value) in (int, float) and math.isfinite(value) for value in found.values())
    return found if sound else None
