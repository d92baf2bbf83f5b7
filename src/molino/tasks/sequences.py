"""Examples as sequences of tokens (Radford et al. 2018, section 3.3), and batches of near-equal lengths.

    <start> text <extract>                       one text
    <start> text <delimiter> pair <extract>      two; where their order says nothing, also the other way round
    <start> text <delimiter> choice <extract>    for each choice on its own

Shapes: N examples, P texts of each, K sequences of each, T time (tokens), R examples that are asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from molino.base.errors import ConfigError, DataError
from molino.data.batches import EVALUATION_LOGITS, EVALUATION_TOKENS
from molino.data.tokenizers import Tokenizer
from molino.data.tokens import Split
from molino.models import IGNORE_INDEX

START, DELIMITER, EXTRACT = "<start>", "<delimiter>", "<extract>"


class Marks(NamedTuple):
    """Ids that stand before a sequence, between two texts, behind it, and in place of nothing."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    behind: tuple[int, ...]
    padding: int


def marks_of(tokenizer: Tokenizer, pooling: str) -> Marks:
    """Return the marks of a tokenizer that has the tokens of a task. The last token of a text is to be the text's own
    where that is what the head reads: then there are none around it."""
    start, delimiter, extract = map(tokenizer.backend.token_to_id, (START, DELIMITER, EXTRACT))
    padding = 0 if tokenizer.padding_id is None else tokenizer.padding_id
    if pooling == "last":
        return Marks(tokenizer.prefix(), (delimiter,), (), padding)
    return Marks((start,), (delimiter,), (extract,), padding)


def marks_of_pairs(tokenizer: Tokenizer) -> Marks:
    """Return the marks around and between two texts: those of the tasks here, or of a tokenizer that does not have them
    those of its own template, such as BERT's [CLS] and [SEP].

    Raises:
        ConfigError: it has neither, or more than one in a place.
    """
    if tokenizer.backend.token_to_id(START) is not None:
        return marks_of(tokenizer, "extract")
    marks = Marks(*tokenizer.frame_of_pairs(), 0 if tokenizer.padding_id is None else tokenizer.padding_id)
    if [len(each) for each in marks[:3]] != [1, 1, 1]:
        raise ConfigError("this tokenizer does not put one token before, between and behind two texts, as BERT's does")
    return marks


@dataclass(frozen=True)
class Layout:
    """How the texts of an example make sequences.

    Attributes:
        sequences: of each sequence the numbers of its texts, one or two.
        symmetric: of two texts the longer one is cut where both are too long; else the first, and the second only
            where it alone is too long.
    """

    sequences: tuple[tuple[int, ...], ...]
    symmetric: bool = False


ONE = Layout(((0,),))
TWO = Layout(((0, 1),))
BOTH_ORDERS = Layout(((0, 1), (1, 0)), symmetric=True)


def choices(count: int) -> Layout:
    """Return the layout of a question with so many answers."""
    return Layout(tuple((0, number) for number in range(1, count + 1)))


class Sequences:
    """Examples, laid out and cut to a context.

    Args:
        tokens: those of all texts, flat.
        bounds_NP2: where each text begins and ends.
        block_size: the longest sequence.

    Attributes:
        lengths_NK: tokens of each sequence.
        cut_N: whether something of an example was cut.

    Raises:
        ConfigError: the context has no room for the marks.
    """

    def __init__(self, tokens: np.ndarray, bounds_NP2: np.ndarray, layout: Layout, marks: Marks, block_size: int):
        self.tokens, self.layout, self.marks = tokens, layout, marks
        self.starts_NP = bounds_NP2[..., 0]
        self.pieces = len(layout.sequences[0])
        around = len(marks.before) + len(marks.behind) + len(marks.between) * (self.pieces - 1)
        if block_size <= around:
            raise ConfigError(f"data.block_size={block_size} has no room for a text beside {around} marks: raise it")
        order = np.array(layout.sequences)
        whole_NKQ = np.diff(bounds_NP2, axis=-1)[..., 0][:, order]
        self.sizes_NKQ = _cut(whole_NKQ, block_size - around, layout.symmetric)
        self.cut_N = (self.sizes_NKQ < whole_NKQ).any(axis=(1, 2))
        # A sequence is never empty: what would be holds a token of padding.
        self.lengths_NK = np.maximum(self.sizes_NKQ.sum(axis=2) + around, 1)

    def __len__(self) -> int:
        return len(self.starts_NP)

    def take(self, numbers_R: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the sequences of some examples, (R, K, T) filled up with padding, their lengths (R, K), and where the
        second text of each begins (R, K): behind all, where there is none."""
        lengths_RK = seconds_RK = self.lengths_NK[numbers_R]
        R, K = lengths_RK.shape
        found = np.full((R, K, int(lengths_RK.max())), self.marks.padding, dtype=np.int64)
        places_T = np.arange(found.shape[2])
        at_RK1 = np.zeros((R, K, 1), dtype=np.int64)

        def put(ids: tuple[int, ...]) -> None:
            nonlocal at_RK1
            for id in ids:
                np.put_along_axis(found, at_RK1, id, axis=2)
                at_RK1 = at_RK1 + 1

        put(self.marks.before)
        order_KQ = np.array(self.layout.sequences)
        for piece in range(self.pieces):
            if piece:
                put(self.marks.between)
                seconds_RK = at_RK1[..., 0]
            starts_RK1 = self.starts_NP[numbers_R][:, order_KQ[:, piece], None]
            sizes_RK1 = self.sizes_NKQ[numbers_R, :, piece, None]
            offsets_RKT = places_T - at_RK1
            inside = (offsets_RKT >= 0) & (offsets_RKT < sizes_RK1)
            found[inside] = self.tokens[(starts_RK1 + offsets_RKT)[inside]]
            at_RK1 = at_RK1 + sizes_RK1
        put(self.marks.behind)
        return found, lengths_RK, seconds_RK


def sequences_asked(
    tokenizer: Tokenizer, texts: list[tuple[str, ...]], layout: Layout, pooling: str, block_size: int
) -> Sequences:
    """Return examples that somebody asks about, given the texts of each."""
    ids = [[tokenizer.encode(text) for text in each] for each in texts]
    flat = np.concatenate([np.empty(0, np.int64), *(one for each in ids for one in each)])
    ends = np.cumsum([len(one) for each in ids for one in each])
    bounds = np.stack([np.append(0, ends[:-1]), ends], axis=1).reshape(len(ids), -1, 2)
    return Sequences(flat, bounds, layout, marks_of(tokenizer, pooling), block_size)


def sequences_of(split: Split, texts: int, layout: Layout, marks: Marks, block_size: int) -> Sequences:
    """Return the examples of a split of which each has so many texts."""
    return Sequences(split.tokens, split.bounds.reshape(-1, texts, 2), layout, marks, block_size)


def next_tokens(tokens_RKT: np.ndarray, lengths_RK: np.ndarray) -> np.ndarray:
    """Return what the language model is to foretell: the token after each, IGNORE_INDEX from the last one on."""
    targets = np.roll(tokens_RKT, -1, axis=-1)
    return np.where(np.arange(tokens_RKT.shape[-1]) < lengths_RK[..., None] - 1, targets, IGNORE_INDEX)


class ExampleBatches:
    """A split in batches of examples, sorted by length; of several processes each has its share of the examples.

    Yields tokens_BKT, ends_BK, seconds_BK, numbers_B and further fields; targets_BKT where a language model is measured
    as well.

    Args:
        numbers_N: which examples of the split.
        fields: further values of all examples of the split, by name.
    """

    def __init__(
        self,
        sequences: Sequences,
        numbers_N: np.ndarray,
        fields: dict[str, np.ndarray],
        vocab_size: int | None,
        rank: int = 0,
        world_size: int = 1,
    ):
        if len(numbers_N) < world_size:
            raise DataError(f"{len(numbers_N)} examples are too few for {world_size} processes")
        longest_N = sequences.lengths_NK.max(axis=1)
        ordered = numbers_N[np.argsort(longest_N[numbers_N], kind="stable")]
        self.sequences, self.fields, self.language = sequences, fields, vocab_size is not None
        room = EVALUATION_TOKENS if vocab_size is None else min(EVALUATION_LOGITS // vocab_size, EVALUATION_TOKENS)
        mine = ordered[rank::world_size]
        tokens_N = longest_N[mine] * sequences.lengths_NK.shape[1]
        self.batches = [mine[begin:end] for begin, end in filled(tokens_N, room)]
        self.count, self.cut = len(numbers_N), int(sequences.cut_N[numbers_N].sum())

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for numbers in self.batches:
            tokens, lengths, seconds = self.sequences.take(numbers)
            found = {"tokens": tokens, "ends": lengths - 1, "seconds": seconds, "numbers": numbers}
            if self.language:
                found["targets"] = next_tokens(tokens, lengths)
            found |= {name: values[numbers] for name, values in self.fields.items()}
            yield {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}

    def describe(self) -> dict[str, str]:
        longest = int(self.sequences.lengths_NK.max())
        cut = f", {self.cut:,} of them cut" if self.cut else ""
        return {"examples": f"{self.count:,} of up to {longest} tokens{cut}"}


def filled(tokens_N: np.ndarray, room: int) -> Iterator[tuple[int, int]]:
    """Yield where batches of examples begin and end, which come in the order of their lengths, so that each has so many
    tokens at most."""
    begin = 0
    for end in range(1, len(tokens_N) + 1):
        if end == len(tokens_N) or (end + 1 - begin) * tokens_N[end] > room:
            yield begin, end
            begin = end


def _cut(sizes_NKQ: np.ndarray, room: int, symmetric: bool) -> np.ndarray:
    """Return how many tokens of each text of a sequence are kept, so that all fit into so much room."""
    if sizes_NKQ.shape[2] == 1:
        return np.minimum(sizes_NKQ, room)
    first_NK, second_NK = sizes_NKQ[..., 0], sizes_NKQ[..., 1]
    if not symmetric:
        second_NK = np.minimum(second_NK, room)
        return np.stack([np.minimum(first_NK, room - second_NK), second_NK], axis=2)
    # Of two that are too long each gets half; what a short one leaves the other may have.
    half = room // 2
    first = np.minimum(first_NK, np.maximum(room - second_NK, half))
    return np.stack([first, np.minimum(second_NK, room - first)], axis=2)
