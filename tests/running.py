"""Trainings in processes of their own, and what two runs that should be the same have in common."""

import contextlib
import csv
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch

from molino.runs import directory
from molino.trained.load import load_checkpoint

TIMINGS = {"train/tokens_per_second", "tokens_per_second", "seconds"}


def start(home: Path, *settings: str) -> subprocess.Popen:
    """Start `molino train` in a process of its own, in the folder `home`."""
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "molino", "train", f"paths.cache={home.parent / 'cache'}", *settings]
    # For two processes: a port that the system gives to nobody else before they meet there.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port())}
    return subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def free_port() -> int:
    """Return a free port below those that outgoing connections are given."""
    while True:
        with socket.socket() as listener, contextlib.suppress(OSError):
            port = random.SystemRandom().randint(15000, 30000)
            listener.bind(("127.0.0.1", port))
            return port


def finish(process: subprocess.Popen, status: int = 0) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, out + err
    return err


def only_run(home: Path) -> Path:
    (run,) = directory.list_runs(home / "outputs")
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / directory.LAST)["state_dict"]


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMINGS} for row in csv.DictReader(file)]


def tensorboard(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run)).Reload()
    tags = set(events.Tags()["scalars"]) - TIMINGS
    # HParams need a first value, which is nan.
    return {tag: [(e.step, e.value) for e in events.Scalars(tag) if e.value == e.value] for tag in tags}


def assert_same_run(run: Path, other: Path) -> None:
    expected = weights(other)
    assert all(torch.equal(value, expected[name]) for name, value in weights(run).items())
    assert metrics(run) == metrics(other)
    assert tensorboard(run) == tensorboard(other)
    assert (run / "samples.txt").read_text() == (other / "samples.txt").read_text()
    summary, wanted = (directory.read_summary(each) for each in (run, other))
    assert all(summary[key] == value for key, value in wanted.items() if key not in TIMINGS)


def wait_for_step(process: subprocess.Popen, home: Path, step: int) -> None:
    """Wait until the run has written a checkpoint of `step` or later, looking only at the file's age."""
    seen, changes = 0.0, 0
    while changes < step and process.poll() is None:
        files = list((home / "outputs").glob("*/checkpoints/last.ckpt"))
        changed = files[0].stat().st_mtime_ns if files else 0.0
        changes, seen = (changes + 1, changed) if changed > seen else (changes, seen)
        time.sleep(0.005)
