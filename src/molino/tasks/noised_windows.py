"""A split in windows of which parts are hidden, always the same ones, and what is told by how frequent tokens are.

Shapes: N windows, R of them side by side, T time (tokens), V vocabulary.
"""

import bisect
import copy
from collections.abc import Iterator

import numpy as np
import torch

from molino.base.errors import DataError
from molino.data.batches import EVALUATION_LOGITS, EVALUATION_TOKENS
from molino.data.tokens import Split
from molino.models import IGNORE_INDEX
from molino.runs.measures import Floor
from molino.tasks.figures import perplexity
from molino.tasks.masked_language_model import HELD_OUT_SEED
from molino.tasks.noise import Marks, Noise, Noised


class Windows:
    """The texts of a split, without marks of where they end, in windows that do not overlap.

    Args:
        longest: tokens of a window at most; the last one of a text has what is left.
    """

    def __init__(self, split: Split, longest: int):
        self.tokens, self.longest = split.tokens, longest
        starts_N, ends_N = split.bounds.T
        count_N = -(-(ends_N - starts_N) // longest)
        within_N = np.arange(int(count_N.sum())) - np.repeat(np.cumsum(count_N) - count_N, count_N)
        self.begins_N = np.repeat(starts_N, count_N) + within_N * longest
        self.sizes_N = np.minimum(np.repeat(ends_N, count_N) - self.begins_N, longest)

    def __len__(self) -> int:
        return len(self.begins_N)

    def take(self, numbers_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of windows (R, T), and where there are some."""
        inside_RT = np.arange(self.longest) < self.sizes_N[numbers_R, None]
        places_RT = np.where(inside_RT, self.begins_N[numbers_R, None] + np.arange(self.longest), 0)
        return self.tokens[places_RT].astype(np.int64), inside_RT

    def noised(self, numbers_R: np.ndarray, noise: Noise, marks: Marks) -> Noised:
        """Return windows as pairs, by noise that follows from where they stand in the split."""
        tokens_RT, _ = self.take(numbers_R)
        return noise(tokens_RT, self.sizes_N[numbers_R], self.begins_N[numbers_R], HELD_OUT_SEED, marks)


class NoisedWindows:
    """A split as pairs of what is read and what is to be written, in batches.

    Yields source_BS, seen_BS, tokens_BT and targets_BT. Of `world_size` processes each gets every world_size-th window.
    """

    def __init__(
        self, windows: Windows, noise: Noise, marks: Marks, vocab_size: int, rank: int = 0, world_size: int = 1
    ):
        if len(windows) < world_size:
            raise DataError(f"{len(windows)} windows are too few for {world_size} processes")
        self.windows, self.noise, self.marks = windows, noise, marks
        room = min(EVALUATION_LOGITS // vocab_size, EVALUATION_TOKENS)
        self.mine = np.arange(rank, len(windows), world_size)
        self.rows = max(room // (windows.longest + 1), 1)

    def __len__(self) -> int:
        return -(-len(self.mine) // self.rows)

    def first(self, count: int) -> "NoisedWindows | None":
        """Return the first so many windows alone; None where there are no more."""
        part = copy.copy(self)
        part.mine = self.mine[: bisect.bisect_left(self.mine, count)]
        return None if len(part.mine) == len(self.mine) else part

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for at in range(0, len(self.mine), self.rows):
            noised = self.windows.noised(self.mine[at : at + self.rows], self.noise, self.marks)
            # No longer than the longest one.
            read = int(noised.seen.sum(axis=1).max())
            written = int((noised.targets != IGNORE_INDEX).sum(axis=1).max())
            lengths = {"source": read, "seen": read, "tokens": written, "targets": written}
            found = {name: array[:, : lengths[name]] for name, array in noised._asdict().items()}
            yield {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}

    def describe(self) -> dict[str, str]:
        share = int(self.noise.hidden(self.windows.sizes_N).sum()) / int(self.windows.sizes_N.sum())
        return {
            "context": f"{len(self.windows):,} windows of up to {self.windows.longest} tokens that do not overlap",
            "hidden": f"{share:.1%} of the tokens, always the same ones",
        }


def floor_of_noise(train: NoisedWindows, held: NoisedWindows, vocab_size: int) -> Floor:
    """Return what is told by how frequent tokens are in targets: counted in those about the training split, where a
    token that was never seen counts as seen once, and measured on those about another one."""
    count_V, wanted_V = _counted(train, vocab_size), _counted(held, vocab_size)
    log_p_V = np.log((count_V + 1) / (count_V.sum() + vocab_size))
    loss = float(-(wanted_V * log_p_V).sum() / wanted_V.sum())
    accuracy = float(wanted_V[log_p_V.argmax()] / wanted_V.sum())
    levels = {"loss": loss, "perplexity": perplexity(loss), "accuracy": accuracy}
    return Floor("floor/unigram", loss, "unigram floor", "unigram", levels)


def _counted(windows: NoisedWindows, vocab_size: int) -> np.ndarray:
    """Return how often each token stands in the targets about a split, (V,)."""
    count_V = torch.zeros(vocab_size, dtype=torch.int64)
    for batch in windows:
        count_V += torch.bincount(batch["targets"][batch["targets"] != IGNORE_INDEX], minlength=vocab_size)
    return count_V.numpy()
