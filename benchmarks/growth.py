"""What things cost at one size and at another: seconds of computing, by all processes, and memory.

Each is a command of its own. Seconds are user's and system's, which neighbours on the machine change least; memory is
the most that the command's own process had, without mapped files.

    python -m benchmarks.growth ROWS

Prints, as JSON, the milliseconds that a `metrics.csv` of so many rows takes to be saved.
"""

import json
import re
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.preparation import watched
from benchmarks.preparing import write_text
from molino.base.console import show_rows

TINY = (
    *("data=grammar", "data.corpus.characters=20000", "model=bigram", "data.block_size=8", "hardware=cpu"),
    *("hardware.threads=1", "scheduler=constant", "trainer.sample_tokens=0"),
)
SHORT = ("trainer.max_steps=10", "trainer.val_every=10", "trainer.log_every=10", "trainer.checkpoint_every=10")
SEEDS = 10  # of each row of made up runs
# How each launcher is asked for; one is added by a line.
LAUNCHERS = {"basic": ("hydra/launcher=basic",), "local": ("hydra/launcher=local", "hydra.launcher.workers=2")}
LAUNCHERS["joblib"] = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


class Cost(NamedTuple):
    """What a part costs at one size, and how much of it is of each of what is counted."""

    part: str
    size: str
    seconds: float
    memory: float | None
    each: str


def growth(train: str, folder: Path, parts: Iterable[str], sizes: dict[str, list[float]], launchers: list[str]) -> dict:
    """Print, and return, a table of size against cost.

    Args:
        train: scripts/train.py.
        parts: names among PARTS.
        sizes: of parts that are to have others than their own.
        launchers: names among LAUNCHERS, for sweeps.
    """
    found: list[Cost] = []
    for part in parts:
        measure, own = PARTS[part]
        for cost in measure(Workplace(train, folder, launchers), sorted(sizes.get(part, own))):
            print(" ".join(map(str, cost)), file=sys.stderr)
            found.append(cost)
    rows = [(c.part, c.size, f"{c.seconds:.1f}", c.each, f"{c.memory or 0:,.0f}") for c in found]
    show_rows("growth", ("", "size", "seconds", "each", "MiB"), rows)
    return {"costs": [cost._asdict() for cost in found]}


class Workplace(NamedTuple):
    """Where commands are given, and by which script."""

    train: str
    folder: Path
    launchers: list[str]

    def spend(self, verb: str, *arguments: str, outputs: Path) -> tuple[float, float]:
        """Give a command; return its seconds and MiB."""
        script = str(Path(self.train).with_name(f"{verb}.py"))
        places = (f"paths.outputs={outputs}", f"paths.cache={self.folder / 'cache'}")
        return spend([sys.executable, script, *arguments, *places])

    def sweep(self, launcher: str, runs: int, outputs: Path) -> tuple[float, float]:
        """Give the command of a sweep of tiny runs; return its seconds and MiB."""
        spent = self.spend("train", "-m", *LAUNCHERS[launcher], *TINY, *SHORT, f"seed=range({runs})", outputs=outputs)
        if (done := len(list(outputs.rglob("summary.json")))) != runs:
            raise SystemExit(f"{launcher}: {done} of {runs} runs are done")
        return spent

    def outputs(self) -> Path:
        """Return a new folder for runs."""
        return Path(tempfile.mkdtemp(dir=self.folder))


def spend(command: list[str]) -> tuple[float, float]:
    """Run a command; return the seconds of computing of all its processes, and the MiB of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _, memory = watched(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, memory


def sweeps(at: Workplace, sizes: list[float]) -> Iterator[Cost]:
    """Sweeps of tiny runs, the same given again when all are done, and with one seed more. A run costs what the sweep
    does beyond a sweep of two runs."""
    at.sweep("basic", 2, at.outputs())  # makes the text
    for name in at.launchers:
        start, _ = at.sweep(name, 2, at.outputs())
        for size in map(int, sizes):
            outputs = at.outputs()
            seconds, memory = at.sweep(name, size, outputs)
            each = 1000 * (seconds - start) / (size - 2)
            yield Cost(f"sweep, {name}", f"{size:,} runs", seconds, memory, f"{each:.0f} ms a run")
            for what, runs in (("given again", size), ("one seed more", size + 1)):
                seconds, memory = at.sweep(name, runs, outputs)
                each = f"{1000 * seconds / size:.1f} ms a run"
                yield Cost(f"{what}, {name}", f"{size:,} runs", seconds, memory, each)


def results(at: Workplace, sizes: list[float]) -> Iterator[Cost]:
    """Table and page of made up runs."""
    trained = at.outputs()
    at.spend("train", *TINY, *SHORT, outputs=trained)
    (real,) = (path for path in trained.iterdir() if path.is_dir())
    for size in map(int, sizes):
        outputs = at.outputs()
        for number in range(size):
            make_up(real, outputs / str(number), number)
        for what, more in (("results", ()), ("results page", (f"to={outputs}-page",))):
            seconds, memory = at.spend("results", *more, outputs=outputs)
            yield Cost(what, f"{size:,} runs", seconds, memory, f"{1000 * seconds / size:.1f} ms a run")


def make_up(real: Path, path: Path, number: int) -> None:
    """Write a done run as `real` is, but for its seed, rate and loss."""
    path.mkdir()
    row, seed = divmod(number, SEEDS)
    config = (real / "config.yaml").read_text("utf-8")
    config = re.sub(r"(?m)^seed: .*$", f"seed: {seed}", config)
    (path / "config.yaml").write_text(re.sub(r"(?m)^  lr: .*$", f"  lr: {1 + row}.0e-05", config), "utf-8")
    summary = json.loads((real / "summary.json").read_text("utf-8"))
    loss = summary["val/loss"] + np.random.default_rng(number).normal() / 10
    (path / "summary.json").write_text(json.dumps(summary | {"val/loss": loss}), "utf-8")
    for name in ("environment.json", "metrics.csv", "metrics.json", "overrides.yaml", "status.json"):
        (path / name).write_bytes((real / name).read_bytes())


def rows(at: Workplace, sizes: list[float]) -> Iterator[Cost]:
    """What a checkpoint waits for."""
    for size in map(int, sizes):
        command = [sys.executable, "-m", "benchmarks.growth", str(size)]
        seconds, memory = spend(command)
        printed, _ = watched(command)
        yield Cost("metrics.csv", f"{size:,} rows", seconds, memory, f"{json.loads(printed):.2f} ms a checkpoint")


def save_rows(size: int) -> float:
    """Return the milliseconds, of computing, that a file takes to be saved once it has so many rows."""
    from molino.training.loggers import MetricsFile

    with tempfile.TemporaryDirectory() as folder:
        file, step = MetricsFile(Path(folder), None), count()
        spent = []
        for number in range(21):
            for _ in range(5 if number else size):
                file.log_metrics({"train/loss": 1.0, "train/perplexity": 2.0, "val/loss": 3.0}, next(step))
            began = time.process_time()
            file.save()
            spent.append(1000 * (time.process_time() - began))
        return statistics.median(spent[1:])


def unspaced(at: Workplace, sizes: list[float]) -> Iterator[Cost]:
    """BPE of Chinese, which has signs, and of a genome, which has none, neither with any white space."""
    for name, write in (("Chinese", write_chinese), ("genome", write_genome)):
        for size in sizes:
            path = at.folder / f"{name}-{size}.txt"
            write(path, round(size * 1e6))
            yield prepared(at, "bpe", path, f"bpe, {name} without white space")
            path.unlink()


def texts(at: Workplace, sizes: list[float]) -> Iterator[Cost]:
    """Texts of made-up words."""
    for size in sizes:
        path = at.folder / f"{size}.txt"
        write_text(path, round(size * 1e6))
        for kind in ("char", "word", "bpe"):
            yield prepared(at, kind, path, f"{kind}")
        path.unlink()


def prepared(at: Workplace, kind: str, path: Path, name: str) -> Cost:
    """Return what a text costs from its file to a vocabulary and tokens."""
    with tempfile.TemporaryDirectory(dir=at.folder) as target:
        seconds, memory = spend([sys.executable, "-m", "benchmarks.preparing", "ours", kind, str(path), target])
    size = path.stat().st_size / 1e6
    return Cost(name, f"{size:,.{0 if size >= 1 else 1}f} MB", seconds, memory, f"{size / seconds:.1f} MB a second")


def write_chinese(path: Path, size: int) -> None:
    """Write about `size` bytes of made-up words of one to three of 3,000 characters, and signs between some of them."""
    random = np.random.default_rng(0)
    characters = np.array([chr(0x4E00 + number) for number in range(3000)])
    chances = 1 / np.arange(1, 3001)
    drawn = random.choice(characters, (20_000, 3), p=chances / chances.sum())
    words = np.array(["".join(each[: random.integers(1, 4)]) for each in drawn], dtype=object)
    signs = np.array([""] * 6 + ["，", "。"], dtype=object)
    _write(path, size, lambda: words[random.zipf(1.2, 10_000) % len(words)] + random.choice(signs, 10_000))


def write_genome(path: Path, size: int) -> None:
    """Write about `size` bytes of four letters."""
    random = np.random.default_rng(0)
    _write(path, size, lambda: random.choice(np.array(list("ACGT")), 10_000))


def _write(path: Path, size: int, draw: Callable[[], Any]) -> None:
    with path.open("wb") as file:
        while file.tell() < size:
            file.write("".join(draw().tolist()).encode())


def steps(at: Workplace, sizes: list[float]) -> Iterator[Cost]:
    """A bigram that is trained for longer."""
    rare = ("trainer.val_every=10000", "trainer.log_every=100", "trainer.checkpoint_every=10000")
    for size in map(int, sizes):
        outputs = at.outputs()
        seconds, memory = at.spend("train", *TINY, f"trainer.max_steps={size}", *rare, outputs=outputs)
        yield Cost("training", f"{size:,} steps", seconds, memory, f"{1e6 * seconds / size:.0f} us a step")


# How each is measured, and at which sizes: runs, rows, MB, steps.
PARTS: dict[str, tuple[Callable[[Workplace, list[float]], Iterator[Cost]], list[float]]] = {
    "sweep": (sweeps, [50, 200, 800]),
    "results": (results, [300, 3000]),
    "rows": (rows, [1000, 64_000]),
    "unspaced": (unspaced, [6, 18]),
    "text": (texts, [100, 1000]),
    "steps": (steps, [20_000, 200_000]),
}


if __name__ == "__main__":
    print(json.dumps(save_rows(int(sys.argv[1]))))
