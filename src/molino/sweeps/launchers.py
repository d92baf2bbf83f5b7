"""What trains the runs of a sweep, by one interface: here, by molino's own launchers, or by any other of Hydra's.

ready(requests)        check and prepare what there is to train, before anything is recorded; false: it is only shown
train(requests, largest, count, at_once)
                       train runs; `largest` is the one that wants most of a machine, `at_once` how many a search has
                       begun at a time, where the machine does not say
waits                  the runs have ended when `train` returns
one_by_one             asks for the next run when it has a place for it
distributes            can train a run over several processes
scheduler              the name of the scheduler whose jobs it knows; see molino.sweeps.standing
close()                end the processes that it keeps
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from molino.base.errors import ConfigError
from molino.configuration.composer import for_hydra
from molino.configuration.internals import trains_here
from molino.configuration.request import Request
from molino.sweeps.attempt import Train, attempt

# Hydra's launchers return, and keep until they do, the whole configuration of each run, and each run takes longer the
# more of them there are. Between two portions workers may wait for each other, so there are few.
PORTION = 200


class Here:
    """One run after the other, in the process of the sweep."""

    waits, one_by_one, distributes, scheduler = True, False, False, None

    def __init__(self, train: Train):
        self._train = train

    def ready(self, requests: list[Request]) -> bool:
        return True

    def train(self, requests: Iterator[Request], largest: Request, count: int, at_once: int | None = None) -> None:
        for request in requests:
            attempt(self._train, request)

    def close(self) -> None:
        """Nothing is kept."""


class Elsewhere:
    """By a launcher of Hydra's, which composes each run again."""

    waits, one_by_one, distributes, scheduler = True, False, False, None

    def __init__(self, launcher: Any):
        self._launcher = launcher

    def ready(self, requests: list[Request]) -> bool:
        return True

    def train(self, requests: Iterator[Request], largest: Request, count: int, at_once: int | None = None) -> None:
        start = 0
        while portion := [for_hydra(request) for request in islice(requests, PORTION)]:
            self._launcher.launch(portion, initial_job_idx=start)
            start += len(portion)

    def close(self) -> None:
        """It keeps nothing that it could be told to end."""


def make_launcher(context: Any, task: Any, config: DictConfig, requests: list[Request]) -> Any:
    """Return what `hydra/launcher` names.

    Args:
        context, task, config: Hydra's, what it calls with a composed configuration, and that of the sweep's command.
        requests: runs that it is to train.

    Raises:
        ConfigError: it cannot train them, or Hydra is asked for something that only its own sweeper does.
    """
    hydras = Plugins.instance().instantiate_launcher(context, task, config)
    own = Here(task.run) if trains_here(hydras) else Elsewhere(hydras)
    launcher = getattr(hydras, "runs", own)
    for name in ("chdir", "env_set", "env_copy"):
        if (asked := config.hydra.job.get(name)) and not isinstance(launcher, Elsewhere):
            raise ConfigError(
                f"hydra.job.{name}={asked} has no effect on the runs of a sweep: set what they need before the command"
            )
    distributed = next((request for request in requests if request.processes > 1), None)
    if distributed is not None and not launcher.distributes:
        raise ConfigError(
            f"{distributed.name} takes {distributed.processes} processes, the first of which has to be its own: add "
            "hydra/launcher=local or hydra/launcher=slurm"
        )
    return launcher
