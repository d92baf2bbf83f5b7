"""What an optimizer is handed of a model: parameters in groups and, where it asks, which are inside the network."""

import functools
import inspect
from collections.abc import Set

from torch import nn
from torch.optim import Optimizer


def optimizer_for(model: nn.Module, matrices: Set[str], make: functools.partial) -> Optimizer:
    """Return the optimizer of a model.

    Args:
        matrices: names of the parameters that weight decay acts on.
        make: a partial that takes parameter groups; with a parameter `hidden`, as Muon has, also hidden_weights.
    """
    groups = parameter_groups(model, matrices)
    if "hidden" in inspect.signature(make).parameters:
        return make(groups, hidden=hidden_weights(model))
    return make(groups)


def parameter_groups(model: nn.Module, matrices: Set[str]) -> list[dict]:
    """Split parameters by name so that weight decay acts on matrices only, not on biases and norms."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for name, parameter in named if name in matrices]},
        {"params": [parameter for name, parameter in named if name not in matrices], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def hidden_weights(model: nn.Module) -> set[nn.Parameter]:
    """Return the weights of linear layers, but for the head and so for what it shares with the embeddings."""
    modules = model.named_modules()
    return {module.weight for name, module in modules if isinstance(module, nn.Linear) and name != "lm_head"}
