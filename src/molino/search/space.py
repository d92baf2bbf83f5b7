"""A search space in Hydra's own syntax, as Optuna's distributions.

    model=choice(gpt,llama)   optimizer.lr=tag(log,interval(1e-4,1e-1))   model.n_layer=range(1,7)   seed=0,1

An interval between whole numbers takes whole numbers. As everywhere in Hydra a range leaves out its end.
"""

from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from molino.errors import ConfigError


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


def _distribution(override: Override) -> BaseDistribution:
    try:
        if override.is_interval_sweep():
            return _interval(override.value())
        if override.is_range_sweep():
            return _range(override)
        return CategoricalDistribution(tuple(override.sweep_string_iterator()))
    except ValueError as error:
        raise ConfigError(f"{override.input_line} is no space to search in: {error}") from error


def _interval(interval: IntervalSweep) -> BaseDistribution:
    whole = isinstance(interval.start, int) and isinstance(interval.end, int)
    kind = IntDistribution if whole or "int" in interval.tags else FloatDistribution
    return kind(interval.start, interval.end, log="log" in interval.tags)


def _range(override: Override) -> BaseDistribution:
    listed = [float(text) for text in override.sweep_string_iterator()]
    if not listed:
        raise ValueError("it is empty")
    low, high, step = min(listed), max(listed), abs(override.value().step)
    if all(number == int(number) for number in (*listed, step)):
        return IntDistribution(int(low), int(high), step=int(step))
    return FloatDistribution(low, high, step=step)
