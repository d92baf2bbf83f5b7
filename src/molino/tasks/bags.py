"""The bag of words of a labelled corpus, through the cache: fitted once, for all runs that stand on it or are compared.

<cache>/counts/<sha256 of the corpus>/
    bag-<digest of the classes>.safetensors          words, and the regression on the whole training split
    bag-<digest of the classes>-parts.safetensors    what those fitted on the other parts say of each training example

Shapes: N examples, F features, K classes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from molino.base.errors import DataError
from molino.base.files import atomic_write
from molino.data.examples import Example, place_of
from molino.data.tokens import HINT, TokenizedCorpus, make_once
from molino.evaluation.bag_of_words import Bag, Regression, compare, fill, fit
from molino.tasks.outcomes import Classes

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PARTS = 10  # of the training examples, by their digests; each is told of by the others
UNLABELLED = 0.0


@dataclass(frozen=True)
class FittedBag:
    """Words, and a regression on them that tells classes."""

    bag: Bag
    regression: Regression

    def log_probabilities(self, examples: Sequence[Example]) -> np.ndarray:
        """Return those of each class, (N, K)."""
        return self.regression.log_probabilities(features(self.bag, examples))


def bag_of(text: TokenizedCorpus, outcome: Classes) -> Path:
    """Return the file of the bag of a corpus's training split; see `load_bag`."""
    path = _place(text, outcome)

    def make() -> None:
        train, wanted = labelled_of(text.corpus.examples()["train"], outcome)
        bag = fill([joined(each) for each in train])
        _save(path, FittedBag(bag, fit(features(bag, train), wanted, outcome.outputs)))

    make_once(path, path, "fitting a bag of words", make)
    return path


def cross_fitted(text: TokenizedCorpus, outcome: Classes) -> np.ndarray:
    """Return what a bag of words says of each training example that was not fitted on it: log-probabilities (N, K).

    The words are those of all training examples: which there are tells nothing of labels.
    """
    fitted, path = load_bag(bag_of(text, outcome)), _place(text, outcome, "-parts")

    def make() -> None:
        examples = text.corpus.examples()["train"]
        wanted = outcome.wanted(examples)
        rows = features(fitted.bag, examples)
        part_N = np.array([int(place_of(each) * PARTS) for each in examples])
        told = np.full((len(examples), outcome.outputs), UNLABELLED)
        for part in range(PARTS):
            others = (part_N != part) & (wanted >= 0)
            told[part_N == part] = fit(rows[others], wanted[others], outcome.outputs).log_probabilities(
                rows[part_N == part]
            )
        _write(path, {"log_p_NK": torch.from_numpy(told).float()})

    make_once(path, path, f"fitting a bag of words {PARTS} times", make)
    return _read(path)["log_p_NK"].numpy()


def load_bag(path: Path) -> FittedBag:
    """Load a bag of words.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    tensors = _read(path)
    try:
        words = json.loads(bytes(tensors["words"].numpy()).decode("utf-8"))
        keys, idf, weights, bias = (tensors[name].numpy() for name in ("keys", "idf", "weights", "bias"))
        if not (keys.shape == idf.shape and weights.shape[0] in (len(keys), 2 * len(keys)) and len(keys)):
            raise ValueError("its parts are of unequal lengths")
        if weights.shape[1:] != bias.shape or not isinstance(words, list):
            raise ValueError("its parts do not fit together")
        bag = Bag({word: number for number, word in enumerate(words)}, keys, idf, pairs=True, sublinear=True)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}): delete that file") from error
    return FittedBag(bag, Regression(weights, bias))


def features(bag: Bag, examples: Sequence[Example]) -> "csr_matrix":
    """Return the features of examples, those of pairs from both texts: (N, F)."""
    rows = bag.rows([each.text for each in examples])
    if examples[0].pair is None:
        return rows
    return compare(rows, bag.rows([each.pair for each in examples]))


def joined(example: Example) -> str:
    """Return all that is read of an example as one text."""
    return " ".join(example.texts)


def labelled_of(examples: Sequence[Example], outcome: Classes) -> tuple[list[Example], np.ndarray]:
    """Return the examples whose class is known, and its number."""
    wanted = outcome.wanted(examples)
    return [each for each, number in zip(examples, wanted, strict=True) if number >= 0], wanted[wanted >= 0]


def _place(text: TokenizedCorpus, outcome: Classes, kind: str = "") -> Path:
    digest = hashlib.sha256(json.dumps(outcome.names).encode()).hexdigest()[:16]
    return text.cache / "counts" / text.sha256[:32] / f"bag-{digest}{kind}.safetensors"


def _save(path: Path, fitted: FittedBag) -> None:
    bag, regression = fitted.bag, fitted.regression
    words = np.frombuffer(json.dumps(list(bag.words), ensure_ascii=False).encode("utf-8"), np.uint8)
    arrays = {
        "words": words,
        "keys": bag.keys_F,
        "idf": bag.idf_F.astype(np.float32),
        "weights": regression.weights_FK.astype(np.float32),
        "bias": regression.bias_K.astype(np.float32),
    }
    _write(path, {name: torch.from_numpy(array.copy()) for name, array in arrays.items()})


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    with atomic_write(path, HINT) as file:
        file.write(save(tensors))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged ({error}): delete that file") from error
