"""Seconds from the command to the first step of the default run, and what they are made of."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import common


def start(train: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Print, and return, seconds to the first step, for --help, and for importing what a run needs."""
    cache = common.prepare(train, folder, "pydocs")

    def first_step() -> float:
        began = time.time()
        lengths = ("trainer.max_steps=1", "trainer.log_every=1", "scheduler.warmup_steps=0", "trainer.sample_tokens=0")
        ((_, _, moment),) = common.logged(common.train_run(train, folder, cache, *lengths))
        return moment - began

    def timed(*command: str) -> Callable[[], float]:
        def seconds() -> float:
            began = time.perf_counter()
            common.run(list(command))
            return time.perf_counter() - began

        return seconds

    python = sys.executable
    contenders = {
        "command to first step": first_step,
        "--help": timed(python, train, "--help"),
        "import torch": timed(python, "-c", "import torch"),
        "import lightning.pytorch": timed(python, "-c", "import lightning.pytorch"),
        "import all that a run needs": timed(
            python, "-c", "from molino.command.task import import_verb; import_verb('train')"
        ),
    }
    found = common.take_turns(contenders, rounds)
    common.show(f"seconds, default run, {rounds} rounds", found, "command to first step", "{:.2f}")
    return found
