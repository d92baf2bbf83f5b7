"""Texts with parts that are hidden, and what is to be written about them.

    Thank you <extra_id_0> me to your party <extra_id_1> week .      spans: what is read, and below what is written
    <extra_id_0> for inviting <extra_id_1> last                      (Raffel et al. 2020)

    Thank you <mask> me to your <mask> party week .                  infill: the whole text is written
    Thank you for inviting me to your party last week .              (Lewis et al. 2020)

Everything is computed for many texts at once, and is a pure function of a seed and of a number that each text has.

Shapes: R texts, T time (tokens), K spans, G gaps between the tokens that stay.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from molino.data.batches import random_integers
from molino.models import IGNORE_INDEX

SPANS, INFILL = "spans", "infill"
# Streams of random numbers: how long spans are, and where they stand.
LENGTHS, GAPS = 19, 20
APART = 2**20  # numbers that each text has of a stream
EVENLY = 2**53  # as many as float64 has in [0, 1)
ROWS = 128  # texts at a time: what is computed of them stays near a processor's core, which takes half of the time
TAIL = 1e-12  # probability of the spans beyond the longest


class Marks(NamedTuple):
    """Ids of what stands before a target, behind a text, in place of nothing, and in place of each span in turn."""

    start: int
    end: int
    padding: int
    hidden: np.ndarray


class Noised(NamedTuple):
    """Texts as pairs: source_RS, seen_RS (false where a source has ended), tokens_RT, and targets_RT, which are
    IGNORE_INDEX behind the end."""

    source: np.ndarray
    seen: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Noise:
    """How much is hidden, and how.

    Attributes:
        kind: `spans` or `infill`.
        share: of the tokens, up to a half.
        mean: tokens of a span, on average: of a fixed number of spans with evenly drawn borders (`spans`), or of
            lengths by Poisson's law, where a span of no tokens is a mark too many (`infill`).
    """

    kind: str
    share: float
    mean: float

    def hidden(self, sizes_R: np.ndarray) -> np.ndarray:
        """Return how many tokens of texts of these sizes are hidden: one at least, where there is one."""
        return np.round(sizes_R * self.share).astype(np.int64).clip(min=np.minimum(sizes_R, 1))

    def spans(self, sizes_R: np.ndarray) -> np.ndarray:
        """Return in how many spans, where they are of a fixed number: no more than there are tokens that stay, so that
        no target is longer than its text."""
        hidden_R = self.hidden(sizes_R)
        most_R = np.minimum(hidden_R, sizes_R - hidden_R)
        return np.round(hidden_R / self.mean).astype(np.int64).clip(max=most_R).clip(min=np.minimum(hidden_R, 1))

    def widths(self, longest: int) -> tuple[int, int]:
        """Return how long sources and targets of texts of up to so many tokens can be, their ends included."""
        if self.kind == INFILL:
            return longest + 1, longest + 1
        sizes = np.arange(longest + 1)
        hidden, spans = self.hidden(sizes), self.spans(sizes)
        return int((sizes - hidden + spans).max()) + 1, int((hidden + spans).max()) + 1

    def __call__(
        self, tokens_RT: np.ndarray, sizes_R: np.ndarray, numbers_R: np.ndarray, seed: int, marks: Marks
    ) -> Noised:
        """Return what is read of texts, and what is to be written about them.

        Args:
            tokens_RT: those of each text, the first of its row.
            numbers_R: numbers of the texts: of equal ones of one size the same is hidden.
        """
        few = (slice(at, at + ROWS) for at in range(0, len(tokens_RT), ROWS))
        parts = [self._few(tokens_RT[some], sizes_R[some], numbers_R[some], seed, marks) for some in few]
        return Noised(*map(np.concatenate, zip(*parts, strict=True)))

    def _few(
        self, tokens_RT: np.ndarray, sizes_R: np.ndarray, numbers_R: np.ndarray, seed: int, marks: Marks
    ) -> Noised:
        drawn = self._fixed if self.kind == SPANS else self._poisson
        lengths_RK = drawn(sizes_R, numbers_R, seed)
        gaps_R = sizes_R - self.hidden(sizes_R) + 1
        gaps = tokens_RT.shape[1] + 1
        order_RG = _drawn(gaps_R, min(lengths_RK.shape[1], gaps), gaps, numbers_R, seed, GAPS)
        # The spans that there are stand in gaps of their own, in any order.
        rank_RK = (np.cumsum(lengths_RK >= 0, axis=1) - 1).clip(min=0)
        gaps_RK = np.take_along_axis(order_RG, rank_RK, axis=1)
        hidden_RG = _scattered(gaps, gaps_RK, lengths_RK, lengths_RK >= 0, -1)
        return self._write(tokens_RT, sizes_R, hidden_RG, marks)

    def _fixed(self, sizes_R: np.ndarray, numbers_R: np.ndarray, seed: int) -> np.ndarray:
        """Return lengths_RK of spans, each of one token at least, -1 where there are fewer: all are equally likely."""
        hidden_R1, spans_R1 = self.hidden(sizes_R)[:, None], self.spans(sizes_R)[:, None]
        number_K = np.arange(max(int(spans_R1.max(initial=1)), 1))
        # Borders between the tokens that are hidden, one less than spans.
        borders = max(int(hidden_R1.max(initial=1)), len(number_K))
        order_RK = _drawn(hidden_R1[:, 0] - 1, len(number_K), borders, numbers_R, seed, LENGTHS)
        borders_RK = np.where(number_K < spans_R1 - 1, order_RK + 1, hidden_R1)
        ends_RK = np.sort(borders_RK, axis=1)
        return np.where(number_K < spans_R1, np.diff(ends_RK, axis=1, prepend=0), -1)

    def _poisson(self, sizes_R: np.ndarray, numbers_R: np.ndarray, seed: int) -> np.ndarray:
        """Return lengths_RK of spans, drawn until enough is hidden, the last one cut to that; -1 where there is none.

        A source is no longer than its text: of a short one that would be, spans of no tokens are left out.
        """
        hidden_R1 = self.hidden(sizes_R)[:, None]
        # So many that hardly ever too little is hidden by all; then the last one is as long as is needed.
        number_K = np.arange(int(np.ceil(3 * hidden_R1.max(initial=1) / self.mean)) + 16)
        chance_RK = random_integers(seed, LENGTHS, numbers_R[:, None] * APART + number_K, EVENLY) / EVENLY
        lengths_RK = np.searchsorted(_poisson_sums(self.mean), chance_RK, side="right")
        before_RK = np.cumsum(lengths_RK, axis=1) - lengths_RK
        left_RK = hidden_R1 - before_RK
        lengths_RK = np.where(number_K == number_K[-1], left_RK, np.minimum(lengths_RK, left_RK))
        needed_RK = left_RK > 0
        empty_RK = needed_RK & (lengths_RK == 0)
        room_R1 = hidden_R1 - (needed_RK & ~empty_RK).sum(axis=1, keepdims=True)
        needed_RK &= ~empty_RK | (np.cumsum(empty_RK, axis=1) <= room_R1)
        return np.where(needed_RK, lengths_RK, -1)

    def _write(self, tokens_RT: np.ndarray, sizes_R: np.ndarray, hidden_RG: np.ndarray, marks: Marks) -> Noised:
        """Return texts as pairs.

        Args:
            hidden_RG: how many tokens are hidden in the gap before each token that stays, and in the last one; -1 where
                there is no span.
        """
        T, G = tokens_RT.shape[1], hidden_RG.shape[1]
        place_T, gap_G = np.arange(T), np.arange(G)
        there_RG = hidden_RG >= 0
        length_RG = hidden_RG.clip(min=0)
        spans_RG, hidden_sum_RG = np.cumsum(there_RG, axis=1), np.cumsum(length_RG, axis=1)
        earlier_RG, hidden_earlier_RG = spans_RG - there_RG, hidden_sum_RG - length_RG
        counts_R1, spans_R1, sizes_R1 = hidden_sum_RG[:, -1:], spans_RG[:, -1:], sizes_R[:, None]
        stay_R1 = sizes_R1 - counts_R1

        # Which tokens are hidden: they begin and end where spans do.
        begins_RG, full_RG = gap_G + hidden_earlier_RG, length_RG > 0
        edges_RT = _scattered(T + 1, begins_RG, 1, full_RG, 0) - _scattered(T + 1, begins_RG + length_RG, 1, full_RG, 0)
        is_hidden_RT = np.cumsum(edges_RT, axis=1)[:, :T] > 0
        # Those that stay, then the hidden ones, then padding, each in its order.
        sorts_RT = np.where(place_T < sizes_R1, is_hidden_RT, 2).astype(np.int8)  # which numpy sorts fastest
        sorted_RT = np.take_along_axis(tokens_RT, np.argsort(sorts_RT, axis=1, kind="stable"), axis=1)

        read, written = self.widths(T)
        marks_RG = marks.hidden[earlier_RG.clip(max=len(marks.hidden) - 1)]
        source_RS = np.full((len(tokens_RT), read), marks.padding, dtype=np.int64)
        _put(source_RS, place_T + spans_RG[:, :T], sorted_RT, place_T < stay_R1)
        _put(source_RS, gap_G + earlier_RG, marks_RG, there_RG)
        _put(source_RS, stay_R1 + spans_R1, marks.end, np.True_)

        targets_RT = np.full((len(tokens_RT), written), IGNORE_INDEX, dtype=np.int64)
        if self.kind == INFILL:
            _put(targets_RT, place_T, tokens_RT, place_T < sizes_R1)
            _put(targets_RT, sizes_R1, marks.end, np.True_)
        else:
            hidden_RT = np.take_along_axis(sorted_RT, (stay_R1 + place_T).clip(max=T - 1), axis=1)
            # Of each hidden token, how many spans have begun.
            begun_RT = np.cumsum(_scattered(T + 1, hidden_earlier_RG, 1, full_RG, 0), axis=1)[:, :T]
            _put(targets_RT, place_T + begun_RT, hidden_RT, place_T < counts_R1)
            _put(targets_RT, hidden_earlier_RG + earlier_RG, marks_RG, there_RG)
            _put(targets_RT, counts_R1 + spans_R1, marks.end, np.True_)
        before_RT = np.where(targets_RT == IGNORE_INDEX, marks.padding, targets_RT)[:, :-1]
        tokens_RT = np.concatenate([np.full((len(targets_RT), 1), marks.start), before_RT], axis=1)
        return Noised(source_RS, np.arange(read) <= stay_R1 + spans_R1, tokens_RT, targets_RT)


def _drawn(counts_R: np.ndarray, few: int, width: int, numbers_R: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """Return some of the numbers below a count of each row, no more than `width`, in a drawn order: (R, few), behind
    them whatever there is."""
    number = np.arange(width)
    keys = random_integers(seed, stream, numbers_R[:, None] * APART + number, EVENLY)
    keys = np.where(number < counts_R[:, None], keys, EVENLY)
    chosen = np.argpartition(keys, few - 1, axis=1)[:, :few]
    return np.take_along_axis(chosen, np.argsort(np.take_along_axis(keys, chosen, axis=1), axis=1), axis=1)


def _scattered(
    width: int, places_RK: np.ndarray, values_RK: np.ndarray | int, there_RK: np.ndarray, empty: int
) -> np.ndarray:
    """Return an array (R, width) with values at their places, where they are there."""
    found = np.full((len(places_RK), width), empty, dtype=np.int64)
    _put(found, places_RK, values_RK, there_RK)
    return found


def _put(array_RT: np.ndarray, places_RK: np.ndarray, values_RK: np.ndarray | int, there_RK: np.ndarray) -> None:
    """Put values to their places in an array, where they are there."""
    rows_RK, places_RK, values_RK, there_RK = np.broadcast_arrays(
        np.arange(len(array_RT))[:, None], places_RK, values_RK, there_RK
    )
    array_RT[rows_RK[there_RK], places_RK[there_RK]] = values_RK[there_RK]


def _poisson_sums(mean: float) -> np.ndarray:
    """Return the probabilities of a length of up to 0, 1, 2, ... by Poisson's law, as long as more are likely."""
    term, sums, length = np.exp(-mean), [], 0
    total = term
    while 1 - total > TAIL:
        sums.append(total)
        length += 1
        term *= mean / length
        total += term
    return np.array(sums)
