"""What an optimizer is handed of a model: parameters in groups and, where it asks, which are inside the network."""

import functools
import inspect
import math
from collections.abc import Mapping, Set

from torch import nn
from torch.optim import Optimizer

from molino.base.errors import ConfigError
from molino.models.shapes import shapes_only

# What an optimizer is called with: groups of parameters and, where it asks, hidden_weights.
GIVEN = ("params", "hidden")
PLAIN = ("torch.optim.", "molino.")  # whose numbers are all finite
FACTOR = "factor"  # of a group's rate, until the optimizer is there


def optimizer_for(model: nn.Module, matrices: Set[str], make: functools.partial) -> Optimizer:
    """Return the optimizer of a model.

    Args:
        model: may have `rates`: of some parameters, by name, which share of the rate they learn with.
        matrices: names of the parameters that weight decay acts on.
        make: a partial that takes parameter groups; with a parameter `hidden`, as Muon has, also hidden_weights.

    Raises:
        ConfigError: its settings make no sense.
    """
    groups = parameter_groups(model, matrices, getattr(model, "rates", {}))
    given = {"hidden": hidden_weights(model)} if "hidden" in inspect.signature(make).parameters else {}
    try:
        optimizer = make(groups, **given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"optimizer: {error}") from error
    for group in optimizer.param_groups:
        if FACTOR in group:
            group["lr"] *= group.pop(FACTOR)
    return optimizer


def check_optimizer(make: functools.partial) -> None:
    """Refuse settings that make no optimizer, while there is no model yet.

    Raises:
        ConfigError: they make none, or one of torch's or molino's with a number that is not finite.
    """
    # Torch takes eps=inf, with which nothing is learnt. Own ones may have a use for it.
    for name, value in make.keywords.items() if make.func.__module__.startswith(PLAIN) else ():
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"optimizer.{name}={value} must be finite")
    with shapes_only():
        optimizer = optimizer_for(nn.Linear(2, 2), {"weight"}, make)
    if not all("lr" in group for group in optimizer.param_groups):
        raise ConfigError(f"optimizer: {make.func.__name__} must keep its rate as lr in its groups, for the schedule")


def parameter_groups(model: nn.Module, matrices: Set[str], rates: Mapping[str, float]) -> list[dict]:
    """Split parameters by name so that weight decay acts on matrices only, not on biases and norms.

    Args:
        rates: of some parameters, which share of the rate they learn with. Those that learn with all of it come first.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = []
    for factor in sorted({rates.get(name, 1.0) for name, _ in named}, reverse=True):
        part = [(name, parameter) for name, parameter in named if rates.get(name, 1.0) == factor]
        slower = {} if factor == 1.0 else {FACTOR: factor}
        groups += [
            {"params": [parameter for name, parameter in part if name in matrices], **slower},
            {"params": [parameter for name, parameter in part if name not in matrices], "weight_decay": 0.0, **slower},
        ]
    return [group for group in groups if group["params"]]


def hidden_weights(model: nn.Module) -> set[nn.Parameter]:
    """Return the weights of linear layers, but for heads (such as `lm_head`) and what those share with tables."""
    modules = model.named_modules()
    return {module.weight for name, module in modules if isinstance(module, nn.Linear) and not name.endswith("head")}
