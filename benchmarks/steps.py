"""python benchmarks/steps.py --checkout DIR: steps a second beside those of another checkout, such as of before.

A rebuilding makes nothing slower. Both train the same run at the same time, each on a core of its own, so that both
meet the machine as it is; cores and who starts first change from pair to pair. Shown are the median of the ratios (this
one by the other), the least and the largest. `--checkout .` tells how far from 1 chance alone is. Ten minutes on two
cores.
"""

import argparse
import csv
import functools
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
COMMON = [
    *("data=grammar", "hardware=cpu", "hardware.threads=1", "scheduler=constant", "trainer.sample_tokens=0"),
    *("trainer.val_every=100000", "trainer.checkpoint_every=100000"),
]
RUNS = {
    "bigram": ["model=bigram", "trainer.max_steps=10000", "trainer.log_every=500"],
    "small GPT": ["model=gpt", "trainer.max_steps=60", "trainer.log_every=5"],
}


def start(checkout: Path, settings: list[str], cache: str, outputs: str, core: int) -> subprocess.Popen:
    """Start a training that keeps to one core."""
    command = [sys.executable, str(checkout / "scripts" / "train.py"), *COMMON, *settings]
    return subprocess.Popen(
        [*command, f"paths.cache={cache}", f"paths.outputs={outputs}"],
        env=os.environ | {"PYTHONPATH": str(checkout / "src")},
        stdout=subprocess.DEVNULL,
        preexec_fn=functools.partial(os.sched_setaffinity, 0, {core}),
    )


def rate(outputs: str) -> float:
    """Return the median of the tokens a second that a run has logged, but for the first, when it was warming up."""
    (file,) = Path(outputs).glob("*/metrics.csv")
    with file.open(newline="") as rows:
        rates = [float(row["train/tokens_per_second"]) for row in csv.DictReader(rows)]
    return statistics.median(rates[2:])


def ratio(other: Path, settings: list[str], cache: str, number: int) -> float:
    """Train by both at once; return how many times as fast this checkout is."""
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        pair = [(HERE, ours, number % 2), (other, theirs, 1 - number % 2)]
        # Neither is always the first to start, on whichever core.
        pair = pair if number % 4 < 2 else pair[::-1]
        processes = [start(at, settings, cache, outputs, core) for at, outputs, core in pair]
        if any(process.wait() for process in processes):
            sys.exit("a training failed")
        return rate(ours) / rate(theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="the other one")
    parser.add_argument("--rounds", type=int, default=16)
    given = parser.parse_args()
    other = given.checkout.resolve()
    with tempfile.TemporaryDirectory() as cache:
        for name, settings in RUNS.items():
            ratio(other, settings, cache, 0)  # prepares the text
            ratios = sorted(ratio(other, settings, cache, number) for number in range(given.rounds))
            middle = statistics.median(ratios)
            print(f"{name}: {middle:.3f} ({ratios[0]:.3f} .. {ratios[-1]:.3f} in {len(ratios)} pairs)", flush=True)


if __name__ == "__main__":
    main()
