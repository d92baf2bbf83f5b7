"""python scripts/benchmark.py: what the framework costs, measured beside plain PyTorch in the same run.

    training   steps a second of experiment=quijote_bigram through scripts/train.py, with logging, checkpoints and
               progress, against a raw PyTorch loop that does the same work
    start      seconds from the command to the first step of the default run, and for --help

Contenders take turns, each in a process of its own, and medians are compared: machines are noisy.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from molino.cli import share_cores
from molino.console import show_rows

# The raw loop: batches, forward, backward and step as one would write them by hand. Prints steps a second.
RAW_LOOP = """
import sys, time, numpy, torch
import torch.nn.functional as F
tokens = torch.from_numpy(numpy.load(sys.argv[1]).astype("int64"))
steps, fused = int(sys.argv[2]), sys.argv[3] == "fused"
table = torch.nn.Embedding(int(tokens.max()) + 1, int(tokens.max()) + 1)
optimizer = torch.optim.AdamW(table.parameters(), lr=1e-3, fused=fused)
offsets = torch.arange(9)
for step in range(steps):
    if step == 100:
        started = time.perf_counter()
    window = tokens[torch.randint(len(tokens) - 8, (32, 1)) + offsets]
    loss = F.cross_entropy(table(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        loss.item()
print((steps - 100) / (time.perf_counter() - started))
"""


def main(script: str) -> None:
    """Parse the command line and run one benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", choices=("training", "start"))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender (default: 5)")
    parser.add_argument("--steps", type=int, default=10_000, help="training: steps of each turn (default: 10000)")
    chosen = parser.parse_args()
    share_cores("train")  # with all contenders
    train = str(Path(script).resolve().parent / "train.py")
    with tempfile.TemporaryDirectory() as folder:
        if chosen.benchmark == "training":
            training(train, Path(folder), chosen.rounds, chosen.steps)
        else:
            start(train, Path(folder), chosen.rounds)


def training(train: str, folder: Path, rounds: int, steps: int) -> None:
    """Print steps a second of molino and of the raw loop, with torch's default optimizer kernel and the fused one."""
    cache = _cache(train, folder, "quijote")
    tokens = next(cache.glob("tokens/*/train.npy"))

    def ours() -> float:
        # One validation, after the last logged step: the raw loop has none.
        lengths = (f"trainer.max_steps={steps}", f"trainer.val_every={steps}")
        run = _train(train, folder, cache, "experiment=quijote_bigram", *lengths)
        times = dict(_logged(run))
        return (steps - 100) / (times[steps] - times[100])

    def raw(kernel: str) -> Callable[[], float]:
        return lambda: float(_run([sys.executable, "-c", RAW_LOOP, str(tokens), str(steps), kernel]))

    found = _take_turns({"molino": ours, "raw loop, fused AdamW": raw("fused"), "raw loop": raw("default")}, rounds)
    _show(f"steps a second, quijote_bigram, {steps:,} steps, {rounds} rounds", found, "molino", "{:,.0f}")


def start(train: str, folder: Path, rounds: int) -> None:
    """Print seconds to the first step, for --help, and for importing what a run needs."""
    cache = _cache(train, folder, "pydocs")

    def first_step() -> float:
        began = time.time()
        lengths = ("trainer.max_steps=1", "trainer.log_every=1", "scheduler.warmup_steps=0", "trainer.sample_tokens=0")
        return dict(_logged(_train(train, folder, cache, *lengths)))[1] - began

    def timed(*command: str) -> Callable[[], float]:
        def seconds() -> float:
            began = time.perf_counter()
            _run(list(command))
            return time.perf_counter() - began

        return seconds

    python = sys.executable
    found = _take_turns(
        {
            "command to first step": first_step,
            "--help": timed(python, train, "--help"),
            "import torch": timed(python, "-c", "import torch"),
            "import lightning.pytorch": timed(python, "-c", "import lightning.pytorch"),
        },
        rounds,
    )
    _show(f"seconds, default run, {rounds} rounds", found, "command to first step", "{:.2f}")


def _cache(train: str, folder: Path, corpus: str) -> Path:
    """Prepare the corpus once, so that no turn pays for it."""
    cache = folder / "cache"
    _train(train, folder, cache, f"data={corpus}", "debug=fast", "trainer.sample_tokens=0")
    return cache


def _train(train: str, folder: Path, cache: Path, *settings: str) -> Path:
    """Run scripts/train.py and return the run directory."""
    outputs = Path(tempfile.mkdtemp(dir=folder))
    _run([sys.executable, train, f"paths.outputs={outputs}", f"paths.cache={cache}", *settings])
    return next(path for path in outputs.iterdir() if path.is_dir())


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} ... failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def _logged(run: Path) -> list[tuple[int, float]]:
    """Return (step, wall time) of every `train/loss` that TensorBoard got."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.wall_time) for event in events.Scalars("train/loss") if event.step > 0]


def _take_turns(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, measure in contenders.items():
            found[name].append(measure())
            print(f"round {number + 1}/{rounds}: {name} {found[name][-1]:.2f}", file=sys.stderr)
    return found


def _show(title: str, found: dict[str, list[float]], reference: str, form: str) -> None:
    """Print median, range and the median of the reference's ratio to each contender, taken round by round."""
    rows = []
    for name, values in found.items():
        ratios = [mine / other for mine, other in zip(found[reference], values, strict=True)]
        spread = f"{form.format(min(values))} to {form.format(max(values))}"
        rows.append((name, form.format(statistics.median(values)), spread, f"{statistics.median(ratios):.2f}"))
    show_rows(f"{title}; ratio: {reference} / this", ("", "median", "range", "ratio"), rows)
