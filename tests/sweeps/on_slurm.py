"""What tests of sweeps on a Slurm share."""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cluster
import pytest
from sweeping import SMALL

from molino.base.processes import environment
from molino.runs.status import RUNNING, read_status

# The rare checkpoints are those of a signal. ENDLESS is over when a test says so, however fast the machine trains.
RARE = (*SMALL, "trainer.checkpoint_every=1000000", "trainer.val_every=1000000", "model.dropout=0.1")
ENDLESS = (*RARE, "trainer.max_steps=1000000")
SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus=1", "hydra.launcher.minutes=30")
# A job that waits for as long as a test wants it to.
HELD = "hydra.launcher.options={hold: true}"
WAIT = "hydra.launcher.wait=true"


@contextmanager
def running_slurm(**settings: Any) -> Iterator[dict[str, str]]:
    """Run a cluster for the tests of a module; yields the environment of its commands."""
    if reason := cluster.missing(settings.get("accounting", False)):
        pytest.skip(reason)
    # Sockets lie in it: its path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with cluster.slurm(folder / "c", **settings) as environment:
            yield environment
    finally:
        shutil.rmtree(folder)


@contextmanager
def using(slurm: dict[str, str]) -> Iterator[None]:
    """Have the commands of a test ask this cluster; afterwards no job of it is left."""
    with environment(slurm):
        yield
        ask("scancel", "--me", "--signal=KILL")
        ask("scancel", "--me")
        until(lambda: not queue(), "the jobs to leave the queue")


def ask(*command: str) -> str:
    """Ask or tell Slurm something."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def queue() -> list[str]:
    """The jobs that wait or run."""
    return ask("squeue", "--noheader", "--array", "--format=%i").split()


def until(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for: {what}"
        time.sleep(0.1)


def training(run: Path, after: int = 50) -> bool:
    status = read_status(run)
    return status.state == RUNNING and status.progress.get("step", 0) > after


def job_of(run: Path) -> str:
    """What Slurm calls the job of a run."""
    job = json.loads((run / "job.json").read_text())
    submission = json.loads((run.parent / job["submission"] / "submission.json").read_text())
    return f"{submission['id']}_{job['index']}" if submission["array"] else submission["id"]


def script_of(sweep: Path) -> str:
    """The batch script of the only submission of a sweep."""
    (script,) = (sweep / ".slurm").glob("*/job.sh")
    return script.read_text()
