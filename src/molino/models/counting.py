"""N-grams of a token stream: which contexts it has, what follows each, and how often.

A context of k tokens is a number of its own, that of the k - 1 tokens nearest to what it predicts and of one token
farther away; an n-gram is a context and the token after it. All are told apart by sorting, whatever the size of the
vocabulary, so that no table of V x V is needed. Before a text stands a token that no vocabulary has, V.

Shapes: N tokens of a stream, P predicted tokens (N - 1), C contexts of a length, G n-grams of a length, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from molino.base.errors import DataError

LONGEST = 16  # beyond it hardly an n-gram occurs twice
MANY = 1 << 16  # numbers that are looked up faster once they are sorted
BEFORE = LONGEST - 2  # tokens before a window that are in the context of the second of its tokens


class Level(NamedTuple):
    """The contexts of one length, and the n-grams that are one token longer; both in rising order.

    Attributes:
        key_C: number of the context less its farthest token * (V + 1) + that token. Of length 0 there is one, 0.
        context_G, token_G: of each n-gram.
        lower_G: the n-gram less its farthest token, among those of the level below.
    """

    key_C: np.ndarray
    context_G: np.ndarray
    token_G: np.ndarray
    lower_G: np.ndarray


@dataclass(frozen=True)
class Ngrams:
    """The n-grams of a stream, up to `order` tokens long.

    Attributes:
        levels: of contexts of 0, 1, ..., order - 1 tokens.
        context_P, gram_P: which longest context and n-gram each predicted token has.
    """

    vocab_size: int
    levels: list[Level]
    context_P: np.ndarray
    gram_P: np.ndarray

    @property
    def order(self) -> int:
        return len(self.levels)


class Stream(NamedTuple):
    """Tokens, and where documents begin anew.

    Attributes:
        tokens: 1-D integers, memory-mapped or not.
        marks: positions that bound the documents, as those of a molino.data.tokens.Split.
    """

    tokens: np.ndarray
    marks: np.ndarray

    def digits(self, vocab_size: int) -> Callable[[int], np.ndarray]:
        """Return what gives, for each predicted token, the token `back` places before it, V where a text has begun."""
        tokens_N = np.asarray(self.tokens)
        lengths = np.diff(self.marks)
        place_P = np.arange(1, len(tokens_N)) - np.repeat(self.marks[:-1], lengths)

        def digit(back: int) -> np.ndarray:
            digit_P = np.full(len(place_P), vocab_size, np.int64)
            digit_P[back - 1 :] = tokens_N[: max(len(tokens_N) - back, 0)]
            digit_P[place_P < back] = vocab_size
            return digit_P

        return digit


def stream_of(tokens: np.ndarray, marks: np.ndarray, vocab_size: int, limit: int | None = None) -> Stream:
    """Return a stream that has been checked, of its first `limit` tokens.

    Raises:
        DataError: it has fewer than two tokens, or an id outside the vocabulary.
    """
    tokens = tokens[:limit]
    marks = np.append(marks[marks < len(tokens) - 1], max(len(tokens) - 1, 0))
    if len(tokens) < 2:
        raise DataError(f"a split of {len(tokens)} tokens has nothing to predict; counts need two tokens or more")
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        raise DataError(
            f"a split holds ids outside the vocabulary of {vocab_size}; tokenize it with the run's tokenizer"
        )
    return Stream(tokens, marks)


def count(stream: Stream, vocab_size: int, order: int) -> Ngrams:
    """Find the n-grams of a stream, up to `order` tokens long."""
    keys, context_P = _contexts(stream.digits(vocab_size), len(stream.tokens) - 1, vocab_size + 1, order - 1)
    codes, gram_P = np.unique(context_P * vocab_size + stream.tokens[1:], return_inverse=True)
    levels: list[Level] = []
    for key_C in reversed(keys):
        context_G, token_G = np.divmod(codes, vocab_size)
        lower_G = np.zeros(0, np.int32)
        if len(levels) + 1 < len(keys):
            shorter_C = key_C // (vocab_size + 1)
            codes, lower_G = np.unique(shorter_C[context_G] * vocab_size + token_G, return_inverse=True)
        small = (array.astype(np.int32) for array in (context_G, token_G, lower_G))
        levels.append(Level(key_C, *small))
    return Ngrams(vocab_size, levels[::-1], context_P.astype(np.int32), gram_P.astype(np.int32))


def find_contexts(ngrams: Ngrams, digit: Callable[[int], np.ndarray], count: int) -> list[np.ndarray]:
    """Return the numbers of the contexts of `count` places, of each length from 0; -1 where one was never counted."""
    found = [np.zeros(count, np.int64)]
    for back, level in enumerate(ngrams.levels[1:], start=1):
        shorter = found[-1]
        key = shorter * (ngrams.vocab_size + 1) + digit(back)
        found.append(np.where(shorter >= 0, find(level.key_C, key), -1))
    return found


def find(rising: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the place of each wanted number in a rising array; -1 where it is not there."""
    if len(wanted) > MANY:
        # In rising order what is compared is near what has just been compared.
        order = np.argsort(wanted)
        place = np.empty_like(order)
        place[order] = np.searchsorted(rising, wanted[order])
    else:
        place = np.searchsorted(rising, wanted)
    place[place == len(rising)] = 0
    return np.where(rising[place] == wanted, place, -1)


def _contexts(
    digit: Callable[[int], np.ndarray], count: int, base: int, longest: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """Number the contexts of each length from 0 to `longest`: the keys of each, and which is the longest of each place.

    As many digits as fit into 64 bits are sorted at once.
    """
    keys, number_P, back = [np.zeros(1, np.int64)], np.zeros(count, np.int64), 1
    while back <= longest:
        taken = 1
        while back + taken <= longest and len(keys[-1]) * base ** (taken + 1) < 2**63:
            taken += 1
        for further in range(taken):
            number_P = number_P * base + digit(back + further)
        distinct, number_P = np.unique(number_P, return_inverse=True)
        for further in reversed(range(taken)):
            prefix = distinct // base**further
            starts = np.diff(prefix, prepend=-1) > 0
            prefix = prefix[starts]
            # What is left without its last digit is the number of a context of the level below only where nothing
            # else was taken at once; its rank among its kind always is.
            rank = np.cumsum(np.diff(prefix // base, prepend=-1) > 0) - 1
            keys.append(rank * base + prefix % base)
        back += taken
    return keys, number_P
