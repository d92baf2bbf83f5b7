"""What a decoder knows of its sources: keys and values of its cross-attention, computed once for all that it writes.

Shape suffixes: B sources, S time (tokens of a source), H heads, D head size.
"""

from typing import NamedTuple

from torch import Tensor


class Memory(NamedTuple):
    """Keys and values (B, H, S, D) of each layer of a decoder, and which tokens of the sources there are.

    Attributes:
        seen_BS: false where there is only padding; None if there is none.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    seen_BS: Tensor | None = None

    def rows(self, which: Tensor) -> "Memory":
        """Return that of some sources, by their numbers; one may come several times."""
        keys, values = (tuple(each[which] for each in layers) for layers in (self.keys, self.values))
        return Memory(keys, values, None if self.seen_BS is None else self.seen_BS[which])
