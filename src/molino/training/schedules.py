"""Learning-rate schedules: pure functions of the step.

Each returns the factor by which `optimizer.lr` is multiplied at optimizer step `step` (0 is the first) of `max_steps`.
What a schedule comes down to it has at step `max_steps`, which would be the one after the last.
Having no state they need no saving, and a resumed run is on schedule by construction. The first step's factor is
always above 0: a warm-up of n steps starts at 1/n.
"""

import functools
import math
from typing import Any, Protocol

from molino.base.errors import ConfigError


class Schedule(Protocol):
    """A function of the step. Its further parameters are settings."""

    def __call__(self, step: int, max_steps: int) -> float: ...


def constant(step: int, max_steps: int, warmup_steps: int = 0) -> float:
    """Linear warm-up, then 1."""
    return _warmup(step, warmup_steps)


def step(step: int, max_steps: int, step_size: int, gamma: float, warmup_steps: int = 0) -> float:
    """Multiply by `gamma` every `step_size` steps, as torch.optim.lr_scheduler.StepLR."""
    return _warmup(step, warmup_steps) * gamma ** (step // step_size)


def cosine(step: int, max_steps: int, warmup_steps: int = 0, floor: float = 0.0) -> float:
    """Linear warm-up, then half a cosine from 1 down to `floor`, reached at `max_steps` (Loshchilov, Hutter 2017)."""
    if step < warmup_steps:
        return _warmup(step, warmup_steps)
    progress = (step - warmup_steps) / max(max_steps - warmup_steps, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def wsd(step: int, max_steps: int, warmup_steps: int = 0, decay_fraction: float = 0.2, floor: float = 0.0) -> float:
    """Warm-up, stable, decay (Hu et al. 2024): 1 until the last `decay_fraction`, then straight down to `floor`.

    Where warm-up and decay overlap the lower of the two holds.
    """
    decay_steps = max(round(decay_fraction * max_steps), 1)
    left = min((max_steps - step) / decay_steps, 1.0)
    return min(_warmup(step, warmup_steps), floor + (1 - floor) * left)


def check_schedule(schedule: functools.partial, max_steps: int) -> None:
    """Refuse a schedule whose settings make no sense: by the rules of those above, and if it gives no factor."""
    if schedule.func.__module__ == __name__:
        _check_settings(schedule.keywords)
    try:
        factor = schedule(0, max_steps)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ConfigError(f"scheduler: {schedule.func.__name__}(0, {max_steps}) fails: {error}") from error
    if not (isinstance(factor, int | float) and math.isfinite(factor) and factor >= 0):
        raise ConfigError(f"scheduler: {schedule.func.__name__}(0, {max_steps}) is {factor}, not a factor of 0 or more")


def _check_settings(settings: dict[str, Any]) -> None:
    rules = (
        ("warmup_steps", lambda value: value >= 0, "at least 0"),
        ("floor", lambda value: 0 <= value <= 1, "a fraction of optimizer.lr, between 0 and 1"),
        ("decay_fraction", lambda value: 0 <= value <= 1, "a fraction of the run, between 0 and 1"),
        ("step_size", lambda value: value >= 1, "at least 1"),
        ("gamma", lambda value: 0 < value < math.inf, "above 0, and finite"),
    )
    for name, holds, wanted in rules:
        if name in settings and not holds(settings[name]):
            raise ConfigError(f"scheduler.{name}={settings[name]} must be {wanted}")


def _warmup(step: int, warmup_steps: int) -> float:
    return min((step + 1) / warmup_steps, 1.0) if warmup_steps else 1.0
