"""Which tokens a training step sees, and how held-out text is cut for evaluation.

The batch of step t is a pure function of (seed, t): nothing has to be saved to resume, and nothing depends on how
many steps are drawn at once or how many processes share a batch. A counter-based generator (splitmix64) makes that
cheap: the random numbers of any set of rows are computed at once, without a state.

Shapes: S steps in a block, A micro-batches a step, B rows of this process, T time (tokens).
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch

from molino.base.errors import ConfigError, DataError
from molino.data.tokens import Split
from molino.models import IGNORE_INDEX

# Evaluation batches hold about this many logits (64 MiB in fp32; the loss takes as much again), and at most so many
# tokens.
EVALUATION_LOGITS = 2**24
EVALUATION_TOKENS = 2**14


class Block(NamedTuple):
    """The batches of S consecutive steps.

    `weights[s][a]` is the factor of micro-batch a's mean loss that makes the sum over all micro-batches, averaged
    over processes, the mean over every predicted token of the step.
    """

    inputs_SABT: torch.Tensor
    targets_SABT: torch.Tensor
    weights_SA: list[list[float]]


class Draw(Protocol):
    """Draws rows of training data: row numbers (any shape) -> windows_T1 of T + 1 tokens, and their targets' mask."""

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]: ...


def random_integers(seed: int, stream: int, counters: np.ndarray, high: np.ndarray | int) -> np.ndarray:
    """Return integers in [0, high), a pure function of (seed, stream, counter): splitmix64 (Steele et al. 2014)."""
    increment = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        start = _mix(np.uint64(seed) * increment + np.uint64(stream))
        mixed = _mix(start + (counters.astype(np.uint64) + np.uint64(1)) * increment)
        return (mixed % np.asarray(high, dtype=np.uint64)).astype(np.int64)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def windows(split: Split, block_size: int, seed: int, padding_id: int | None) -> Draw:
    """Draw windows of the token stream, each start equally likely.

    Raises:
        DataError: the split is shorter than one window.
    """
    tokens = split.tokens
    if len(tokens) < block_size + 1:
        raise DataError(
            f"the {split.name} split has {len(tokens)} tokens, but one window needs data.block_size + 1 = "
            f"{block_size + 1}: lower data.block_size or use a longer text"
        )
    view = np.lib.stride_tricks.sliding_window_view(tokens, block_size + 1)

    def draw(rows: np.ndarray) -> tuple[np.ndarray, None]:
        return view[random_integers(seed, 0, rows, len(view))], None

    return draw


def documents(split: Split, block_size: int, seed: int, padding_id: int | None) -> Draw:
    """Draw a random window of each document, every document once an epoch in an order of the epoch's own.

    A document that fits is taken whole, from the <|endoftext|> before it to the one that closes it, and padded.

    Raises:
        ConfigError: the tokenizer has no padding token.
    """
    if padding_id is None:
        raise ConfigError("data.batches=documents pads short documents, but this tokenizer has no padding token")
    starts, ends = split.marks[:-1], split.marks[1:] + 1
    order: dict[int, np.ndarray] = {}

    def epoch_order(epoch: int) -> np.ndarray:
        if epoch not in order:
            order.clear()
            order[epoch] = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(len(starts))
        return order[epoch]

    def draw(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs, places = np.divmod(rows, len(starts))
        chosen = np.empty_like(rows)
        for epoch in np.unique(epochs):
            chosen[epochs == epoch] = epoch_order(int(epoch))[places[epochs == epoch]]
        room = np.maximum(ends[chosen] - starts[chosen] - (block_size + 1), 0)
        first = starts[chosen] + random_integers(seed, 1, rows, room + 1)
        index = first[..., None] + np.arange(block_size + 1)
        inside = index < ends[chosen][..., None]
        tokens = np.where(inside, split.tokens[np.where(inside, index, 0)], padding_id)
        return tokens, inside[..., 1:]

    return draw


BATCHES: dict[str, Callable[..., Draw]] = {"windows": windows, "documents": documents}


def draw_block(
    draw: Draw, steps_S: np.ndarray, accumulate: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> Block:
    """Return the batches of the given steps; process `rank` of `world_size` gets its rows of each.

    Args:
        batch_size: rows of a micro-batch over all processes.
    """
    size = accumulate * batch_size
    rows = (steps_S[:, None] * size + np.arange(size)).reshape(len(steps_S), accumulate, batch_size)
    tokens, mask = draw(rows)
    share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
    mine = torch.from_numpy(tokens[:, :, share].astype(np.int64))
    inputs, targets = mine[..., :-1].contiguous(), mine[..., 1:].contiguous()
    if mask is None:
        return Block(inputs, targets, [[1.0 / accumulate] * accumulate] * len(steps_S))
    # Not in place: inputs and targets of a single row are views of the same numbers.
    targets = targets.masked_fill(~torch.from_numpy(mask[:, :, share]), IGNORE_INDEX)
    counts = mask[:, :, share].sum(axis=(2, 3)) * world_size / mask.sum(axis=(1, 2, 3))[:, None]
    return Block(inputs, targets, counts.tolist())


class TrainingBlocks:
    """The training data as Lightning sees it: a sized iterable of blocks that starts where training stands.

    Every block ends at a multiple of `steps_per_block` (the last at `max_steps`), also after a resume. The first step
    is asked for only when iteration begins, which is after Lightning has restored a checkpoint.
    """

    def __init__(self, block: Callable[[int, int], Block], first_step: Callable[[], int], max_steps: int, steps: int):
        self.block, self.first_step, self.max_steps, self.steps = block, first_step, max_steps, steps

    def __len__(self) -> int:
        return -(-self.max_steps // self.steps)

    def __iter__(self) -> Iterator[Block]:
        step = self.first_step()
        while step < self.max_steps:
            count = min(self.steps - step % self.steps, self.max_steps - step)
            yield self.block(step, count)
            step += count


class EvaluationWindows:
    """A split cut for exact evaluation: every token but each document's first is a target exactly once, in order.

    Windows of `block_size` inputs start every `stride` tokens; a target counts in the first window that holds it. With
    stride = block_size windows do not overlap; a smaller one gives each target at least block_size - stride tokens of
    context (where the document has them). Documents are read apart: no context crosses their borders.

    Yields (inputs_BT, targets_BT) with IGNORE_INDEX where nothing is to be predicted. Of `world_size` processes each
    gets every world_size-th window.
    """

    def __init__(self, split: Split, block_size: int, stride: int, batch_size: int, rank: int = 0, world_size: int = 1):
        if not 1 <= stride <= block_size:
            raise ConfigError(f"stride={stride} must be between 1 and the context of {block_size} tokens")
        starts, ends = split.marks[:-1], split.marks[1:] + 1
        count = np.where(ends - starts > 1, 1 + np.maximum(-(-(ends - starts - 1 - block_size) // stride), 0), 0)
        # Where each document's windows begin and end in the row of all windows. Which document a window is of is looked
        # up when its turn comes: a table of all windows could be larger than the tokens.
        self.window_ends = np.cumsum(count)
        self.window_starts = self.window_ends - count
        self.mine = range(rank, int(self.window_ends[-1]), world_size)
        self.starts, self.ends = starts, ends
        self.tokens, self.block_size, self.stride, self.batch_size = split.tokens, block_size, stride, batch_size

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        offsets = np.arange(self.block_size + 1)
        for at in range(0, len(self.mine), self.batch_size):
            windows = np.array(self.mine[at : at + self.batch_size])
            document = np.searchsorted(self.window_ends, windows, side="right")
            number = windows - self.window_starts[document]
            index = (self.starts[document] + number * self.stride)[:, None] + offsets
            inside = index < self.ends[document][:, None]
            window = torch.from_numpy(self.tokens[np.where(inside, index, 0)].astype(np.int64))
            fresh = np.where(number == 0, 0, self.block_size - self.stride)
            counted = inside[:, 1:] & (offsets[:-1] >= fresh[:, None])
            yield window[:, :-1].contiguous(), window[:, 1:].masked_fill(~torch.from_numpy(counted), IGNORE_INDEX)


def evaluation_windows(
    split: Split, block_size: int, stride: int, vocab_size: int, rank: int = 0, world_size: int = 1
) -> EvaluationWindows:
    """Cut a split for evaluation in batches whose logits fit into memory."""
    tokens = min(EVALUATION_LOGITS // vocab_size, EVALUATION_TOKENS)
    return EvaluationWindows(split, block_size, stride, max(tokens // block_size, 1), rank, world_size)
