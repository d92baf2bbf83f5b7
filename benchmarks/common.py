"""Turns, tables and training runs, for all benchmarks."""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from molino.base.console import show_rows

# How threads wait; see `molino.command.entry.share_cores`.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# So that a process finds this package wherever the command was typed, and measures the molino that this one does.
FINDS_US = {
    "PYTHONPATH": os.pathsep.join(
        (str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])),
    )
}


def need(benchmark: str, *packages: str) -> None:
    """End with one line where something that is compared with is not installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise SystemExit(
            f"benchmark {benchmark} compares with {' and '.join(missing)}, which is missing: "
            f"pip install {' '.join(missing)}"
        )


class Contender:
    """A process that lives through all rounds and takes turns; see `benchmarks.worker`.

    Args:
        kind: a name among KINDS of `module`.
        folder: where it finds what it needs.
        log: a file for what it says beside its answers.
        environment: its variables.
        module: what it runs.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        log: Path,
        environment: dict[str, str],
        module: str = "benchmarks.worker",
    ):
        self.kind, self.log = kind, log
        command = [sys.executable, "-m", module, kind, str(folder)]
        environment = environment | FINDS_US
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )

    def turn(self, **request: Any) -> dict[str, Any]:
        """Return what it measured.

        Raises SystemExit, with the end of what it said, if it failed.
        """
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.process.wait()  # until it has said why
            raise SystemExit(f"the contender {self.kind} failed: {self.log.read_text().strip()[-500:]}")
        return json.loads(answer)

    def stop(self) -> None:
        """End the process, also in the middle of a turn."""
        self.process.kill()
        self.process.communicate()


def run(command: list[str], memory: list[float | None] | None = None, key: str = "VmHWM") -> str:
    """Return what a command prints.

    Args:
        memory: takes the most memory its process has held, in MiB; None where the system does not tell.
        key: of Linux's record of a process, what counts as memory.

    Raises SystemExit, with the end of what it said, if it failed.
    """
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | FINDS_US
    ) as process:
        if memory is not None:
            watch = threading.Thread(target=lambda: memory.append(_watch(process, key)))
            watch.start()
        output, errors = process.communicate()
    if memory is not None:
        watch.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:3])} ... failed: {errors.strip()[-500:]}")
    return output


def _watch(process: subprocess.Popen, key: str) -> float | None:
    """Return the peak of a process's memory, looked at until it ends."""
    found = []
    while process.poll() is None:
        found.append(status(key, process.pid))
        time.sleep(0.02)
    return max((size for size in found if size is not None), default=None)


def status(key: str, process: int | str = "self") -> float | None:
    """Return an entry of Linux's record of a process in MiB; None on other systems, and when the process has ended.

    Not getrusage, whose peak a process inherits from the one that started it.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), None)


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


def train_run(train: str, folder: Path, cache: Path, *settings: str, memory: list[float | None] | None = None) -> Path:
    """Run scripts/train.py and return the run directory; `memory` as for `run`."""
    outputs = Path(tempfile.mkdtemp(dir=folder))
    run([sys.executable, train, f"paths.outputs={outputs}", f"paths.cache={cache}", *settings], memory)
    return next(path for path in outputs.iterdir() if path.is_dir())


def logged(directory: Path, tag: str = "train/loss") -> list[tuple[int, float, float]]:
    """Return (step, value, wall time) of every value of `tag` that TensorBoard got after a step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value, event.wall_time) for event in events.Scalars(tag) if event.step > 0]
