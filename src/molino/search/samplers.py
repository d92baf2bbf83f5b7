"""What proposes the next trial of a search: Optuna's samplers, each seeded by (seed, trial).

So a search that was killed, or that gets more trials later, neither repeats what it has drawn nor depends on how often
its command was given.
"""

import importlib.util
import itertools
import random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from molino.base.errors import ConfigError
from molino.search.space import values

SAMPLERS = ("tpe", "random", "grid", "cmaes")


class Grid(BaseSampler):
    """Every combination of the values listed, each once, in a random order.

    Optuna's own GridSampler ends Study.optimize when it has no more, which fails where trials are asked for and told.

    Args:
        space: what can be listed (see molino.search.space.values).
    """

    def __init__(self, space: dict[str, BaseDistribution], seed: int):
        self.space = space
        self._points = [
            dict(zip(space, point, strict=True)) for point in itertools.product(*(values(d) for d in space.values()))
        ]
        random.Random(seed).shuffle(self._points)

    def __len__(self) -> int:
        return len(self._points)

    def left(self, study: optuna.Study) -> list[dict[str, Any]]:
        """Return the combinations that no trial of the study has."""
        tried = {_hashable(trial.params) for trial in study.get_trials(deepcopy=False)}
        return [point for point in self._points if _hashable(point) not in tried]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.space

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        # What a trial has already, as one does that was killed in the making, stays as it is.
        points = [*self.left(study), *self._points]
        return next(point for point in points if trial.params.items() <= point.items())

    def sample_independent(self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        raise AssertionError(f"{param_name} is not of the grid")


def _hashable(params: dict[str, Any]) -> frozenset:
    return frozenset(params.items())


def make_sampler(name: str, seed: int, trial: int, startup_trials: int, space: dict[str, BaseDistribution]) -> Any:
    """Return the sampler of one trial.

    Args:
        trial: its number.

    Raises:
        ConfigError: there is none of this name, it needs a package, or the space is not for it.
    """
    mixed = random.Random(f"{seed},{trial}").getrandbits(32)
    if name == "random":
        return RandomSampler(seed=mixed)
    if name == "tpe":
        return TPESampler(seed=mixed, n_startup_trials=startup_trials)
    if name == "grid":
        if endless := [key for key, distribution in space.items() if values(distribution) is None]:
            raise ConfigError(f"hydra.sweeper.sampler=grid needs values to list: give {endless[0]} as choice or range")
        return Grid(space, seed)
    if name == "cmaes":
        if importlib.util.find_spec("cmaes") is None:
            raise ConfigError("hydra.sweeper.sampler=cmaes needs a package: pip install cmaes")
        # It is for numbers; choices are drawn at random, which it would say at every trial.
        return CmaEsSampler(seed=mixed, n_startup_trials=startup_trials, warn_independent_sampling=False)
    raise ConfigError(f"hydra.sweeper.sampler={name} is unknown: choose {', '.join(SAMPLERS)}")
