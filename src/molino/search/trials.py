"""The trials of a study as runs: which are asked for, which go on, and what the study is told of them."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from molino.base.console import say
from molino.base.errors import ConfigError
from molino.base.files import explain_os_errors, is_locked
from molino.configuration.composer import Composer
from molino.configuration.identity import changes, refuse_other
from molino.configuration.request import Request
from molino.runs.directory import LOCK
from molino.runs.measures import MAXIMIZE
from molino.runs.status import DONE, FAILED, enqueue, read_status
from molino.search.internals import complete, reopen
from molino.search.samplers import Grid
from molino.search.trial import TRIAL, curve, write_trial
from molino.sweeps.ledger import GRACE, conclude, launch
from molino.sweeps.plan import run_name, varied


@dataclass(frozen=True)
class Runs:
    """What the runs of a search are composed of.

    Attributes:
        space: what to search for, by setting.
        fixed: the overrides that all runs share.
    """

    space: dict[str, BaseDistribution]
    fixed: list[str]
    composer: Composer

    def request(self, params: dict[str, Any]) -> Request:
        """Return the run with these values of the settings."""
        overrides = [*self.fixed, *(f"{key}={params[key]}" for key in self.space)]
        return self.composer.request(
            overrides, run_name(overrides, list(self.space)), varied(overrides, list(self.space))
        )

    def unlike(self, study: optuna.Study) -> bool:
        """Tell whether the runs of a study were trained with other settings than are asked for now."""
        requests = map(self.request, (trial.params for trial in filter(self.whole, study.get_trials(deepcopy=False))))
        return any(changes(request.path, request.settings) for request in requests)

    def whole(self, trial: FrozenTrial) -> bool:
        """Tell whether a trial has values of all settings; they are recorded one by one."""
        return trial.params.keys() >= self.space.keys()


class Trials:
    """The trials of a study.

    Args:
        search: the settings; see molino.search.optimize.Search.
    """

    def __init__(self, study: optuna.Study, runs: Runs, search: Any):
        self.study, self.runs, self.search = study, runs, search
        # The runs that this command has begun, and how often each had failed before.
        self.begun: dict[Path, int] = {}
        self.failed: set[Path] = set()
        self.failed_in_a_row = 0
        # Whether the launcher knows what has become of runs that an earlier command has handed to it.
        self.watches = False

    def run(self, launcher: Any, largest: Request) -> None:
        """Train until the study has as many finished trials as wanted.

        Args:
            largest: of the runs that may be asked for, the one that wants most of the machine.
        """
        self.watches = launcher.scheduler is not None
        self.tell()
        running, ended = (
            len(self._trials(TrialState.RUNNING)),
            len(self._trials()) - len(self._trials(TrialState.RUNNING)),
        )
        go_on = f", {running} to go on with" if running else ""
        say(f"search {largest.path.parent}: {ended} of {self.search.n_trials} trials have ended{go_on}")
        requests = self.requests()
        if (first := next(requests, None)) is not None:
            requests = chain([first], requests)
            if launcher.one_by_one:
                count = max(self.search.n_trials - ended, running)
                launcher.train(requests, largest, count, self.search.batch)
            else:
                while batch := list(islice(requests, self.search.batch)):
                    launch(launcher, batch)
        self.tell()
        self._take_over(launcher)
        if self._hopeless():
            say(f"{self.failed_in_a_row} runs in a row failed: the search ends; give the command again to go on")
        elif first is None and not self.begun:
            say("nothing is left to train: hydra.sweeper.n_trials counts the trials of earlier commands as well")

    def requests(self) -> Iterator[Request]:
        """Yield the runs to train: first those that an earlier command left unfinished."""
        self.tell()
        for trial in self._trials(TrialState.RUNNING):
            yield from self._launch(trial.number, self._completed(trial))
        while True:
            self.tell()
            number = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = self.search.sampler_of(number, self.runs.space)
            if len(self._trials()) >= self.search.n_trials or self._hopeless() or self._exhausted():
                return
            trial = self.study.ask(self.runs.space)
            yield from self._launch(trial.number, trial.params)

    def tell(self) -> None:
        """Tell the study how the runs ended that have ended since."""
        for trial in self._running():
            path = self.runs.request(trial.params).path
            status, value = read_status(path), None
            if status.state == DONE and status.summary.get("pruned"):
                state = TrialState.PRUNED
            elif status.state == DONE:
                state, value = TrialState.COMPLETE, self._value(path, status.summary)
            elif status.state == FAILED and status.failures > self.begun.get(path, math.inf):
                self._count_failure(path)
                if status.failures < self.search.attempts:
                    continue  # the command given again tries it again
                state = TrialState.FAIL
            else:
                continue
            # Another command may have been faster.
            self.study.tell(trial.number, value, state, skip_if_finished=True)
            if state != TrialState.FAIL:
                self.failed_in_a_row = 0

    def conclude(self, directory: Path, launcher: Any) -> None:
        """Tell what was found.

        Raises:
            SweepFailed: some runs failed.
        """
        complete = self._trials(TrialState.COMPLETE)
        say(f"{len(complete)} trials ended as planned, {len(self._trials(TrialState.PRUNED))} were pruned")
        if complete:
            best = self.study.best_trial
            found = " ".join(f"{key}={value}" for key, value in best.params.items())
            say(f"best: {self.search.objective} {best.value:.4f} of trial {best.number}: {found}")
            say(f"      {self.runs.request(best.params).path}")
        # Of trials with the same values there is one run.
        found = (self.runs.request(trial.params) for trial in filter(self.runs.whole, self._trials()))
        requests = {request.path: request for request in found}
        if requests:
            conclude(list(requests.values()), directory, launcher)

    def _launch(self, number: int, params: dict[str, Any]) -> Iterator[Request]:
        """Yield the run of a trial, unless another trial has asked for the same one or another process trains it."""
        request = self.runs.request(params)
        status = read_status(request.path)
        if status.asked != request.asked:
            refuse_other(request.path, request.settings)
        held = is_locked(request.path / LOCK) and not self.watches
        if request.path in self.begun or status.state == DONE or held:
            return
        self.begun[request.path] = status.failures
        with explain_os_errors(request.path, "; set paths.outputs"):
            enqueue(request.path, request.overrides, request.asked)
            if self.search.pruner is not None:
                write_trial(request.path, number, curve(self.search.objective), vars(self.search.pruning))
            else:
                (request.path / TRIAL).unlink(missing_ok=True)
        yield request

    def _take_over(self, launcher: Any) -> None:
        """Train what processes of an earlier command, killed a moment ago, were still holding."""
        deadline = time.monotonic() + GRACE
        while held := [trial for trial in self._running() if self.runs.request(trial.params).path not in self.begun]:
            if free := [request for trial in held for request in self._launch(trial.number, trial.params)]:
                launch(launcher, free)
            elif time.monotonic() > deadline:
                return
            else:
                time.sleep(0.1)
            self.tell()

    def _completed(self, trial: FrozenTrial) -> dict[str, Any]:
        """Return the values of a trial; those that it lacks, because it was killed in the making, are drawn now."""
        if not self.runs.whole(trial):
            self.study.sampler = self.search.sampler_of(trial.number, self.runs.space)
            half = reopen(self.study, trial)
            complete(half, self.runs.space)
            return half.params
        return trial.params

    def _value(self, run: Path, summary: dict[str, Any]) -> float:
        if self.search.objective not in summary:
            raise ConfigError(f"hydra.sweeper.objective={self.search.objective} is not in {run / 'summary.json'}")
        # JSON has no infinity; see molino.runs.directory.write_summary.
        worst = -math.inf if self.search.direction == MAXIMIZE else math.inf
        return worst if summary[self.search.objective] is None else summary[self.search.objective]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in these states; without any, all but those that somebody has put in the study's queue."""
        trials = self.study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in trials if trial.state != TrialState.WAITING]

    def _running(self) -> list[FrozenTrial]:
        """Return the trials that have not been told, but for those that another command is just asking for."""
        return [trial for trial in self._trials(TrialState.RUNNING) if self.runs.whole(trial)]

    def _count_failure(self, path: Path) -> None:
        if path not in self.failed:
            self.failed.add(path)
            self.failed_in_a_row += 1

    def _hopeless(self) -> bool:
        """Tell whether so many runs of this command have failed in a row that the next ones would as well."""
        return self.failed_in_a_row >= self.search.attempts

    def _exhausted(self) -> bool:
        return isinstance(self.study.sampler, Grid) and not self.study.sampler.left(self.study)
