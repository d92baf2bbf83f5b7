"""python benchmarks/steps.py --checkout DIR: steps a second of this checkout beside those of another, such as of before.

A rebuilding makes nothing slower. Both train the same runs in turn, in processes of their own, so that both meet the
machine as it is; shown are the medians of what each run measured of itself, their ratio, and how far single pairs were
from it. A few minutes on two cores.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
TEXT = ["data=grammar", "hardware=cpu", "trainer.sample_tokens=0", "scheduler=constant"]
LONG = ["trainer.val_every=100000", "trainer.checkpoint_every=100000"]
RUNS = {
    "bigram": ["model=bigram", "trainer.max_steps=8000", "trainer.log_every=400", *LONG],
    "small GPT": ["model=gpt", "trainer.max_steps=80", "trainer.log_every=10", *LONG],
}


def measure(checkout: Path, settings: list[str], cache: str) -> float:
    """Train; return the median of the tokens a second that the run has logged."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(checkout / "scripts" / "train.py"), *TEXT, *settings]
        command += [f"paths.cache={cache}", f"paths.outputs={folder}"]
        environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
        subprocess.run(command, env=environment, check=True, capture_output=True)
        (file,) = Path(folder).glob("*/metrics.csv")
        with file.open(newline="") as rows:
            rates = [float(row["train/tokens_per_second"]) for row in csv.DictReader(rows)]
        return statistics.median(rates[1:])  # the first are warming up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, required=True, help="the other one")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        for name, settings in RUNS.items():
            measure(HERE, [*settings, "trainer.max_steps=40", "trainer.log_every=10"], cache)  # prepares the text
            pairs = []
            for number in range(given.rounds):
                order = (given.checkout, HERE) if number % 2 else (HERE, given.checkout)
                found = {checkout: measure(checkout, settings, cache) for checkout in order}
                pairs.append((found[HERE], found[given.checkout]))
            here, there = (statistics.median(each) for each in zip(*pairs, strict=True))
            ratios = sorted(one / other for one, other in pairs)
            print(
                f"{name}: {here:,.0f} tokens/s here, {there:,.0f} there; ratio {statistics.median(ratios):.3f} "
                f"({ratios[0]:.3f} .. {ratios[-1]:.3f} in {len(ratios)} pairs)",
                flush=True,
            )


if __name__ == "__main__":
    main()
