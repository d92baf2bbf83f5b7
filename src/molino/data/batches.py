"""Which tokens a training step sees, and how held-out text is cut for evaluation.

The batch of step t is a pure function of (seed, t): nothing has to be saved to resume, and nothing depends on how
many steps are drawn at once or how many processes share a batch. A counter-based generator (splitmix64) makes that
cheap: the random numbers of any set of rows are computed at once, without a state.

Shapes: S steps in a block, A micro-batches a step, B rows of this process, T time (tokens).
"""

import bisect
import copy
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch

from molino.base.errors import ConfigError, DataError
from molino.data.tokens import Split, advice_on_words
from molino.models import IGNORE_INDEX
from molino.models.cache import NOTHING
from molino.models.counting import BEFORE

# Evaluation batches hold about this many logits (64 MiB in fp32; the loss takes as much again), and at most so many
# tokens.
EVALUATION_LOGITS = 2**24
EVALUATION_TOKENS = 2**14


class Rows(NamedTuple):
    """What examples of training data are, as a task makes them of row numbers of any shape: arrays that begin with it.

    Attributes:
        counts: of a part of the loss that is a mean over unequal numbers of things, how many of them each row holds.
    """

    fields: dict[str, np.ndarray]
    counts: dict[str, np.ndarray]


class Draw(NamedTuple):
    """The examples of a training split.

    Attributes:
        rows: a pure function from the numbers of rows to what they are. They come as (steps, micro-batches, rows).
        epoch: how many rows are as much as the whole split.
    """

    rows: Callable[[np.ndarray], Rows]
    epoch: float

    def __call__(self, rows: np.ndarray) -> Rows:
        return self.rows(rows)


class Evaluation(Protocol):
    """A split in batches, dicts of tensors, in order and the same every time; of several processes each has its own.

    `describe()` tells in a table of facts how the split is read. One that is made of windows of text has
    `first(count)`: the first so many of them, or None where there are no more.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]: ...

    def describe(self) -> dict[str, str]: ...


class Step(NamedTuple):
    """A micro-batch: its fields (B, ...), and the weight of each part of its loss."""

    fields: dict[str, torch.Tensor]
    weights: dict[str, float]


class Block(NamedTuple):
    """The batches of S consecutive steps, each field (S, A, B, ...).

    `weights[part][s][a]` is the factor of a part's mean over micro-batch a that makes the sum over all micro-batches,
    averaged over processes, the mean over whatever counts in the step.
    """

    fields: dict[str, torch.Tensor]
    weights: dict[str, list[list[float]]]

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def elements(self, names: Iterable[str]) -> int:
        """Return how many elements these fields have."""
        return sum(self.fields[name].numel() for name in names)

    def steps(self) -> Iterator[list[Step]]:
        """Yield the micro-batches of each step."""
        # All at once: to take a step out of a tensor costs as much as a small operation of a model.
        rows = zip(*(field.flatten(0, 1).unbind(0) for field in self.fields.values()), strict=True)
        for weights in zip(*self.weights.values(), strict=True):
            yield [
                Step(dict(zip(self.fields, next(rows), strict=True)), dict(zip(self.weights, each, strict=True)))
                for each in zip(*weights, strict=True)
            ]


class Windows(NamedTuple):
    """Rows of a token stream.

    Attributes:
        rows: row numbers (any shape) -> windows_T1 of T + 1 tokens, and their targets' mask.
        epoch: how many rows are as much as the whole split.
    """

    rows: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
    epoch: float

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return self.rows(rows)


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


def windows(split: Split, block_size: int, seed: int, padding_id: int | None) -> Windows:
    """Draw windows of the token stream, each start equally likely.

    Raises:
        DataError: the split is shorter than one window.
    """
    tokens = split.tokens
    if len(tokens) < block_size + 1:
        raise DataError(
            f"the {split.name} split has {len(tokens)} tokens, but one window needs data.block_size + 1 = "
            f"{block_size + 1}: lower data.block_size or use a longer text"
            + advice_on_words(split.characters, len(tokens), "; ")
        )
    view = np.lib.stride_tricks.sliding_window_view(tokens, block_size + 1)

    def draw(rows: np.ndarray) -> tuple[np.ndarray, None]:
        return view[random_integers(seed, 0, rows, len(view))], None

    return Windows(draw, len(tokens) / block_size)


def documents(split: Split, block_size: int, seed: int, padding_id: int | None) -> Windows:
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

    return Windows(draw, len(starts))


BATCHES: dict[str, Callable[..., Windows]] = {"windows": windows, "documents": documents}


def draw_block(
    draw: Draw,
    parts: Iterable[str],
    steps_S: np.ndarray,
    accumulate: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
) -> Block:
    """Return the batches of the given steps; process `rank` of `world_size` gets its rows of each.

    Args:
        parts: of the loss. One of which `draw` counts nothing is a mean over rows that all count alike.
        batch_size: rows of a micro-batch over all processes.
    """
    size = accumulate * batch_size
    rows = (steps_S[:, None] * size + np.arange(size)).reshape(len(steps_S), accumulate, batch_size)
    fields, counts_SAB = draw(rows)
    share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
    even = [[1.0 / accumulate] * accumulate] * len(steps_S)
    weights = dict.fromkeys(parts, even)
    for part, count_SAB in counts_SAB.items():
        weights[part] = weights_of(count_SAB.reshape(len(steps_S), accumulate, world_size, -1).sum(axis=3), rank)
    return Block({name: as_tensor(array[:, :, share]) for name, array in fields.items()}, weights)


def weights_of(count_SAW: np.ndarray, rank: int) -> list[list[float]]:
    """Return the factors of a part's means of one process; see `Block`.

    Args:
        count_SAW: how many things count in the share of each process of each micro-batch.
    """
    mine_SA = count_SAW[:, :, rank] * count_SAW.shape[2]
    # Of a step in which nothing counts each share is nothing.
    total_S1 = count_SAW.sum(axis=(1, 2))[:, None]
    return (mine_SA / np.where(total_S1 > 0, total_S1, 1)).tolist()


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Return an array as a tensor of its own: whole numbers as int64, others as float32."""
    dtype = torch.int64 if array.dtype.kind in "iub" else torch.float32
    return torch.from_numpy(array).to(dtype, copy=True, memory_format=torch.contiguous_format)


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

    Yields tokens_BT, targets_BT, with IGNORE_INDEX where nothing is to be predicted, and before_BR, BEFORE tokens
    before each window, NOTHING where its document has not begun. Of `world_size` processes each gets every
    world_size-th window.
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
        self.split, self.starts, self.ends = split, starts, ends
        self.tokens, self.block_size, self.stride, self.batch_size = split.tokens, block_size, stride, batch_size

    def __len__(self) -> int:
        return -(-len(self.mine) // self.batch_size)

    def first(self, count: int) -> "EvaluationWindows | None":
        """Return the first so many windows alone; None where there are no more."""
        part = copy.copy(self)
        part.mine = self.mine[: bisect.bisect_left(self.mine, count)]
        return None if len(part.mine) == len(self.mine) else part

    def describe(self) -> dict[str, str]:
        predicted = int((self.ends - self.starts - 1).clip(min=0).sum())
        block_size, stride = self.block_size, self.stride
        if stride == block_size:
            context = f"windows of {block_size} tokens that do not overlap: up to {block_size - 1} tokens before each"
        else:
            context = (
                f"windows of {block_size} tokens every {stride}: {block_size - stride} or more tokens before each that "
                "has them"
            )
        split, total = self.split, len(self.tokens)
        return {
            "context": context,
            "text": f"{split.characters:,} characters, {split.bytes:,} bytes",
            "tokens predicted": f"{predicted:,}",
            "unknown tokens": f"{split.unknown:,} of {total:,} ({split.unknown / total:.2%})",
        }

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
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
            targets = window[:, 1:].masked_fill(~torch.from_numpy(counted), IGNORE_INDEX)
            earlier = index[:, :1] + np.arange(-BEFORE, 0)
            there = earlier >= self.starts[document][:, None]
            before = np.where(there, self.tokens[np.where(there, earlier, 0)].astype(np.int64), NOTHING)
            yield {"tokens": window[:, :-1].contiguous(), "targets": targets, "before": torch.from_numpy(before)}


def evaluation_windows(
    split: Split, block_size: int, stride: int, vocab_size: int, rank: int = 0, world_size: int = 1
) -> EvaluationWindows:
    """Cut a split for evaluation in batches whose logits fit into memory."""
    tokens = min(EVALUATION_LOGITS // vocab_size, EVALUATION_TOKENS)
    return EvaluationWindows(split, block_size, stride, max(tokens // block_size, 1), rank, world_size)
