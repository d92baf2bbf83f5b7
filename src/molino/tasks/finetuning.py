"""Which weights of a model a task lets learn, and how fast."""

import math
from collections.abc import Iterator

from torch import nn

from molino.base.errors import ConfigError
from molino.models.capabilities import capabilities_of
from molino.models.with_head import WithHead


def freeze(network: WithHead, how: str | int, lm_coef: float) -> None:
    """Keep weights of the model as they are: `none`, `all`, or its tables and so many layers.

    Raises:
        ConfigError: it has not so many, names none, or there is nothing for the language model's loss to teach.
    """
    can = capabilities_of(network.model)
    if lm_coef and (can.both_ways or can.source):
        raise ConfigError(f"{type(network.model).__name__} foretells no token of what it has read: add task.lm_coef=0")
    if how == "none":
        return
    if how == "all":
        if lm_coef:
            raise ConfigError("task.freeze=all leaves the language model nothing to learn: add task.lm_coef=0")
        network.model.requires_grad_(False)
        return
    layers = _layers(network, f"task.freeze={how}")
    if not isinstance(how, int) or not 0 <= how < len(layers):
        raise ConfigError(f"task.freeze={how} is unknown: say none, all, or how many layers, up to {len(layers) - 1}")
    for group in layers[: how + 1]:
        for part in group:
            for parameter in _parameters(network.model, part):
                parameter.requires_grad_(False)


def rates(network: WithHead, decay: float) -> dict[str, float]:
    """Return which share of the rate each parameter learns with: each layer `decay` times that of the one above it.

    Raises:
        ConfigError: `decay` is out of range, or the model names no layers.
    """
    if not (math.isfinite(decay) and 0 < decay <= 1):
        raise ConfigError(f"task.layer_decay={decay} is out of range: choose from above 0 to 1, which is none")
    if decay == 1:
        return {}
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = {}
    for above, group in enumerate(reversed(_layers(network, f"task.layer_decay={decay}")), start=1):
        for part in group:
            found |= {names[id(parameter)]: decay**above for parameter in _parameters(network.model, part)}
    return found


def _layers(network: WithHead, setting: str) -> tuple[tuple[str, ...], ...]:
    layers = capabilities_of(network.model).layers
    if not layers:
        raise ConfigError(f"{setting}: {type(network.model).__name__} names no layers (capabilities.layers)")
    return layers


def _parameters(model: nn.Module, part: str) -> Iterator[nn.Parameter]:
    return (
        parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name == part or name.startswith(f"{part}.")
    )
