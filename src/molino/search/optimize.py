"""hydra/sweeper=optuna: the runs of a search are the trials of a study, asked for one by one and told how they ended.

What a trial came to is read from its run directory, so any launcher will do, and a command that was killed goes on:
trials that it left unfinished are resumed, and new ones are asked for until the study has as many as wanted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from molino.config import build
from molino.console import say
from molino.errors import ConfigError
from molino.runs.status import DONE, FAILED, enqueue, read_status
from molino.search.space import search_space
from molino.search.study import Pruner, make_sampler, open_study
from molino.search.trial import curve, write_trial
from molino.sweeps.ledger import check_launcher, close, conclude, launch, make_launcher, molinos, place, waits
from molino.sweeps.plan import Composer, Job, parse, refuse_other, run_name, split, sweep_name


@dataclass(frozen=True)
class Search:
    """The settings of a search; conf/hydra/sweeper/optuna.yaml tells what each means."""

    n_trials: int
    objective: str
    direction: str
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
        for name in ("n_trials", "attempts", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"hydra.sweeper.{name}={getattr(self, name)} must be at least 1")

    @property
    def pruning(self) -> Pruner:
        return Pruner(self.pruner, self.pruner_startup_trials, self.pruner_warmup_steps)


def sweep(
    context: Any, task_function: Callable[..., Any], config: DictConfig, arguments: list[str], settings: dict[str, Any]
) -> None:
    """Search for the settings with the best objective.

    Args:
        settings: of the sweeper; see Search. Else as molino.sweeps.grid.sweep.

    Raises:
        ConfigError, CheckpointError, HydraException: the search makes no sense; nothing was trained.
        SweepFailed: some runs failed.
    """
    search: Search = build({"_target_": "molino.search.optimize.Search", **settings}, "hydra.sweeper")
    overrides = parse(arguments, search.params, context.config_loader)
    space = search_space(overrides)
    swept, fixed = split(overrides)
    goal = f"objective={search.objective},{search.direction}"
    directory = place(config, sweep_name(swept, [*fixed, goal], prefix="search-"))
    composer = Composer(context.config_loader, config)
    identity = {"asked": composer.job(fixed, "defaults").asked, "objective": search.objective}
    sampler = make_sampler(search.sampler, search.seed, search.startup_trials, space)
    if search.pruner is not None:
        curve(search.objective)  # whether runs can be pruned by it shows before any is trained
    launcher = make_launcher(context, task_function, config)
    if not waits(launcher):
        raise ConfigError("a search waits for its runs: add hydra.launcher.wait=true")
    study = open_study(directory, identity, search.direction, sampler, search.pruning)
    trials = Trials(study, space, fixed, composer, search)
    try:
        trials.run(launcher)
    finally:
        close(launcher)
    trials.conclude(directory, launcher)


class Trials:
    """The trials of a study as runs.

    Args:
        space: what to search for, by setting.
        fixed: the overrides that all runs share.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: dict[str, BaseDistribution],
        fixed: list[str],
        composer: Composer,
        search: Search,
    ):
        self.study, self.space, self.fixed, self.composer, self.search = study, space, fixed, composer, search
        self.launched: set[Path] = set()

    def run(self, launcher: Any) -> None:
        """Train until the study has as many finished trials as wanted."""
        jobs = self.jobs()
        if (first := next(jobs, None)) is None:
            return
        check_launcher([first], launcher)
        if runs := molinos(launcher):
            runs.train(chain([first], jobs), first, self.search.n_trials - len(self._finished()))
        else:
            batch = [first, *islice(jobs, self.search.batch - 1)]
            while batch:
                launch(launcher, batch)
                batch = list(islice(jobs, self.search.batch))
        self.tell()

    def jobs(self) -> Iterator[Job]:
        """Yield the runs to train: first those that an earlier command left unfinished."""
        self.tell()
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            yield from self._launch(trial.number, trial.params)
        while True:
            self.tell()
            if len(self.study.get_trials(deepcopy=False)) >= self.search.n_trials or self._hopeless():
                return
            trial = self.study.ask(self.space)
            yield from self._launch(trial.number, trial.params)

    def tell(self) -> None:
        """Tell the study how the runs ended that have ended since."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            job = self._job(trial.params)
            status = read_status(job.path)
            if status.state == DONE and status.summary.get("pruned"):
                self.study.tell(trial.number, state=TrialState.PRUNED)
            elif status.state == DONE:
                self.study.tell(trial.number, self._value(status.summary))
            elif status.state == FAILED and job.path in self.launched:
                self.study.tell(trial.number, state=TrialState.FAIL)

    def conclude(self, directory: Path, launcher: Any) -> None:
        """Tell what was found.

        Raises:
            SweepFailed: some runs failed.
        """
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        pruned = self.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
        say(f"{len(complete)} trials ended as planned, {len(pruned)} were pruned")
        if complete:
            best = self.study.best_trial
            found = " ".join(f"{key}={value}" for key, value in best.params.items())
            say(f"best: {self.search.objective} {best.value:.4f} of trial {best.number}: {found}")
            say(f"      {self._job(best.params).path}")
        jobs = {job.path: job for job in (self._job(t.params) for t in self.study.get_trials(deepcopy=False))}
        if jobs:
            conclude(list(jobs.values()), directory, launcher)

    def _launch(self, number: int, params: dict[str, Any]) -> Iterator[Job]:
        """Yield the run of a trial, unless another trial has asked for the same one."""
        job = self._job(params)
        status = read_status(job.path)
        refuse_other(job, status, self.composer)
        if job.path in self.launched or status.state == DONE:
            return
        self.launched.add(job.path)
        enqueue(job.path, list(job.overrides), job.asked)
        if self.search.pruner is not None:
            write_trial(job.path, number, curve(self.search.objective), vars(self.search.pruning))
        yield job

    def _job(self, params: dict[str, Any]) -> Job:
        overrides = [*self.fixed, *(f"{key}={params[key]}" for key in self.space if key in params)]
        return self.composer.job(overrides, run_name(overrides, list(self.space)))

    def _value(self, summary: dict[str, Any]) -> float:
        value = summary.get(self.search.objective)
        if not isinstance(value, int | float):
            numbers = ", ".join(key for key, found in summary.items() if isinstance(found, int | float))
            raise ConfigError(
                f"hydra.sweeper.objective={self.search.objective} is not in summary.json: choose among {numbers}"
            )
        return value

    def _finished(self) -> list[Any]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def _hopeless(self) -> bool:
        """Tell whether so many runs have failed in a row that the next ones would as well."""
        last = [trial.state for trial in self._finished()][-self.search.attempts :]
        return len(last) == self.search.attempts and set(last) == {TrialState.FAIL}
