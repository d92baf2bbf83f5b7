"""hydra/sweeper=optuna: the runs of a search are the trials of a study, asked for one by one and told how they ended.

What a trial came to is read from its run directory, so any launcher will do, and a command that was killed goes on:
trials that it left unfinished are resumed, and new ones are asked for until the study has as many as wanted.
"""

from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from molino.base.errors import ConfigError
from molino.configuration.build import construct_arguments
from molino.configuration.composer import Composer
from molino.configuration.request import Request
from molino.runs.measures import MAXIMIZE, MINIMIZE
from molino.search.samplers import make_sampler
from molino.search.space import corners, describe, search_space
from molino.search.study import Pruner, open_study
from molino.search.trial import curve, direction_of
from molino.search.trials import Runs, Trials
from molino.sweeps.devices import most_demanding
from molino.sweeps.launchers import make_launcher
from molino.sweeps.ledger import place
from molino.sweeps.plan import parse, split, sweep_names

# The smallest value of each.
LEAST = {
    "n_trials": 1, "attempts": 1, "batch": 1, "seed": 0, "startup_trials": 0, "pruner_startup_trials": 0,
    "pruner_warmup_steps": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Search:
    """The settings of a search; conf/hydra/sweeper/optuna.yaml tells what each means."""

    n_trials: int
    objective: str
    direction: str | None
    sampler: str
    seed: int
    startup_trials: int
    pruner: str | None
    pruner_startup_trials: int
    pruner_warmup_steps: int
    attempts: int
    batch: int
    params: dict | None

    def __post_init__(self):
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"hydra.sweeper.{name}={getattr(self, name)} must be at least {least}")
        if self.direction not in (None, MINIMIZE, MAXIMIZE):
            raise ConfigError(f"hydra.sweeper.direction={self.direction} is unknown: choose minimize or maximize")
        self.pruning.build()
        if self.pruner is not None:
            curve(self.objective)

    @property
    def pruning(self) -> Pruner:
        return Pruner(self.pruner, self.pruner_startup_trials, self.pruner_warmup_steps)

    def towards(self, direction: str | None) -> "Search":
        """Return this search with the direction of its objective, if it does not say another.

        Raises:
            ConfigError: the objective has none.
        """
        if self.direction is None and direction is None:
            raise ConfigError(
                f"hydra.sweeper.objective={self.objective} is no better for being higher or lower: add "
                "hydra.sweeper.direction=minimize or maximize"
            )
        return replace(self, direction=self.direction or direction)

    def sampler_of(self, trial: int, space: dict[str, BaseDistribution]) -> BaseSampler:
        """Return what proposes the trial of this number."""
        return make_sampler(self.sampler, self.seed, trial, self.startup_trials, space)


def sweep(context: Any, task: Any, config: DictConfig, arguments: list[str], settings: dict[str, Any]) -> None:
    """Search for the settings with the best objective.

    Args:
        settings: of the sweeper; see Search. Else as molino.sweeps.grid.sweep.

    Raises:
        ConfigError, CheckpointError, HydraException: the search makes no sense; nothing was trained.
        SweepFailed: some runs failed.
    """
    search = Search(**construct_arguments(Search, settings, "hydra.sweeper"))
    search = search.towards(direction_of(search.objective, task_of(config)))
    overrides = read_overrides(arguments, search.params, context.config_loader)
    space = search_space(overrides)
    search.sampler_of(0, space)  # a sampler that is not for this space shows here
    swept, fixed = split(overrides)
    words = {key: describe(distribution) for key, distribution in space.items()}
    goal = [f"objective={search.objective},{search.direction}", *(f"{key}={text}" for key, text in words.items())]
    directory = place(config, sweep_names(swept, [*fixed, *goal], prefix="search-"))
    runs = Runs(space, fixed, Composer(context.config_loader, config))
    # Every choice and every end of a range has to compose, or nothing is trained.
    samples = [runs.request(params) for params in corners(space)]
    if search.objective == task_of(config)["monitor"]:
        check_monitors(samples)
    launcher = make_launcher(context, task, config, samples)
    if not launcher.waits:
        raise ConfigError("a search waits for its runs: add hydra.launcher.wait=true")
    identity = {"objective": search.objective, "direction": search.direction, "space": words}
    typed = [override for override in fixed if not override.lstrip("+").startswith("paths.")]
    study = open_study(directory, identity | {"settings": samples[0].asked}, typed, search.direction, runs.unlike)
    trials = Trials(study, runs, search)
    try:
        trials.run(launcher, most_demanding(samples))
    finally:
        launcher.close()
    trials.conclude(directory, launcher)


def task_of(config: DictConfig) -> dict[str, Any]:
    """Return the settings of the task of a command.

    Raises:
        ConfigError: there are none.
    """
    task = OmegaConf.to_container(config.task, resolve=True) if OmegaConf.is_dict(config.get("task")) else None
    if not isinstance(task, dict) or not {"monitor", "direction"} <= task.keys():
        raise ConfigError(f"task={task} names no monitor and direction to search by: choose one with task=<name>")
    return task


def check_monitors(samples: list[Request]) -> None:
    """Refuse runs that are to be compared by what decides in each, and that is not the same.

    Raises:
        ConfigError: they are such.
    """
    found = {(request.monitor, str(request.settings["task"].get("direction"))): request for request in samples}
    if len(found) > 1:
        names = " and ".join(" ".join(pair) for pair in found)
        raise ConfigError(
            f"the runs of this search have several monitors, {names}: add hydra.sweeper.objective=<metric>"
        )


def read_overrides(arguments: list[str], params: dict[str, Any] | None, loader: Any) -> list[Override]:
    """Return what was typed, and before it those of the sweeper's `params` that it does not replace."""
    typed = parse(arguments, None, loader)
    given = {override.key_or_group for override in typed}
    return [*(each for each in parse([], params, loader) if each.key_or_group not in given), *typed]
