"""A whole split, exactly: sums in float64 over all batches and processes, never a mean of batch means.

What a batch comes to is a dict by name. A tensor is a sum, of any shape, and is added to that of the other batches;
what is wrapped as `Pairs` has a row for each example, and all rows are kept.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Pairs:
    """Values of each example (N, K), for what cannot be added up, such as ranks."""

    rows_NK: Tensor


Measured = Mapping[str, Tensor | Pairs]


class Totals:
    """What the batches so far come to, on the device of the first."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.pairs: dict[str, list[Tensor]] = {}

    def add(self, measured: Measured) -> None:
        """Add what one batch comes to."""
        for name, value in measured.items():
            if isinstance(value, Pairs):
                self.pairs.setdefault(name, []).append(value.rows_NK.double())
            else:
                value = value.double()
                self.sums[name] = self.sums[name] + value if name in self.sums else value

    def over(self, reduce: Callable[[Tensor], Tensor], gather: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Return the totals over all processes: floats, and float64 arrays where there is more than one number.

        Args:
            reduce: adds up a tensor over the processes.
            gather: stacks the tensors of all processes, which have one shape.
        """
        together = reduce(torch.cat([total.flatten() for total in self.sums.values()])) if self.sums else None
        found: dict[str, Any] = {}
        for total, part in zip(self.sums.items(), self._parts(together), strict=True):
            found[total[0]] = part.item() if total[1].ndim == 0 else part.reshape(total[1].shape).cpu().numpy()
        return found | {name: _gathered(torch.cat(rows), gather) for name, rows in self.pairs.items()}

    def alone(self) -> dict[str, Any]:
        """Return the totals of this process, as `over`."""
        return self.over(lambda tensor: tensor, lambda tensor: tensor[None])

    def _parts(self, together: Tensor | None) -> tuple[Tensor, ...]:
        return () if together is None else together.split([total.numel() for total in self.sums.values()])


@torch.inference_mode()
def measure_all(
    measure: Callable[[torch.nn.Module, Batch], Measured],
    network: torch.nn.Module,
    batches: Iterable[Batch],
    device: torch.device,
) -> dict[str, Any]:
    """Return what a network comes to over all batches, in eval mode and in one process."""
    was_training, totals = network.training, Totals()
    network.eval()
    for batch in batches:
        totals.add(measure(network, {name: tensor.to(device) for name, tensor in batch.items()}))
    network.train(was_training)
    return totals.alone()


def _gathered(rows_NK: Tensor, gather: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Return the rows of all processes, which may have unequal numbers of them."""
    counts = gather(rows_NK.new_tensor([len(rows_NK)])).flatten().long().tolist()
    padded = rows_NK.new_zeros((max(counts), *rows_NK.shape[1:]))
    padded[: len(rows_NK)] = rows_NK
    return torch.cat([rows[:count] for rows, count in zip(gather(padded), counts, strict=True)]).cpu().numpy()
