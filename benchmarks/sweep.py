"""Seconds that a sweep of short runs takes: by molino's workers, by Hydra's own launcher, by joblib's."""

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import common

WORKERS = 2
# Seconds each. The bigram's steps are too short for a second thread to be of use; the GPT's products fill all cores.
KINDS = {
    "bigram": ("model=bigram", "trainer.max_steps=4000", "trainer.val_every=2000"),
    "gpt": ("model=gpt", "debug=fast"),
}


def sweep(train: str, folder: Path, rounds: int, runs: int, kind: str) -> None:
    """Print runs a second, from the command to its end, of a sweep of `runs` short runs."""
    cache = common.prepare(train, folder, "pydocs")

    def by(*launcher: str) -> Callable[[], float]:
        def seconds() -> float:
            outputs = tempfile.mkdtemp(dir=folder)
            places = (f"paths.outputs={outputs}", f"paths.cache={cache}")
            began = time.perf_counter()
            common.run([sys.executable, train, "-m", *launcher, *KINDS[kind], f"seed=range({runs})", *places])
            taken = time.perf_counter() - began
            done = len(list(Path(outputs).rglob("summary.json")))
            if done != runs:
                raise SystemExit(f"{launcher}: {done} of {runs} runs are done")
            return taken

        return seconds

    contenders = {f"molino, {WORKERS} workers": by("hydra/launcher=local", f"hydra.launcher.workers={WORKERS}")}
    contenders["Hydra's basic launcher"] = by("hydra/launcher=basic")
    if importlib.util.find_spec("joblib") and importlib.util.find_spec("hydra_plugins.hydra_joblib_launcher"):
        contenders[f"joblib's launcher, {WORKERS} jobs"] = by(
            "hydra/launcher=joblib", f"hydra.launcher.n_jobs={WORKERS}"
        )
    reference = next(iter(contenders))
    found = common.take_turns(contenders, rounds)
    # As a speed, so that the ratio says how many times faster the workers are.
    speeds = {name: [runs / seconds for seconds in taken] for name, taken in found.items()}
    common.show(f"runs a second, sweep of {runs} {kind} runs, {rounds} rounds", speeds, reference, "{:.3f}")
