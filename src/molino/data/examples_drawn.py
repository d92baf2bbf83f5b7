"""Training examples of unequal lengths: which of them make a batch.

Examples of near-equal lengths come together, so that little of a batch is padding. Which ones are in micro-batch number
n is a pure function of (seed, n); each comes once an epoch, in an order of the epoch's own.

Shapes: N examples, F fields of a length of their own, R examples of a micro-batch.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch

from molino.base.errors import DataError
from molino.data.batches import Rows, Step, as_tensor, weights_of

# Of so many batches the examples are sorted by length before they are cut into batches.
POOL = 50


class Order(Protocol):
    """Which examples make a micro-batch.

    Attributes:
        count: how many micro-batches are an epoch.
    """

    count: float

    def __call__(self, number: int) -> np.ndarray:
        """Return the examples of micro-batch `number`."""
        ...


class Examples(NamedTuple):
    """The examples of a training split, as a task makes them.

    Attributes:
        take: numbers of some examples (R,) -> arrays that begin with (R,), as long as the longest of them.
        sizes_NF: how many tokens of each example there are in each field that has a length of its own.
        seed: of their order.
    """

    take: Callable[[np.ndarray], Rows]
    sizes_NF: np.ndarray
    seed: int

    @property
    def length(self) -> float:
        """Tokens of an example, on average."""
        return float(self.sizes_NF.sum(axis=1).mean())

    def order(self, batch_size: int, batch_tokens: int | None = None) -> Order:
        """Return the order of micro-batches of so many examples, or of so many tokens, padding included."""
        if batch_tokens is None:
            return ByLength(self.sizes_NF.max(axis=1), self.seed, batch_size)
        return ByTokens(self.sizes_NF, self.seed, batch_tokens)


class ByLength:
    """Micro-batches of `size` examples: they are shuffled, sorted by length within a pool of POOL batches, cut into
    batches, and these shuffled.

    Args:
        lengths_N: of the examples.
    """

    def __init__(self, lengths_N: np.ndarray, seed: int, size: int):
        self.lengths_N, self.seed, self.size = lengths_N, seed, size
        self.count = len(lengths_N) / size
        self._order: tuple[int, np.ndarray] | None = None

    def __call__(self, number: int) -> np.ndarray:
        epochs, places = np.divmod(number * self.size + np.arange(self.size), len(self.lengths_N))
        chosen = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen[epochs == epoch] = self._order_of(int(epoch))[places[epochs == epoch]]
        return chosen

    def _order_of(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._make_order(epoch)
        return self._order[1]

    def _make_order(self, epoch: int) -> np.ndarray:
        generator = _generator(self.seed, epoch)
        count, size = len(self.lengths_N), self.size
        order = generator.permutation(count)
        # The batch that the epoch before has begun is completed first.
        first = min(-(epoch * count) % size, count)
        batches = []
        for at in range(first, count, POOL * size):
            pool = order[at : at + POOL * size]
            pool = pool[np.argsort(self.lengths_N[pool], kind="stable")]
            batches += [pool[begin : begin + size] for begin in range(0, len(pool), size)]
        rest = [batches.pop()] if batches and len(batches[-1]) < size else []
        shuffled = [batches[number] for number in generator.permutation(len(batches))]
        return np.concatenate([order[:first], *shuffled, *rest])


class ByTokens:
    """Micro-batches of as many examples as have `room` tokens together, padding included; at least one.

    All are sorted by length, those of equal lengths anew each epoch, and cut into batches, which are shuffled. As the
    sorted lengths are the same in every epoch, so are the places of the cuts, and each has equally many batches.

    Args:
        sizes_NF: tokens of the examples in each field; the last one is sorted by first. Those of the others are rounded
            up, or few examples would be equal in all, and the same ones would meet in every epoch.
    """

    def __init__(self, sizes_NF: np.ndarray, seed: int, room: int):
        sizes_NF = np.concatenate([_rounded(sizes_NF[:, :-1]), sizes_NF[:, -1:]], axis=1)
        self.sizes_NF, self.seed = sizes_NF, seed
        self.bounds = _cut_by_tokens(sizes_NF[np.lexsort(sizes_NF.T)], room)
        self.count = float(len(self.bounds) - 1)
        self._order: tuple[int, np.ndarray, np.ndarray] | None = None

    def __call__(self, number: int) -> np.ndarray:
        epoch, place = divmod(number, len(self.bounds) - 1)
        if self._order is None or self._order[0] != epoch:
            generator = _generator(self.seed, epoch)
            shuffled = generator.permutation(len(self.sizes_NF))
            order = shuffled[np.lexsort(self.sizes_NF[shuffled].T)]
            self._order = epoch, order, generator.permutation(len(self.bounds) - 1)
        _, order, batches = self._order
        return order[self.bounds[batches[place]] : self.bounds[batches[place] + 1]]


class UnevenBlock(NamedTuple):
    """The batches of S consecutive steps, each of A micro-batches; as `data.batches.Block` otherwise."""

    fields: list[list[dict[str, torch.Tensor]]]
    weights: dict[str, list[list[float]]]

    def __len__(self) -> int:
        return len(self.fields)

    def elements(self, names: Iterable[str]) -> int:
        """Return how many elements these fields have."""
        names = list(names)
        return sum(each[name].numel() for step in self.fields for each in step for name in names)

    def steps(self) -> Iterator[list[Step]]:
        """Yield the micro-batches of each step."""
        for step, weights in zip(self.fields, zip(*self.weights.values(), strict=True), strict=True):
            rows = zip(step, zip(*weights, strict=True), strict=True)
            yield [Step(fields, dict(zip(self.weights, each, strict=True))) for fields, each in rows]


def draw_examples(
    examples: Examples,
    order: Order,
    parts: Iterable[str],
    steps_S: np.ndarray,
    accumulate: int,
    rank: int = 0,
    world_size: int = 1,
) -> UnevenBlock:
    """Return the batches of the given steps; process `rank` of `world_size` gets its share of each.

    Args:
        parts: of the loss. One of which `take` counts nothing is a mean over examples that all count alike.

    Raises:
        DataError: a batch has fewer examples than there are processes.
    """
    fields, counts = [], {}
    shape = (len(steps_S), accumulate, world_size)
    for number, step in np.ndenumerate(steps_S[:, None] * accumulate + np.arange(accumulate)):
        chosen = order(int(step))
        bounds = np.arange(world_size + 1) * len(chosen) // world_size
        if len(chosen) < world_size:
            raise DataError(f"a batch of {len(chosen)} examples cannot be shared by {world_size} processes")
        whole = examples.take(chosen)
        mine = whole if world_size == 1 else examples.take(chosen[bounds[rank] : bounds[rank + 1]])
        if number[1] == 0:
            fields.append([])
        fields[-1].append({name: as_tensor(array) for name, array in mine.fields.items()})
        counted = {"": np.ones(len(chosen)), **whole.counts}
        for part, count_R in counted.items():
            counts.setdefault(part, np.zeros(shape))[number] = np.add.reduceat(count_R, bounds[:-1])
    weights = {part: weights_of(counts.get(part, counts[""]), rank) for part in parts}
    return UnevenBlock(fields, weights)


def _cut_by_tokens(sorted_NF: np.ndarray, room: int) -> np.ndarray:
    """Return where batches of sorted examples begin, and the end of the last."""
    bounds, longest_F = [0], np.zeros(sorted_NF.shape[1], dtype=np.int64)
    for number, sizes_F in enumerate(sorted_NF):
        longest_F = np.maximum(longest_F, sizes_F)
        if number > bounds[-1] and (number + 1 - bounds[-1]) * longest_F.sum() > room:
            bounds.append(number)
            longest_F = sizes_F
    return np.array([*bounds, len(sorted_NF)])


def _rounded(sizes: np.ndarray) -> np.ndarray:
    """Return sizes rounded up, to multiples of a quarter to a half of them."""
    step = 2 ** (np.log2(np.maximum(sizes, 1)).astype(np.int64) - 1).clip(min=0)
    return -(-sizes // step) * step


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, epoch]))
