"""An optimizer."""

import torch
from torch.optim import Optimizer


class Lion(Optimizer):
    """The sign of an average of gradients (Chen et al. 2023), with decoupled weight decay.

    Args:
        params: what molino passes: groups of parameters.
        lr: about a tenth of AdamW's.
        betas: of the average that is stepped along, and of the one that is kept.
        weight_decay: on matrices only, as molino groups them.
    """

    def __init__(self, params, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0):
        if lr <= 0:
            raise ValueError(f"lr={lr} must be above 0")
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                average = state.setdefault("average", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(average.lerp(parameter.grad, 1 - first).sign(), alpha=-group["lr"])
                average.lerp_(parameter.grad, 1 - second)
