"""Counts of a corpus, through the cache: made once, for all runs that stand on them or are compared with them.

<cache>/counts/<digest of text and tokenizer>/
    order.json                  which order is the best, on the last tenth of the training split
    <order>.safetensors         tables of the whole training split
    <order>-parts.safetensors   what a network that stands on counts is trained with
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from molino.base.errors import DataError
from molino.base.files import atomic_write, sha256_file, write_text
from molino.data.tokens import HINT, Split, TokenizedCorpus, make_once
from molino.models.counting import Ngrams, Stream, count, stream_of
from molino.models.smoothing import losses
from molino.models.tables import Tables, checked_tables, make_tables

# The longest n-grams that are tried, of characters and of longer tokens.
LONGEST_OF_CHARACTERS, LONGEST_OF_WORDS = 8, 5
# In so many parts the training split is looked up in counts of the others.
PARTS = 10
# Of a longer stream only the first so many tokens tell which order is the best.
LIMIT = 10_000_000


def counts_directory(text: TokenizedCorpus) -> Path:
    """Return the folder for whatever is counted of a text."""
    return text.cache / "counts" / text.digest


def kept(text: TokenizedCorpus, name: str, what: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `make` returns, which is kept as JSON once it has been made.

    Args:
        what: is being done meanwhile.

    Raises:
        DataError: what is kept is damaged.
    """
    path = counts_directory(text) / name
    make_once(path, path, what, lambda: write_text(path, json.dumps(make(), indent=2) + "\n"))
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"the cache entry {path} is damaged ({error}): delete that file") from error
    if not isinstance(content, dict):
        raise DataError(f"the cache entry {path} is damaged: delete that file")
    return content


def stream(split: Split, vocab_size: int, limit: int | None = None) -> Stream:
    """Return the tokens of a split for counting, as `molino.models.counting.stream_of`."""
    return stream_of(split.tokens, split.marks, vocab_size, limit)


def longest_order(train: Split) -> int:
    """Return how long n-grams are tried: a token of characters says less than one of words."""
    return LONGEST_OF_CHARACTERS if train.characters <= len(train.tokens) else LONGEST_OF_WORDS


def best_order(text: TokenizedCorpus) -> int:
    """Return the order with the lowest loss on the last tenth of the training split, counted on the rest."""

    def make() -> dict[str, Any]:
        train, V = text.splits["train"], text.tokenizer.size
        whole = stream(train, V, LIMIT)
        rest = len(whole.tokens) - max(len(whole.tokens) // 10, 1)
        first = stream_of(whole.tokens, whole.marks, V, rest)
        # The tenth begins with a token that is read and not predicted.
        last = stream_of(whole.tokens[rest - 1 :], np.clip(whole.marks - rest + 1, 0, None), V)
        found = losses(count(first, V, longest_order(train)), last)
        return {"order": min(found, key=found.__getitem__), "losses": found}

    return kept(text, "order.json", "counting n-grams", make)["order"]


def count_whole(text: TokenizedCorpus, order: int) -> Path:
    """Return the file with the tables of the whole training split."""
    path = counts_directory(text) / f"{order}.safetensors"

    def make() -> None:
        ngrams = _count(text, order)
        _write(path, make_tables(ngrams, [np.bincount(ngrams.gram_P)]).tensors())

    make_once(path, path, f"counting n-grams of up to {order} tokens", make)
    return path


def count_parts(text: TokenizedCorpus, order: int) -> tuple[Tables, np.ndarray]:
    """Return what training looks up: tables of the training split less each of its parts, and the contexts_N after each
    of its tokens, in the table that does not know its part. Of the last there is nothing to predict; it has 0."""
    path = counts_directory(text) / f"{order}-parts.safetensors"

    def make() -> None:
        ngrams = _count(text, order)
        places = len(ngrams.gram_P)
        bounds = np.linspace(0, places, PARTS + 1).astype(int)
        whole_G = np.bincount(ngrams.gram_P)
        shares = (
            whole_G - np.bincount(ngrams.gram_P[begin:end], minlength=len(whole_G))
            for begin, end in itertools.pairwise(bounds)
        )
        tables = make_tables(ngrams, shares, PARTS)
        part_P = np.repeat(np.arange(PARTS), np.diff(bounds))
        contexts_N = np.append(part_P * tables.contexts + tables.first[-1] + ngrams.context_P, 0)
        _write(path, {**tables.tensors(), "contexts_N": torch.from_numpy(contexts_N)})

    make_once(path, path, "counting n-grams of all but one tenth", make)
    tensors = _read(path)
    contexts_N = tensors.pop("contexts_N", torch.zeros(0))
    return _tables(tensors, path), contexts_N.numpy()


def load_tables(path: Path) -> Tables:
    """Load tables of a whole training split.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    return _tables(_read(path), path)


def digest_of_counts(path: Path) -> str:
    """Return what tells these counts from others."""
    return sha256_file(path)[:32]


def _count(text: TokenizedCorpus, order: int) -> Ngrams:
    train, V = text.splits["train"], text.tokenizer.size
    if len(train.tokens) <= order:
        raise DataError(
            f"the train split has {len(train.tokens)} tokens: n-grams of {order} need more text, or a lower order"
        )
    return count(stream(train, V), V, order)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    with atomic_write(path, HINT) as file:
        file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is damaged ({error}): delete that file") from error


def _tables(tensors: dict[str, Tensor], path: Path) -> Tables:
    try:
        return checked_tables(tensors)
    except DataError as error:
        raise DataError(f"{path} is damaged ({error}): delete that file") from error
