"""Which runs of a sweep are left, and what became of them: by where each of them stands."""

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from molino.base.console import say, show_rows
from molino.base.errors import ConfigError, SweepFailed
from molino.base.files import explain_os_errors, is_locked
from molino.base.messages import typed
from molino.configuration.identity import refuse_other
from molino.configuration.request import Request
from molino.runs.directory import LOCK
from molino.runs.status import (
    CANCELLED,
    CUT_OFF,
    DONE,
    FAILED,
    NOT_BEGUN,
    PENDING,
    RUNNING,
    Status,
    enqueue,
    read_status,
)  # fmt: skip
from molino.sweeps.attempt import LOG
from molino.sweeps.devices import most_demanding
from molino.sweeps.jobs import read_job
from molino.sweeps.standing import end_of, settled, statuses

# Kinds of runs that are left to do something for.
GOES_ON = ("new", "to go on with", "to try again", "being trained", PENDING, CANCELLED)
# How long the processes of a sweep that was killed may take to save and end, in seconds.
GRACE = 15.0
MOST_LISTED = 20  # runs of a table


def place(config: DictConfig, names: list[str]) -> Path:
    """Name the sweep of `config`, if the person has not, and return its directory.

    Args:
        names: what it is called, and what an earlier version called it.
    """
    with open_dict(config):
        if config.sweep is None:
            config.sweep = names[1]
            if not Path(str(config.hydra.sweep.dir)).is_dir():
                config.sweep = names[0]
        elif str(config.sweep) in ("", ".", "..") or "/" in str(config.sweep):
            raise ConfigError(f"sweep={config.sweep} cannot name a sweep's directory: choose a name without /")
    return Path(str(config.hydra.sweep.dir))


def left(requests: list[Request], attempts: int, launcher: Any) -> list[Request]:
    """Return the runs that are left to `launcher`; tell how many there are of each kind.

    Raises:
        CheckpointError: one of the directories is taken by a run with other settings.
        ResourceError: a scheduler that has some of the runs does not answer.
    """
    found, kinds = [], Counter()
    standing = settled(request.path for request in requests)
    for request in requests:
        status = standing[request.path]
        if status.asked != request.asked:
            refuse_other(request.path, request.settings)
        kind = _kind(status, attempts)
        if kind in (PENDING, "being trained") and _elsewhere(request, status, launcher):
            kind = f"{kind} as job {status.job}"
        kinds[kind] += 1
        if kind in GOES_ON:
            found.append(request)
    told = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    say(f"sweep {requests[0].path.parent}: {len(requests)} run{'s' * (len(requests) != 1)}: {told}")
    return found


def record(requests: list[Request]) -> None:
    """Record that a sweep means to train runs."""
    for request in requests:
        with explain_os_errors(request.path, "; set paths.outputs"):
            enqueue(request.path, request.overrides, request.asked)


def launch(launcher: Any, requests: list[Request]) -> None:
    """Train the runs; see molino.sweeps.launchers."""
    launcher.train(iter(requests), most_demanding(requests), len(requests))


def launch_all(launcher: Any, requests: list[Request]) -> None:
    """Train the runs, also those that processes of an earlier sweep, killed a moment ago, were still holding."""
    if requests:
        launch(launcher, requests)
    deadline, left = time.monotonic() + GRACE, list(requests) if launcher.waits and launcher.scheduler is None else []
    while left := [each for each in left if read_status(each.path).state in (NOT_BEGUN, RUNNING, CUT_OFF)]:
        if free := [each for each in left if not is_locked(each.path / LOCK)]:
            launch(launcher, free)
            left = [each for each in left if each not in free]
        elif time.monotonic() > deadline:
            return
        else:
            time.sleep(0.1)


def conclude(requests: list[Request], directory: Path, launcher: Any) -> None:
    """Tell what became of all runs, and what to type next.

    Raises:
        SweepFailed: some failed, or have not ended although the launcher waits for them.
    """
    standing = statuses(request.path for request in requests)
    counts = Counter(status.state for status in standing.values())
    failed = {path: status for path, status in standing.items() if status.state == FAILED}
    if failed:
        rows = [(path.name, str(status.failures), status.error or "") for path, status in failed.items()]
        _show_first("failed", ("run", "times", "because"), rows)
    if log := next((status.log for status in failed.values() if end_of(status.log)), None):
        show_rows(f"end of {log}", (), [(line,) for line in end_of(log)])
    if stopped := {path: each for path, each in standing.items() if each.state in (CUT_OFF, CANCELLED) and _why(each)}:
        rows = [(path.name, status.state, _why(status)) for path, status in stopped.items()]
        _show_first("stopped", ("run", "state", "because"), rows)
    say(f"{directory}: " + ", ".join(_counted(counts, standing.values())))
    if launcher.waits and counts[RUNNING]:
        say("what is running is being trained by another process: give this command again when that has ended")
    say(f"next: {typed('results', str(directory))}")
    if failed:
        first = next(iter(failed))
        where = f"traceback.txt and log.txt in their directories, such as {first}"
        if (log := failed[first].log) and not (first / LOG).is_file():
            where = f"what their jobs printed, such as {log}"
        raise SweepFailed(f"{len(failed)} of {len(requests)} runs failed: see {where}", failed[first].exit_code)
    if launcher.waits and (left := len(requests) - counts[DONE] - counts[RUNNING]):
        again = " (hydra.launcher.retry=cancelled: also with what was cancelled)" if counts[CANCELLED] else ""
        raise SweepFailed(
            f"{left} of {len(requests)} runs have not ended: give the command again to go on with them{again}", 1
        )


def _show_first(title: str, header: tuple[str, ...], rows: list[tuple[str, str, str]]) -> None:
    """Show a table of the first runs, and how many more there are."""
    more = [(f"... and {len(rows) - MOST_LISTED:,} more", "", "")] if len(rows) > MOST_LISTED else []
    show_rows(title, header, [*rows[:MOST_LISTED], *more], words=("because",))


def _counted(counts: Counter, standing: Iterable[Status]) -> list[str]:
    """Return how many runs stand where, and for what those wait that do."""
    reasons = Counter(status.reason for status in standing if status.state == PENDING and status.reason)
    why = f" ({', '.join(f'{number} {reason}' for reason, number in reasons.most_common())})" if reasons else ""
    states = (DONE, *counts.keys() - {DONE})
    return [f"{counts[state]} {state or 'gone'}{why * (state == PENDING)}" for state in states]


def _why(status: Status) -> str:
    return status.error or status.reason


def _kind(status: Status, attempts: int) -> str:
    if status.state == FAILED:
        return "to try again" if status.failures < attempts else "given up"
    known = {CUT_OFF: "to go on with", NOT_BEGUN: "new", "": "new", RUNNING: "being trained"}
    return known.get(status.state, status.state)


def _elsewhere(request: Request, status: Status, launcher: Any) -> bool:
    """Tell whether a scheduler has a run that is not this launcher's."""
    job = read_job(request.path)
    return status.job is not None and job is not None and job.scheduler != launcher.scheduler
