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
from molino.base.errors import ConfigError, SweepFailed
from molino.base.files import explain_os_errors, is_locked
from molino.runs.directory import LOCK
from molino.runs.status import CUT_OFF, DONE, FAILED, QUEUED, RUNNING, Status, enqueue, read_status
from molino.sweeps.devices import most_demanding
from molino.sweeps.plan import Composer, Job, refuse_other

# How long the processes of a sweep that was killed may take to save and end, in seconds.
GRACE = 15.0


def place(config: DictConfig, name: str) -> Path:
    """Name the sweep of `config`, if the person has not, and return its directory."""
    with open_dict(config):
        if config.sweep is None:
            config.sweep = name
        elif str(config.sweep) in ("", ".", "..") or "/" in str(config.sweep):
            raise ConfigError(f"sweep={config.sweep} cannot name a sweep's directory: choose a name without /")
    return Path(str(config.hydra.sweep.dir))


def make_launcher(context: Any, task_function: Callable[..., Any], config: DictConfig) -> Any:
    """Return the launcher that `hydra/launcher` names."""
    return Plugins.instance().instantiate_launcher(context, task_function, config)


def queue(jobs: list[Job], attempts: int, composer: Composer) -> list[Job]:
    """Return the runs that are left, and record them as queued; tell how many there are of each kind.

    Raises:
        CheckpointError: one of the directories is taken by a run with other settings.
    """
    pending, kinds = [], Counter()
    for job in jobs:
        status = read_status(job.path)
        refuse_other(job, status, composer)
        kind = _kind(status, attempts)
        kinds[kind] += 1
        if kind not in ("done", "given up"):
            pending.append(job)
            with explain_os_errors(job.path, "; set paths.outputs"):
                enqueue(job.path, list(job.overrides), job.asked)
    found = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    say(f"sweep {jobs[0].path.parent}: {len(jobs)} run{'s' * (len(jobs) != 1)}: {found}")
    return pending


def check_launcher(jobs: list[Job], launcher: Any) -> None:
    """Refuse to train in this process what is distributed by starting the command again: that would be the sweep's.

    Raises:
        ConfigError: the launcher keeps runs in the process of the sweep, or in one that knows only the sweep's command.
    """
    distributed = next((job for job in jobs if job.relaunches), None)
    if distributed is not None and molinos(launcher) is None:
        raise ConfigError(
            f"{distributed.name} takes {distributed.devices * distributed.nodes} processes, each of which would start "
            "this whole sweep: add hydra/launcher=local or hydra/launcher=slurm"
        )


def molinos(launcher: Any) -> Any:
    """Return what trains the runs of one of molino's own launchers (see molino.sweeps.local); None of any other."""
    return getattr(launcher, "runs", None)


def launch(launcher: Any, jobs: list[Job]) -> None:
    """Train the runs, by one of molino's launchers or any other of Hydra's."""
    if runs := molinos(launcher):
        runs.train(iter(jobs), most_demanding(jobs), len(jobs))
    else:
        launcher.launch([job.placed for job in jobs], initial_job_idx=0)


def launch_all(launcher: Any, jobs: list[Job]) -> None:
    """Train the runs, also those that processes of an earlier sweep, killed a moment ago, were still holding."""
    if jobs:
        launch(launcher, jobs)
    deadline, left = time.monotonic() + GRACE, list(jobs) if waits(launcher) else []
    while left := [job for job in left if read_status(job.path).state in (QUEUED, RUNNING, CUT_OFF)]:
        if free := [job for job in left if not is_locked(job.path / LOCK)]:
            launch(launcher, free)
            left = [job for job in left if job not in free]
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


def conclude(jobs: list[Job], directory: Path, launcher: Any) -> None:
    """Tell what became of all runs, and what to type next.

    Raises:
        SweepFailed: some failed, or have not ended although the launcher waits for them.
    """
    statuses = {job: read_status(job.path) for job in jobs}
    counts = Counter(status.state for status in statuses.values())
    failed = {job: status for job, status in statuses.items() if status.state == FAILED}
    if failed:
        rows = [(job.name, str(status.failures), status.error or "") for job, status in failed.items()]
        show_rows("failed", ("run", "times", "because"), rows, words=("because",))
    say(f"{directory}: " + ", ".join(f"{counts[state]} {state or 'gone'}" for state in (DONE, *counts.keys() - {DONE})))
    if waits(launcher) and counts[RUNNING]:
        say("what is running is being trained by another process: give this command again when that has ended")
    say(f"next: python scripts/results.py {shlex.quote(str(directory))}")
    if failed:
        first = next(iter(failed))
        raise SweepFailed(
            f"{len(failed)} of {len(jobs)} runs failed: see traceback.txt and log.txt in their directories, such as "
            f"{first.path}",
            failed[first].exit_code,
        )
    if waits(launcher) and (left := len(jobs) - counts[DONE] - counts[RUNNING]):
        raise SweepFailed(f"{left} of {len(jobs)} runs have not ended: give the command again to go on with them", 1)


def _kind(status: Status, attempts: int) -> str:
    if status.state == DONE:
        return "done"
    if status.state == FAILED:
        return "to try again" if status.failures < attempts else "given up"
    return {CUT_OFF: "to go on with", RUNNING: "being trained"}.get(status.state, "new")
