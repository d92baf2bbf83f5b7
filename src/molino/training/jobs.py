"""A run of its own in a job of Slurm's: the job remembers it, asks to be queued again on a signal, and goes on with it.

Runs that a sweep has submitted are none of these: they have a place, and whoever submitted them queues them again.
"""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from molino.base.errors import Interrupted
from molino.base.files import write_text
from molino.base.processes import is_main_process, slurm_job
from molino.configuration.identity import canonical
from molino.configuration.request import Request
from molino.runs import directory

JOB = "own_job.json"  # in a run directory: the job that trained it last, and for what command
# What a batch script has Slurm send before a job's time is up, as `sbatch --signal` has it.
REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)
PATIENCE = 60.0  # seconds for an answer of Slurm's


def in_job(request: Request) -> bool:
    """Tell whether this is a run of its own in a job."""
    return request.path is None and "SLURM_JOB_ID" in os.environ


def recall(request: Request) -> Path | None:
    """Return the run that this job has begun for the same command before it was queued again.

    A command that is given several times in a job finds its runs in the order in which they began.
    """
    if not in_job(request) or not (life := _life()):
        return None
    mine = _record(request)
    for run in directory.list_runs(Path(request.settings["paths"]["outputs"])):
        with suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads((run / JOB).read_text("utf-8"))
            if known["life"] < life and known | {"life": life} == mine:
                return run
    return None


def remember(run: Path, request: Request) -> None:
    """Have this job find a run again, if it is one of its own."""
    if in_job(request):
        write_text(run / JOB, json.dumps(_record(request)) + "\n")


@contextmanager
def requeuing(request: Request) -> Iterator[None]:
    """Have a job that is told to give way, by SIGUSR1 or SIGUSR2, queued again when its run has been saved.

    Raises:
        Interrupted: it was; says what becomes of it.
    """
    if not in_job(request):
        yield
        return
    with _signals_from_the_start():
        try:
            yield
        except Interrupted as stop:
            if stop.exit_code - 128 not in REQUEUE or not is_main_process():
                raise
            raise _requeue(stop) from stop


def _requeue(stop: Interrupted) -> Interrupted:
    """Ask Slurm to queue this job again; return the error with what has come of that."""
    if threading.current_thread() is threading.main_thread():
        # Slurm ends what is left of the job at once, and this process has yet to say so.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job, said = slurm_job(), str(stop)
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=PATIENCE)
        refused = " ".join(done.stderr.split()) or f"status {done.returncode}" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        refused = str(error)
    if refused:
        return Interrupted(f"{said}; Slurm does not queue job {job} again ({refused})", stop.exit_code - 128)
    return Interrupted(f"{said.partition('; ')[0]}; job {job} is queued again and goes on", stop.exit_code - 128)


@contextmanager
def _signals_from_the_start() -> Iterator[None]:
    """Have the signals that queue a job again do so also while nothing is trained yet, when they would end a process.

    Of several processes the first answers for all.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> NoReturn:
        raise Interrupted(f"{signal.Signals(number).name} while nothing was trained", number)

    before = {number: signal.signal(number, stop if is_main_process() else signal.SIG_IGN) for number in REQUEUE}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _life() -> int:
    """Return how often this job has been queued again."""
    count = os.environ.get("SLURM_RESTART_COUNT", "")
    return int(count) if count.isdecimal() else 0


def _record(request: Request) -> dict[str, Any]:
    cluster = os.environ.get("SLURM_CLUSTER_NAME", "")
    # What was typed: `latest` and the like are other settings once the run is there.
    return {"cluster": cluster, "job": slurm_job(), "life": _life(), "typed": json.loads(canonical(request.overrides))}
