"""A search space in Hydra's own syntax, as Optuna's distributions.

    model=choice(gpt,llama)   optimizer.lr=tag(log,interval(1e-4,1e-1))   model.n_layer=range(1,7)   seed=0,1

An interval holds both of its ends, and whole numbers only where Hydra is told so: `int(interval(1,8))`. A range leaves
out its end.
"""

import math
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, Transformer
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from molino.base.errors import ConfigError

TAGS = {"log", "int"}


def search_space(overrides: list[Override]) -> dict[str, BaseDistribution]:
    """Return a distribution for each setting that is to be searched for.

    Raises:
        ConfigError: there is none, or one is empty or not to be searched in.
    """
    space = {o.get_key_element(): _distribution(o) for o in overrides if o.is_sweep_override()}
    if not space:
        raise ConfigError(
            "the search space is empty: give some settings as choice(...), range(...) or interval(...), such as "
            "'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
        )
    return space


def values(distribution: BaseDistribution) -> list[Any] | None:
    """Return all values of a distribution, None where they cannot be listed."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if distribution.step is None:
        return None
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    return [distribution.low + number * distribution.step for number in range(count)]


def describe(distribution: BaseDistribution) -> str:
    """Return a distribution in words that do not change with Optuna's version."""
    if isinstance(distribution, CategoricalDistribution):
        return f"choice({','.join(map(str, distribution.choices))})"
    step = f" by {distribution.step}" if distribution.step is not None else ""
    return f"{distribution.low} to {distribution.high}{step}{' log' if distribution.log else ''}"


def corners(space: dict[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Return some points of a space: each choice and each end of a range occurs in one, beside the others' first."""
    ends = {k: list(d.choices) if isinstance(d, CategoricalDistribution) else [d.low, d.high] for k, d in space.items()}
    first = {key: options[0] for key, options in ends.items()}
    return [first, *({**first, key: option} for key, options in ends.items() for option in options[1:])]


def _distribution(override: Override) -> BaseDistribution:
    try:
        if unknown := getattr(override.value(), "tags", set()) - TAGS:
            raise ValueError(f"tag {min(unknown)} is unknown, there are {' and '.join(sorted(TAGS))}")
        if override.is_interval_sweep():
            return _interval(override.value())
        if override.is_range_sweep():
            return _range(override)
        return _choice(override)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"{override.input_line} is no space to search in: {error}") from error


def _choice(override: Override) -> BaseDistribution:
    if getattr(override.value(), "tags", None):
        raise ValueError("tags are for intervals and ranges")
    # Not by Hydra's iterator where it would shuffle: the study knows a choice by its place.
    shuffled = isinstance(override.value(), ChoiceSweep) and override.value().shuffle
    listed = map(Transformer.str, override.value().list) if shuffled else override.sweep_string_iterator()
    return CategoricalDistribution(tuple(dict.fromkeys(listed)))


def _interval(interval: IntervalSweep) -> BaseDistribution:
    low, high = interval.start, interval.end
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("its ends must be finite")
    if low >= high:
        raise ValueError("it is empty, as its end is not above its start")
    log = "log" in interval.tags
    # Hydra reads all ends as floats, unless int(...) or float(...) says otherwise.
    if not ("int" in interval.tags or isinstance(low, int)):
        return FloatDistribution(low, high, log=log)
    if math.ceil(low) > math.floor(high):
        raise ValueError("there is no whole number in it")
    return IntDistribution(math.ceil(low), math.floor(high), log=log)


def _range(override: Override) -> BaseDistribution:
    listed, tags = [float(text) for text in override.sweep_string_iterator()], override.value().tags
    if not listed:
        raise ValueError("it is empty")
    low, high, step = min(listed), max(listed), abs(override.value().step)
    if all(number == int(number) for number in (*listed, step)):
        return IntDistribution(int(low), int(high), step=int(step), log="log" in tags)
    if "int" in tags:
        raise ValueError("its values are no whole numbers")
    return FloatDistribution(low, high, step=step, log="log" in tags)
