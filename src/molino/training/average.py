"""An average of the weights over the steps, beside the weights that are trained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from molino.runs.measures import LEARNT, Metric, metric_name
from molino.tasks.task import Task

PLAIN = "plain_state_dict"  # in a checkpoint whose state_dict is the average: what training goes on with


class Average:
    """Exponential moving average of what a module trains.

    After the first step it is the weights; after each further one `decay` times itself and 1 - `decay` times the
    weights, as torch.optim.swa_utils.get_ema_avg_fn has it. Buffers are not averaged: of these there are one.

    Args:
        decay: what is kept at each step, from 0 up to, not including, 1.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module, self.decay = module, decay
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.averages = [parameter.detach().clone() for parameter in self.parameters]
        self.begun = False  # whether a step is in it
        self.shown = False  # whether the module has the average in place of its own weights

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        weights = [parameter.detach() for parameter in self.parameters]
        if self.begun:
            torch._foreach_lerp_(self.averages, weights, 1 - self.decay)
        else:
            torch._foreach_copy_(self.averages, weights)
            self.begun = True

    def swap(self) -> None:
        """Give the module the average in place of its own weights, or these back. Nothing is copied."""
        for number, parameter in enumerate(self.parameters):
            parameter.data, self.averages[number] = self.averages[number], parameter.data
        self.shown = not self.shown

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Meanwhile the module has what it has not."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def put(self, checkpoint: dict[str, Any]) -> None:
        """Have the state of a checkpoint hold the average, so that whoever loads it has that, and the weights aside."""
        own = checkpoint["state_dict"]
        with self.aside():
            other = self.module.state_dict()
        average, plain = (own, other) if self.shown else (other, own)
        checkpoint |= {"state_dict": average, PLAIN: plain}

    def take(self, state: dict[str, torch.Tensor]) -> None:
        """Go on with the average of a checkpoint."""
        with self.aside():
            self.module.load_state_dict(state)
        self.begun = True


def measured_aside(task: Task) -> dict[str, Metric]:
    """Return what is measured of the weights themselves where an average is measured: the figure that decides, and the
    loss; by the names that these have of the average."""
    asked = (metric for metric in task.metrics if metric.tag == task.monitor or metric.name == metric_name(LEARNT))
    return {each.name: replace(each, name=f"plain_{each.name}", shown=False, across=False) for each in asked}
