"""A source and a target as rows of tokens, and a split of them in batches.

    source <end>                what is read
    <start> target              what the next token is told of, the last of which is <end>

Shapes: N examples, R of them side by side, S and T time (tokens of sources and of targets).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from molino.base.errors import ConfigError, DataError
from molino.data.batches import EVALUATION_LOGITS, EVALUATION_TOKENS
from molino.data.tokenizers import PADDING, Tokenizer
from molino.data.tokens import Split
from molino.generation.targets import Vocabulary
from molino.models import IGNORE_INDEX
from molino.tasks.sequences import START, filled


def vocabulary_of(tokenizer: Tokenizer, vocab_size: int | None = None) -> Vocabulary:
    """Return what begins, ends and fills up targets of a tokenizer, and what is never written. A model from elsewhere
    that knows no <start> begins with padding, as Marian and T5 do.

    Args:
        vocab_size: tokens that the model knows; those beyond the tokenizer's are never written.

    Raises:
        ConfigError: it has no token that ends a text, or none for padding.
    """
    start, padding, end = tokenizer.backend.token_to_id(START), tokenizer.padding_id, tokenizer.end_of_text_id
    if end is None or padding is None:
        what = "end a text" if end is None else f"fill up short ones ({PADDING[0]})"
        raise ConfigError(f"the tokenizer has no token to {what}: choose data/tokenizer=bpe, or another that has one")
    start = padding if start is None else start
    never = {start, padding, tokenizer.unknown_id, *range(tokenizer.size, vocab_size or 0)} - {None}
    return Vocabulary(start, end, padding, tuple(sorted(never)))


class Taken(NamedTuple):
    """Some pairs: source_RS, tokens_RT and targets_RT, which are IGNORE_INDEX behind the end, and seen_RS, which is
    false where a source has ended."""

    source: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray
    seen: np.ndarray


class PairsRead:
    """The pairs of a split.

    Args:
        split: its texts are a source and a target by turns.
        block_size: the longest source, which is cut to it, and the longest target.
        name: of the corpus, for messages.

    Attributes:
        sizes_N2: tokens of each source and of each target, their marks included.
        cut_N: which sources are cut.

    Raises:
        DataError: a target is too long.
    """

    def __init__(self, split: Split, block_size: int, tokenizer: Tokenizer, name: str):
        bounds_N22 = split.bounds.reshape(-1, 2, 2)
        whole_N2 = np.diff(bounds_N22, axis=2)[..., 0] + 1
        self.tokens, self.starts_N2 = split.tokens, bounds_N22[..., 0]
        # Of sources, and of targets.
        self.words = vocabulary_of(tokenizer.source), vocabulary_of(tokenizer)
        self.cut_N = whole_N2[:, 0] > block_size
        self.sizes_N2 = whole_N2
        self.sizes_N2[:, 0] = whole_N2[:, 0].clip(max=block_size)
        if len(long := np.flatnonzero(whole_N2[:, 1] > block_size)):
            length = int(whole_N2[long[0], 1])
            raise DataError(
                f"{name}: target {long[0] + 1} of {split.name} has {length} tokens with its end, and data.block_size="
                f"{block_size} is the longest: raise it to {int(whole_N2[:, 1].max())}, or leave such targets out"
            )

    def __len__(self) -> int:
        return len(self.sizes_N2)

    def take(self, numbers_R: np.ndarray) -> Taken:
        """Return some pairs side by side."""
        source_RS, seen_RS = self._side(numbers_R, 0)
        written_RT, there_RT = self._side(numbers_R, 1)
        before_R1 = np.full((len(numbers_R), 1), self.words[1].start)
        tokens_RT = np.concatenate([before_R1, written_RT[:, :-1]], axis=1)
        return Taken(source_RS, tokens_RT, np.where(there_RT, written_RT, IGNORE_INDEX), seen_RS)

    def _side(self, numbers_R: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Return sources or targets with their ends, and where there are tokens."""
        starts_R1, sizes_R1 = self.starts_N2[numbers_R, side, None], self.sizes_N2[numbers_R, side, None]
        places = np.arange(sizes_R1.max(initial=1))
        inside = places < sizes_R1 - 1
        found = np.full(inside.shape, self.words[side].padding, dtype=np.int64)
        found[inside] = self.tokens[(starts_R1 + places)[inside]]
        np.put_along_axis(found, sizes_R1 - 1, self.words[side].end, axis=1)
        return found, places < sizes_R1


class PairBatches:
    """A split in batches of pairs, sorted by length; of several processes each has its share of the pairs.

    Yields source_BS, seen_BS, tokens_BT, targets_BT, numbers_B, and written_B, which tells of which ones the target is
    to be written.

    Args:
        written: how many of the pairs those are, always the same ones.
        facts: what else is told of how the split is measured.
    """

    def __init__(
        self,
        pairs: PairsRead,
        written: int,
        vocab_size: int,
        facts: dict[str, str],
        rank: int = 0,
        world_size: int = 1,
    ):
        if len(pairs) < world_size:
            raise DataError(f"{len(pairs)} pairs are too few for {world_size} processes")
        self.pairs, self.facts = pairs, facts
        self.written_N = np.zeros(len(pairs), bool)
        self.written_N[evenly(len(pairs), written)] = True
        ordered = np.lexsort(pairs.sizes_N2.T)[rank::world_size]
        # Sources may be longer than the targets that batches are sorted by.
        tokens_N = np.maximum.accumulate(pairs.sizes_N2[ordered].max(axis=1))
        room = min(EVALUATION_LOGITS // vocab_size, EVALUATION_TOKENS)
        self.batches = [ordered[begin:end] for begin, end in filled(tokens_N, room)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for numbers in self.batches:
            found = {**self.pairs.take(numbers)._asdict(), "numbers": numbers, "written": self.written_N[numbers]}
            yield {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}

    def describe(self) -> dict[str, str]:
        pairs, longest_2 = self.pairs, self.pairs.sizes_N2.max(axis=0)
        cut = f", {int(pairs.cut_N.sum()):,} of them cut" if pairs.cut_N.any() else ""
        told = f"{len(pairs):,} sources of up to {longest_2[0]} tokens{cut}, targets of up to {longest_2[1]}"
        count = int(self.written_N.sum())
        return {"pairs": told, "written": "all" if count == len(pairs) else f"{count:,} of them", **self.facts}


def evenly(count: int, some: int) -> np.ndarray:
    """Return the numbers of `some` of so many examples, evenly apart and always the same."""
    return np.linspace(0, count - 1, min(some, count)).astype(int)
