"""Where the writing of targets stands: what a network has read of some sources, and what it keeps of what it wrote.

A source has as many rows as texts are written about it at once; they follow each other.

Shape suffixes: N sources, B rows, S time (tokens of a source), T time (tokens of a target), V vocabulary.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from molino.models.cache import KVCache
from molino.models.capabilities import capabilities_of, device_of, dtype_of
from molino.models.source_first import SourceFirst


class Place(Protocol):
    """Where the writing about some sources stands."""

    def logits(self, tokens_B: Tensor) -> Tensor:
        """Take up the last token of each row, and return the logits_BV of the next."""
        ...

    def select(self, rows_B: Tensor, sources_N: Tensor | None = None) -> None:
        """Go on with some rows, by their numbers, of some sources; None if all sources stay."""
        ...


class AfterReading:
    """A network with an encoder: what it has read is looked at, and stays as it is."""

    def __init__(self, network: nn.Module, source_NS: Tensor, seen_NS: Tensor, room: int):
        self.network = network
        self.memory = network.remember(network.encode(source_NS, seen_NS), seen_NS)
        self.cache = _new_cache(network, len(source_NS), room)

    def logits(self, tokens_B: Tensor) -> Tensor:
        return self.network.head(self.network.decode(tokens_B[:, None], self.memory, self.cache))[:, 0]

    def select(self, rows_B: Tensor, sources_N: Tensor | None = None) -> None:
        self.cache.select(rows_B)
        if sources_N is not None:
            self.memory = self.memory.rows(sources_N)


class BehindSource:
    """A network that writes the target behind the source."""

    def __init__(self, network: SourceFirst, source_NS: Tensor, seen_NS: Tensor, room: int):
        self.model = network.model
        self.cache = _new_cache(self.model, len(source_NS), source_NS.shape[1] + room)
        self.model(source_NS, self.cache)
        self.cache.fill(seen_NS.sum(1).tolist())

    def logits(self, tokens_B: Tensor) -> Tensor:
        return self.model(tokens_B[:, None], self.cache)[:, 0]

    def select(self, rows_B: Tensor, sources_N: Tensor | None = None) -> None:
        self.cache.select(rows_B)


def read_sources(network: nn.Module, source_NS: Tensor, seen_NS: Tensor, room: int) -> Place:
    """Return where the writing begins, with one row a source.

    Args:
        seen_NS: which tokens there are, padding on the right aside.
        room: for so many tokens of each target.
    """
    kind = BehindSource if isinstance(network, SourceFirst) else AfterReading
    return kind(network, source_NS, seen_NS, room)


def _new_cache(model: nn.Module, rows: int, room: int) -> KVCache:
    device, dtype = device_of(model), dtype_of(model)
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    return KVCache(capabilities_of(model).cache, rows, room, device, dtype)
