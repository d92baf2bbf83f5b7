"""Turns, tables and training runs, for all benchmarks."""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from molino.console import show_rows


def run(command: list[str]) -> str:
    """Return what a command prints.

    Raises SystemExit, with the end of what it said, if it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} ... failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def take_turns(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Let each contender measure once a round; return all their figures."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, measure in contenders.items():
            found[name].append(measure())
            tell(number, rounds, name, found[name][-1])
    return found


def tell(number: int, rounds: int, name: str, value: float) -> None:
    """Report a turn, where it does not mix with the tables."""
    print(f"round {number + 1}/{rounds}: {name} {value:.2f}", file=sys.stderr)


def summary(values: list[float], reference: list[float], form: str) -> tuple[str, str, str]:
    """Return median, range, and the median of the reference's ratio to these values, taken round by round.

    Where there are fewer values than rounds, those are of the first rounds.
    """
    ratios = [mine / other for mine, other in zip(reference, values, strict=False)]
    spread = f"{form.format(min(values))} to {form.format(max(values))}"
    return form.format(statistics.median(values)), spread, f"{statistics.median(ratios):.2f}"


def show(title: str, found: dict[str, list[float]], reference: str, form: str) -> None:
    """Print the summary of each contender."""
    rows = [(name, *summary(values, found[reference], form)) for name, values in found.items()]
    show_rows(f"{title}; ratio: {reference} / this", ("", "median", "range", "ratio"), rows)


def prepare(train: str, folder: Path, corpus: str) -> Path:
    """Prepare a corpus once, so that no turn pays for it; return the cache."""
    cache = folder / "cache"
    train_run(train, folder, cache, f"data={corpus}", "debug=fast", "trainer.sample_tokens=0")
    return cache


def train_run(train: str, folder: Path, cache: Path, *settings: str) -> Path:
    """Run scripts/train.py and return the run directory."""
    outputs = Path(tempfile.mkdtemp(dir=folder))
    run([sys.executable, train, f"paths.outputs={outputs}", f"paths.cache={cache}", *settings])
    return next(path for path in outputs.iterdir() if path.is_dir())


def logged(directory: Path) -> list[tuple[int, float]]:
    """Return (step, wall time) of every `train/loss` that TensorBoard got."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.wall_time) for event in events.Scalars("train/loss") if event.step > 0]
