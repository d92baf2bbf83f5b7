"""The KV cache: keys and values of the tokens a model has read, so that it need not read them again.

Shape suffixes: B batch, T time (new tokens), S time (all tokens so far), G heads of keys and values, D head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from molino.base.errors import ConfigError

NOTHING = -1  # in place of a token: a text has not begun


@dataclass(frozen=True)
class CacheShape:
    """What a model keeps of a token: n_layer times (key and value) of n_kv_head heads of head_size numbers."""

    n_layer: int
    n_kv_head: int
    head_size: int

    @property
    def numbers_per_token(self) -> int:
        return 2 * self.n_layer * self.n_kv_head * self.head_size


class KVCache:
    """Tensors allocated once for `capacity` tokens a row, and how many of them are filled.

    Whoever begins in the middle of a text may say what stands before it, `before_BR`, NOTHING where it has not begun.

    Rows are filled from the left. While all hold equally many tokens that number is `length`, and nothing needs a mask
    but new tokens among themselves. For rows of different lengths (ragged prompts, padded on the right) call `fill`
    after the prompts have been read: from then on each row writes at its own place, over its padding, and sees no
    further than that.

    A model calls `positions` before its layers, `extend` and `visible` in each, and `advance` after them.

    Args:
        shape: the model's `capabilities.cache`.
        batch_size: B.
        capacity: tokens a row has room for.
    """

    def __init__(
        self,
        shape: CacheShape,
        batch_size: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        size = (batch_size, shape.n_kv_head, capacity, shape.head_size)
        self.keys = [torch.zeros(size, device=device, dtype=dtype) for _ in range(shape.n_layer)]
        self.values = [torch.zeros(size, device=device, dtype=dtype) for _ in range(shape.n_layer)]
        self.tokens_BS = torch.zeros((batch_size, capacity), dtype=torch.long, device=device)
        self.before_BR = torch.empty((batch_size, 0), dtype=torch.long, device=device)
        self.capacity = capacity
        self.device = torch.device(device)
        self.length = 0
        self.lengths_B: Tensor | None = None
        self._visible: Tensor | None = None

    def fill(self, lengths: list[int]) -> None:
        """Say how many tokens each row really holds; what lies beyond is padding."""
        self.length = max(lengths)
        self.lengths_B = None if min(lengths) == self.length else torch.tensor(lengths, device=self.device)
        self._visible = None

    def clear(self) -> None:
        """Forget all tokens; the tensors stay."""
        self.length, self.lengths_B, self._visible = 0, None, None

    def grow(self, capacity: int) -> None:
        """Have room for `capacity` tokens a row, if there is less; what is kept stays."""
        if capacity <= self.capacity:
            return
        more = capacity - self.capacity
        self.keys, self.values = ([F.pad(each, (0, 0, 0, more)) for each in kept] for kept in (self.keys, self.values))
        self.tokens_BS, self.capacity = F.pad(self.tokens_BS, (0, more)), capacity

    def rows(self, which: slice) -> "KVCache":
        """Return an empty cache that writes into some rows of this one."""
        view = KVCache(CacheShape(0, 0, 0), 1, self.capacity, self.device)
        view.keys = [k_BGSD[which] for k_BGSD in self.keys]
        view.values = [v_BGSD[which] for v_BGSD in self.values]
        view.tokens_BS, view.before_BR = self.tokens_BS[which], self.before_BR[which]
        return view

    def empty(self, count: int) -> "KVCache":
        """Return an empty cache of `count` rows like these."""
        other = KVCache(CacheShape(0, 0, 0), count, self.capacity, self.device)
        other.keys = [k_BGSD.new_zeros(count, *k_BGSD.shape[1:]) for k_BGSD in self.keys]
        other.values = [v_BGSD.new_zeros(count, *v_BGSD.shape[1:]) for v_BGSD in self.values]
        return other

    def replace(self, which: Tensor, other: "KVCache") -> None:
        """Keep what another cache has read in place of some rows, by their numbers."""
        mine, theirs = ((*cache.keys, *cache.values) for cache in (self, other))
        for kept_BGSD, new_BGSD in zip(mine, theirs, strict=True):
            kept_BGSD[which, :, : other.length] = new_BGSD[:, :, : other.length]
        self.tokens_BS[which, : other.length] = other.tokens_BS[:, : other.length]

    def share(self, count: int) -> None:
        """Copy the first of each `count` rows to the others."""
        for tensor in (*self.keys, *self.values, self.tokens_BS) if count > 1 else ():
            groups = tensor.unflatten(0, (-1, count))
            groups[:, 1:] = groups[:, :1]

    def select(self, which: Tensor) -> None:
        """Go on with some rows, by their numbers; one may come several times."""
        for layers in (self.keys, self.values):
            for number, kept_BGSD in enumerate(layers):
                # What is not filled yet need not be copied; rows of different lengths have some of it masked, not nan.
                new = kept_BGSD.new_empty if self.lengths_B is None else kept_BGSD.new_zeros
                grown = new(len(which), *kept_BGSD.shape[1:])
                grown[:, :, : self.length] = kept_BGSD[which, :, : self.length]
                layers[number] = grown
        self.tokens_BS, self.before_BR = self.tokens_BS[which], self.before_BR[which]
        self.lengths_B = None if self.lengths_B is None else self.lengths_B[which]
        self._visible = None

    def positions(self, count: int) -> Tensor:
        """Return the places of the next `count` tokens in their texts: (T,), or (B, T) where rows differ.

        Raises:
            ConfigError: there is no room for them.
        """
        if self.length + count > self.capacity:
            raise ConfigError(
                f"a cache of {self.capacity} tokens that holds {self.length} has no room for {count} more: clear it"
            )
        new_T = torch.arange(count, device=self.device)
        return new_T + self.length if self.lengths_B is None else new_T + self.lengths_B[:, None]

    def recall(self, tokens_BT: Tensor, count: int, beyond: bool = False) -> Tensor:
        """Keep T new tokens themselves; return them after the `count` before them, (B, S).

        Only models that read n-grams ask for it.

        Args:
            beyond: before the first token of the cache stands `before_BR`, and NOTHING before that; else zeros.
        """
        B, T = tokens_BT.shape
        self.positions(T)  # whether there is room
        start = self.length if self.lengths_B is None else self.lengths_B[:, None]
        places_BS = (start + torch.arange(-count, T, device=self.device)).expand(B, -1)
        self.tokens_BS.scatter_(1, places_BS[:, count:], tokens_BT)
        if not beyond:
            return self.tokens_BS.gather(1, places_BS.clamp(min=0)).masked_fill(places_BS < 0, 0)
        before = self.before_BR.shape[1]
        kept_BS = torch.cat([self.before_BR, self.tokens_BS], dim=1)
        return kept_BS.gather(1, (places_BS + before).clamp(min=0)).masked_fill(places_BS < -before, NOTHING)

    def extend(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """Keep keys and values of T new tokens of a layer; return all so far, shape (B, G, S, D), as views."""
        keys_BGSD, values_BGSD = self.keys[layer], self.values[layer]
        end = self.length + k_BGTD.shape[2]
        if self.lengths_B is None:
            keys_BGSD[:, :, self.length : end] = k_BGTD
            values_BGSD[:, :, self.length : end] = v_BGTD
        else:
            rows_B1 = torch.arange(len(k_BGTD), device=self.device)[:, None]
            places_BT = self.positions(k_BGTD.shape[2])
            # Two index tensors around a slice: the result's first dimensions are theirs, (B, T, G, D).
            keys_BGSD[rows_B1, :, places_BT] = k_BGTD.transpose(1, 2).to(keys_BGSD.dtype)
            values_BGSD[rows_B1, :, places_BT] = v_BGTD.transpose(1, 2).to(values_BGSD.dtype)
        return keys_BGSD[:, :, :end], values_BGSD[:, :, :end]

    def last(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return what a layer has kept of the last token of each row, zeros before the first: twice (B, G * D)."""
        if self.length == 0:
            return self.keys[layer][:, :, 0].flatten(1) * 0, self.values[layer][:, :, 0].flatten(1) * 0
        places_B = torch.full((len(self.tokens_BS),), self.length, device=self.device)
        places_B = (places_B if self.lengths_B is None else self.lengths_B) - 1
        rows_B = torch.arange(len(places_B), device=self.device)
        kept = (tensor[layer][rows_B, :, places_B.clamp(min=0)].flatten(1) for tensor in (self.keys, self.values))
        h_BC, c_BC = (each.masked_fill(places_B[:, None] < 0, 0) for each in kept)
        return h_BC, c_BC

    def visible(self, count: int, window: int | None) -> Tensor | None:
        """Return which of all S tokens each of the last `count` sees, bool (B or 1, 1, T, S); None if all of them.

        Args:
            window: how far back a token sees, itself included; None for all the way.
        """
        end = self.length + count
        if count == 1 and self.lengths_B is None and (window is None or end <= window):
            return None
        if self._visible is None:
            places_BT1 = torch.atleast_2d(self.positions(count))[..., None]
            keys_S = torch.arange(end, device=self.device)
            self._visible = see(places_BT1, keys_S, window)[:, None]
        return self._visible

    def advance(self, count: int) -> None:
        """Count `count` more tokens in every row."""
        self.length += count
        self._visible = None
        if self.lengths_B is not None:
            self.lengths_B = self.lengths_B + count


def see(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """Tell which keys (by position) a query sees: its own and earlier ones, within `window` if there is one."""
    return keys <= queries if window is None else (keys <= queries) & (keys > queries - window)
