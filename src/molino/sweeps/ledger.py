"""Which runs of a sweep are left, and what became of them: read from their directories alone."""

import shlex
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from omegaconf import DictConfig, open_dict

from molino.base.console import say, show_rows
from molino.base.errors import CheckpointError, ConfigError, SweepFailed
from molino.base.files import explain_os_errors, is_locked
from molino.configuration.composer import for_hydra
from molino.configuration.identity import differences
from molino.configuration.internals import trains_here
from molino.configuration.request import Request
from molino.configuration.settings import begin_from
from molino.runs.directory import CONFIG, LOCK, read_config
from molino.runs.status import CUT_OFF, DONE, FAILED, QUEUED, RUNNING, Status, enqueue, read_status
from molino.sweeps.attempt import Train, attempt
from molino.sweeps.devices import most_demanding

# How long the processes of a sweep that was killed may take to save and end, in seconds.
GRACE = 15.0


def place(config: DictConfig, names: list[str]) -> Path:
    """Name the sweep of `config`, if the person has not, and return its directory.

    Args:
        names: what it is called, and what an earlier version called it.
    """
    given = config.sweep
    if given is not None and (str(given) in ("", ".", "..") or "/" in str(given)):
        raise ConfigError(f"sweep={given} cannot name a sweep's directory: choose a name without /")
    for name in reversed(names if given is None else [given]):
        with open_dict(config):
            config.sweep = name
        directory = Path(str(config.hydra.sweep.dir))
        if directory.is_dir():
            break
    return directory


def make_launcher(context: Any, task_function: Callable[..., Any], config: DictConfig) -> Any:
    """Return the launcher that `hydra/launcher` names.

    Raises:
        ConfigError: Hydra is asked for something that only its own sweeper does.
    """
    for name in ("chdir", "env_set", "env_copy"):
        if asked := config.hydra.job.get(name):
            raise ConfigError(
                f"hydra.job.{name}={asked} has no effect on the runs of a sweep: set what they need before the command"
            )
    return Plugins.instance().instantiate_launcher(context, task_function, config)


def queue(requests: list[Request], attempts: int) -> list[Request]:
    """Return the runs that are left, and record them as queued; tell how many there are of each kind.

    Raises:
        CheckpointError: one of the directories is taken by a run with other settings.
    """
    pending, kinds = [], Counter()
    for request in requests:
        status = read_status(request.path)
        refuse_other(request, status)
        kind = _kind(status, attempts)
        kinds[kind] += 1
        if kind not in ("done", "given up"):
            pending.append(request)
            with explain_os_errors(request.path, "; set paths.outputs"):
                enqueue(request.path, request.overrides, request.asked)
    found = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    say(f"sweep {requests[0].path.parent}: {len(requests)} run{'s' * (len(requests) != 1)}: {found}")
    return pending


def refuse_other(request: Request, status: Status) -> None:
    """Refuse to go on with, or to skip, a run that was asked for with other settings.

    Raises:
        CheckpointError: its directory is taken by such a run.
    """
    if status.asked in (None, request.asked):
        return
    if changed := changes(request):
        shown = "; ".join(f"{key} {old} -> {new}" for key, (old, new) in list(changed.items())[:3])
        raise CheckpointError(
            f"{request.path} was trained with other settings ({shown}): give this sweep a name of its own with "
            "sweep=<name>"
        )


def changes(request: Request) -> dict[str, tuple[Any, Any]]:
    """Return how a run that has begun in this directory differs from what is asked for: key -> (its own, asked for)."""
    if not (request.path / CONFIG).is_file():
        return {}
    return differences(read_config(request.path), begin_from(request.settings))


def check_launcher(requests: list[Request], launcher: Any) -> None:
    """Refuse to train runs over several processes one after the other in the same process.

    Raises:
        ConfigError: the launcher does that, and a run would meet the ranks and ports of the one before.
    """
    distributed = next((request for request in requests if request.processes > 1), None)
    if distributed is not None and molinos(launcher) is None:
        raise ConfigError(
            f"{distributed.name} takes {distributed.processes} processes, the first of which has to be its own: add "
            "hydra/launcher=local or hydra/launcher=slurm"
        )


def molinos(launcher: Any) -> Any:
    """Return what trains the runs of one of molino's own launchers (see molino.sweeps.local); None of any other."""
    return getattr(launcher, "runs", None)


def launch(launcher: Any, requests: list[Request], train: Train) -> None:
    """Train the runs: here, one after the other; by one of molino's launchers; or by any other of Hydra's."""
    if runs := molinos(launcher):
        runs.train(iter(requests), most_demanding(requests), len(requests))
    elif trains_here(launcher):
        for request in requests:
            attempt(train, request)
    else:
        launcher.launch([for_hydra(request) for request in requests], initial_job_idx=0)


def launch_all(launcher: Any, requests: list[Request], train: Train) -> None:
    """Train the runs, also those that processes of an earlier sweep, killed a moment ago, were still holding."""
    if requests:
        launch(launcher, requests, train)
    deadline, left = time.monotonic() + GRACE, list(requests) if waits(launcher) else []
    while left := [each for each in left if read_status(each.path).state in (QUEUED, RUNNING, CUT_OFF)]:
        if free := [each for each in left if not is_locked(each.path / LOCK)]:
            launch(launcher, free, train)
            left = [each for each in left if each not in free]
        elif time.monotonic() > deadline:
            return
        else:
            time.sleep(0.1)


def waits(launcher: Any) -> bool:
    """Tell whether the runs have ended when the launcher returns."""
    return getattr(molinos(launcher), "waits", True)


def close(launcher: Any) -> None:
    """End the processes that a launcher keeps."""
    if runs := molinos(launcher):
        runs.close()


def conclude(requests: list[Request], directory: Path, launcher: Any) -> None:
    """Tell what became of all runs, and what to type next.

    Raises:
        SweepFailed: some failed, or have not ended although the launcher waits for them.
    """
    statuses = {request.path: read_status(request.path) for request in requests}
    counts = Counter(status.state for status in statuses.values())
    failed = {path: status for path, status in statuses.items() if status.state == FAILED}
    if failed:
        rows = [(path.name, str(status.failures), status.error or "") for path, status in failed.items()]
        show_rows("failed", ("run", "times", "because"), rows, words=("because",))
    say(f"{directory}: " + ", ".join(f"{counts[state]} {state or 'gone'}" for state in (DONE, *counts.keys() - {DONE})))
    if waits(launcher) and counts[RUNNING]:
        say("what is running is being trained by another process: give this command again when that has ended")
    say(f"next: python scripts/results.py {shlex.quote(str(directory))}")
    if failed:
        first = next(iter(failed))
        raise SweepFailed(
            f"{len(failed)} of {len(requests)} runs failed: see traceback.txt and log.txt in their "
            f"directories, such as {first}",
            failed[first].exit_code,
        )
    if waits(launcher) and (left := len(requests) - counts[DONE] - counts[RUNNING]):
        raise SweepFailed(
            f"{left} of {len(requests)} runs have not ended: give the command again to go on with them", 1
        )


def _kind(status: Status, attempts: int) -> str:
    if status.state == DONE:
        return "done"
    if status.state == FAILED:
        return "to try again" if status.failures < attempts else "given up"
    return {CUT_OFF: "to go on with", RUNNING: "being trained"}.get(status.state, "new")
