"""Muon: steps of equal size in all directions of a matrix (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

Momentum, then the nearest (semi-)orthogonal matrix in place of the gradient, found by five steps of a Newton-Schulz
iteration. It is for the matrices inside a network; embeddings, the head, norms and biases are left to AdamW.
"""

import math
from collections.abc import Iterable, Set
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from molino.models import compute_dtype

# The polynomial of a step; it pushes every singular value into 0.7 .. 1.2 as fast as it can (Jordan et al.).
A, B, C = 3.4445, -4.7750, 2.0315
STEPS = 5


class Muon(torch.optim.AdamW):
    """AdamW, but for the parameters that are `hidden`.

    Args:
        params: groups, as torch has them.
        hidden: the matrices inside the network; see molino.training.optimizers.
        lr, betas, eps: AdamW's.
        muon_lr: size of a step of a hidden matrix: the change has singular values of about this, times
            sqrt(rows / columns) where it has more rows.
        momentum: of hidden matrices, in the manner of Nesterov.
        weight_decay: of all matrices; a step shrinks them by their learning rate times this.

    Raises ValueError for settings out of range and for hidden parameters that are no matrices, as those of a sharded
    model are not.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float,
        muon_lr: float,
        *,
        hidden: Set[Tensor],
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        if not 0 < muon_lr < math.inf:
            raise ValueError(f"muon_lr={muon_lr} must be above 0, and finite")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum} must be from 0 up to, not including, 1")
        groups = split(params, hidden, muon_lr)
        super().__init__(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        # The scaling of fp16's loss is undone inside AdamW's kernel only.
        self._step_supports_amp_scaling = False
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step, with the gradients as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"]:
                self._step_hidden(group)
        super().step()
        return loss

    def _step_hidden(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[Tensor]] = {}
        for matrix in group["params"]:
            if matrix.grad is not None:
                alike.setdefault(matrix.shape, []).append(matrix)
        for (rows, columns), matrices in alike.items():
            gradients = [matrix.grad for matrix in matrices]
            averages = [self._average(matrix) for matrix in matrices]
            torch._foreach_lerp_(averages, gradients, 1 - self.momentum)
            torch._foreach_lerp_(gradients, averages, self.momentum)
            changes = orthogonal(torch.stack(gradients)).to(matrices[0].dtype).unbind()
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, changes, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
            for matrix in matrices:
                matrix.grad = None  # AdamW, which comes next, leaves alone what has none

    def _average(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if "momentum" not in state:
            # Without a step count AdamW would not let a saved state be loaded.
            state["momentum"], state["step"] = torch.zeros_like(matrix), torch.zeros(())
        return state["momentum"]


def split(groups: Iterable[dict[str, Any]], hidden: Set[Tensor], muon_lr: float) -> list[dict[str, Any]]:
    """Part each group in what AdamW trains and what Muon trains; empty ones are left out.

    Raises:
        ValueError: a hidden parameter is no matrix.
    """
    parted = []
    for group in groups:
        for muon in (False, True):
            params = [parameter for parameter in group["params"] if (parameter in hidden) == muon]
            if params:
                parted.append({"muon": muon, **({"lr": muon_lr} if muon else {}), **group, "params": params})
    whole = (group["params"] for group in parted if group["muon"])
    if any(each.dim() != 2 or isinstance(each, DTensor) for params in whole for each in params):
        raise ValueError("Muon trains whole matrices, which hardware=fsdp cuts into pieces: choose optimizer=adamw")
    return parted


def orthogonal(x_KMN: Tensor) -> Tensor:
    """Return, for each of K matrices, about U V' of its singular value decomposition U S V'.

    Computed in the precision of autocast, where training is in it: singular values only have to come near 1.
    """
    x = x_KMN.to(compute_dtype(x_KMN))
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        square = x @ x.mT
        x = A * x + (B * square + C * square @ square) @ x
    return x.mT if tall else x
