"""How far a run is: `status.json`, and `traceback.txt` where it failed. Both lie in the run directory.

A run has not begun (a sweep means to train it), is running, done, failed, or cut off: it was stopped, or its process
died, and it can go on. Whether it is done only `summary.json` says, and whether it is running only the lock that its
process holds: a status that a dead process has left behind says "cut off" to whoever reads it here. What a scheduler
has of a run, a job that waits or one that its owner cancelled, only molino.sweeps.standing knows.

Standard library and YAML only, so that reading a thousand of them costs nothing.
"""

import json
import os
import platform
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from molino.base.errors import CheckpointError, Interrupted, Lost
from molino.base.files import is_locked, lock, make_directory, read_text, remove_orphans, write_text
from molino.base.messages import explain, one_line
from molino.runs.directory import CONFIG, LOCK, SUMMARY, read_summary

STATUS = "status.json"
TRACEBACK = "traceback.txt"
PATIENCE = 0.5  # seconds; whoever asks whether a run is locked holds its lock for a moment
NOT_BEGUN, RUNNING, DONE, FAILED, CUT_OFF = "not begun", "running", "done", "failed", "cut off"
PENDING, CANCELLED = "pending", "cancelled"  # of jobs
EARLIER = {"queued": NOT_BEGUN}  # what versions before wrote


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    Attributes:
        state: one of those above; empty where nothing was ever recorded.
        error: why it failed, or is given up for now, in one line.
        exit_code: of a failed run, what its own command would have ended with; see molino.command.entry.
        failures: how often it has failed so far.
        progress: while it runs and after it stopped: `step`, `max_steps`, `train/loss`, `tokens_per_second`,
            `seconds_left` and, by its tag, what decides, as far as they are known.
        overrides: what a sweep asked for it; None for a run of its own.
        asked: digest of all settings a sweep asked for.
        summary: of a done run.
        job: what a scheduler calls the job that has it, or had it last.
        reason: why the job waits, in the scheduler's words; since when it runs; or what became of it.
        log: the file for what the job prints outside of the run.
    """

    state: str
    error: str | None = None
    exit_code: int = 1
    failures: int = 0
    progress: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] | None = None
    asked: str | None = None
    summary: dict[str, Any] | None = None
    job: str | None = None
    reason: str = ""
    log: Path | None = None


def read_status(run: Path) -> Status:
    """Return the status of `run`. A damaged file counts as a failure that is told, never as the end of the reading."""
    run, stored = Path(run), _stored(run)
    known = {name: stored.get(name) for name in ("overrides", "asked")}
    for name, default in (("failures", 0), ("progress", {}), ("exit_code", 1)):
        # Of another kind it is damaged.
        known[name] = stored[name] if isinstance(stored.get(name), type(default)) else default
    if (run / SUMMARY).is_file():
        try:
            return Status(DONE, summary=read_summary(run), **known)
        except CheckpointError as error:
            return Status(FAILED, error=f"{error}: delete it and resume the run", **known)
    state = stored.get("state", CUT_OFF if (run / CONFIG).is_file() else "")
    state = EARLIER.get(state, state)
    if state == DONE:  # but its summary is gone
        state = CUT_OFF if (run / CONFIG).is_file() else ""
    if state == RUNNING or (state == CUT_OFF and not stored):
        state = RUNNING if is_locked(run / LOCK) else CUT_OFF
    return Status(state, error=stored.get("error"), **known)


def read_statuses(runs: Iterable[Path]) -> dict[Path, Status]:
    """Return where runs stand, by their directories alone."""
    return {run: read_status(run) for run in runs}


def enqueue(run: Path, overrides: list[str], asked: str) -> None:
    """Record that a sweep means to train `run`, unless a process does already; what is known from earlier stays."""
    make_directory(Path(run))
    with suppress(Busy), exclusive(run):
        update(run, **({"state": NOT_BEGUN} | _stored(run) | {"overrides": overrides, "asked": asked}))


def fail(run: Path, error: str) -> None:
    """Record that `run` failed whose own process could not tell; one that trains by now knows better."""
    with suppress(Busy), exclusive(run):
        _fail(run, error, 1)


def cut_off(run: Path, error: str, failures: int) -> None:
    """Record why `run` was cut off whose own process could not tell, or took the end of another for its own.

    Args:
        failures: how often it had failed before.
    """
    with suppress(Busy), exclusive(run):
        update(run, state=CUT_OFF, error=error, failures=failures)


def update(run: Path, **values: Any) -> None:
    """Change some values of the status of `run`. Only the process that holds its lock may."""
    write_text(Path(run) / STATUS, json.dumps(_stored(run) | values, indent=2) + "\n")


class Busy(CheckpointError):
    """A run is being trained by another process."""


@contextmanager
def exclusive(run: Path) -> Iterator[None]:
    """Keep a second process from writing the same run.

    Raises:
        Busy: another process does.
    """
    with ExitStack() as held:
        try:
            held.enter_context(lock(Path(run) / LOCK, wait=PATIENCE))
        except BlockingIOError as error:
            raise Busy(f"{run.name} is being trained by another process: wait for it or stop it") from error
        yield


@contextmanager
def claim(run: Path) -> Iterator[None]:
    """Hold `run` for this process and record what becomes of it.

    Raises:
        Busy: another process holds it.
    """
    with exclusive(run):
        remove_orphans(run)
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        update(run, state=RUNNING, error=None, started=now, host=platform.node(), process=os.getpid())
        try:
            yield
        except BaseException as error:
            _record_end(run, error)
            raise
        update(run, state=DONE)


def _record_end(run: Path, error: BaseException) -> None:
    if isinstance(error, Interrupted) or not isinstance(error, Exception):
        update(run, state=CUT_OFF, error=one_line(error) if isinstance(error, Lost) else None)
        return
    make_directory(Path(run))  # somebody may have removed it: that, too, is to be told
    with (Path(run) / TRACEBACK).open("a", encoding="utf-8") as file:
        file.write(f"--- {datetime.now().astimezone().isoformat(timespec='seconds')} ---\n")
        file.write("".join(traceback.format_exception(error)) + "\n")
    _fail(run, one_line(error), getattr(explain(error), "exit_code", 1))


def _fail(run: Path, error: str, exit_code: int) -> None:
    update(run, state=FAILED, error=error, exit_code=exit_code, failures=_stored(run).get("failures", 0) + 1)


def _stored(run: Path) -> dict[str, Any]:
    try:
        stored = json.loads(read_text(Path(run) / STATUS))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}
