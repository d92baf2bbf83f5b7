"""hydra/sweeper=optuna: the runs of a search are the trials of a study, asked for one by one and told how they ended.

What a trial came to is read from its run directory, so any launcher will do, and a command that was killed goes on:
trials that it left unfinished are resumed, and new ones are asked for until the study has as many as wanted.
"""

from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from molino.base.errors import ConfigError
from molino.configuration.build import construct_arguments
from molino.configuration.composer import Composer
from molino.configuration.identity import canonical
from molino.runs.measures import MAXIMIZE, MINIMIZE
from molino.search.samplers import make_sampler
from molino.search.space import corners, describe, search_space
from molino.search.study import Pruner, open_study
from molino.search.trial import check_declared, curve, direction_of
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
    objective: str | None
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

    @property
    def pruning(self) -> Pruner:
        return Pruner(self.pruner, self.pruner_startup_trials, self.pruner_warmup_steps)

    def towards(self, tasks: list[dict[str, Any]]) -> "Search":
        """Return this search with its objective, by itself what decides, and the direction in which that improves.

        Args:
            tasks: settings of the tasks of its runs.

        Raises:
            ConfigError: it is not measured by all, or improves in several directions, or in none.
        """
        monitors = {str(task["monitor"]) for task in tasks}
        if self.objective is None and len(monitors) > 1:
            raise ConfigError(
                f"the runs of this search have several monitors, {' and '.join(sorted(monitors))}: add "
                "hydra.sweeper.objective=<metric>, one that all of them measure"
            )
        objective = self.objective or monitors.pop()
        directions = {direction_of(objective, task) for task in tasks}
        if self.direction is None and (len(directions) > 1 or directions == {None}):
            why = (
                "improves in another direction in each task"
                if len(directions) > 1
                else "is better in neither direction"
            )
            raise ConfigError(
                f"hydra.sweeper.objective={objective} {why}: add hydra.sweeper.direction=minimize or maximize"
            )
        if self.pruner is not None:
            curve(objective)
        return replace(self, objective=objective, direction=self.direction or directions.pop())

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
    overrides = read_overrides(arguments, search.params, context.config_loader)
    space = search_space(overrides)
    search.sampler_of(0, space)  # a sampler that is not for this space shows here
    swept, fixed = split(overrides)
    search = search.towards(tasks_of(Runs(space, fixed, Composer(context.config_loader, config))))
    words = {key: describe(distribution) for key, distribution in space.items()}
    goal = [f"objective={search.objective},{search.direction}", *(f"{key}={text}" for key, text in words.items())]
    directory = place(config, sweep_names(swept, [*fixed, *goal], prefix="search-"))
    runs = Runs(space, fixed, Composer(context.config_loader, config))
    # Every choice and every end of a range has to compose, or nothing is trained.
    samples = [runs.request(params) for params in corners(space)]
    launcher = make_launcher(context, task, config, samples)
    if not launcher.waits:
        raise ConfigError("a search waits for its runs: add hydra.launcher.wait=true")
    if not launcher.ready(samples):
        return
    identity = {"objective": search.objective, "direction": search.direction, "space": words}
    typed = [override for override in fixed if not override.lstrip("+").startswith("paths.")]
    study = open_study(directory, identity | {"settings": samples[0].asked}, typed, search.direction, runs.unlike)
    trials = Trials(study, runs, search)
    try:
        trials.run(launcher, most_demanding(samples))
    finally:
        launcher.close()
    trials.conclude(directory, launcher)


def tasks_of(runs: Runs) -> list[dict[str, Any]]:
    """Return the settings of the tasks of some runs, each once.

    Raises:
        ConfigError: one names no monitor, or another direction than that has. Of one that is set as it was made nothing
            is asked: its class brings torch.
    """
    own = any(key.startswith("task") for key in runs.space)
    points = corners(runs.space) if own else [next(iter(corners(runs.space)))]
    found = {canonical(task): task for task in (runs.request(params).settings.get("task") for params in points)}
    for task in found.values():
        if not isinstance(task, dict) or not {"monitor", "direction"} <= task.keys():
            raise ConfigError(f"task={task} names no monitor and direction to search by: choose one with task=<name>")
        if any(override.lstrip("+").startswith("task.") for override in (*runs.fixed, *runs.space)):
            check_declared(task)
    return list(found.values())


def read_overrides(arguments: list[str], params: dict[str, Any] | None, loader: Any) -> list[Override]:
    """Return what was typed, and before it those of the sweeper's `params` that it does not replace."""
    typed = parse(arguments, None, loader)
    given = {override.key_or_group for override in typed}
    return [*(each for each in parse([], params, loader) if each.key_or_group not in given), *typed]
