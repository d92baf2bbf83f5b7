"""Which runs of a sweep are left, and what became of them: read from their directories alone."""

import time
from collections import Counter
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
from molino.runs.status import CUT_OFF, DONE, FAILED, QUEUED, RUNNING, Status, enqueue, read_status
from molino.sweeps.devices import most_demanding

# How long the processes of a sweep that was killed may take to save and end, in seconds.
GRACE = 15.0
MOST_LISTED = 20  # of the runs that failed


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


def queue(requests: list[Request], attempts: int) -> list[Request]:
    """Return the runs that are left, and record them as queued; tell how many there are of each kind.

    Raises:
        CheckpointError: one of the directories is taken by a run with other settings.
    """
    pending, kinds = [], Counter()
    for request in requests:
        status = read_status(request.path)
        if status.asked != request.asked:
            refuse_other(request.path, request.settings)
        kind = _kind(status, attempts)
        kinds[kind] += 1
        if kind not in ("done", "given up"):
            pending.append(request)
            with explain_os_errors(request.path, "; set paths.outputs"):
                enqueue(request.path, request.overrides, request.asked)
    found = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    say(f"sweep {requests[0].path.parent}: {len(requests)} run{'s' * (len(requests) != 1)}: {found}")
    return pending


def launch(launcher: Any, requests: list[Request]) -> None:
    """Train the runs; see molino.sweeps.launchers."""
    launcher.train(iter(requests), most_demanding(requests), len(requests))


def launch_all(launcher: Any, requests: list[Request]) -> None:
    """Train the runs, also those that processes of an earlier sweep, killed a moment ago, were still holding."""
    if requests:
        launch(launcher, requests)
    deadline, left = time.monotonic() + GRACE, list(requests) if launcher.waits else []
    while left := [each for each in left if read_status(each.path).state in (QUEUED, RUNNING, CUT_OFF)]:
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
    statuses = {request.path: read_status(request.path) for request in requests}
    counts = Counter(status.state for status in statuses.values())
    failed = {path: status for path, status in statuses.items() if status.state == FAILED}
    if failed:
        rows = [(path.name, str(status.failures), status.error or "") for path, status in failed.items()]
        more = [(f"... and {len(rows) - MOST_LISTED:,} more", "", "")] if len(rows) > MOST_LISTED else []
        show_rows("failed", ("run", "times", "because"), [*rows[:MOST_LISTED], *more], words=("because",))
    say(f"{directory}: " + ", ".join(f"{counts[state]} {state or 'gone'}" for state in (DONE, *counts.keys() - {DONE})))
    if launcher.waits and counts[RUNNING]:
        say("what is running is being trained by another process: give this command again when that has ended")
    say(f"next: {typed('results', str(directory))}")
    if failed:
        first = next(iter(failed))
        raise SweepFailed(
            f"{len(failed)} of {len(requests)} runs failed: see traceback.txt and log.txt in their "
            f"directories, such as {first}",
            failed[first].exit_code,
        )
    if launcher.waits and (left := len(requests) - counts[DONE] - counts[RUNNING]):
        raise SweepFailed(
            f"{left} of {len(requests)} runs have not ended: give the command again to go on with them", 1
        )


def _kind(status: Status, attempts: int) -> str:
    if status.state == DONE:
        return "done"
    if status.state == FAILED:
        return "to try again" if status.failures < attempts else "given up"
    return {CUT_OFF: "to go on with", RUNNING: "being trained"}.get(status.state, "new")
