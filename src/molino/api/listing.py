"""`molino.list_runs`: what runs there are, as rows."""

from pathlib import Path
from typing import Any

from molino.api.aside import Explained
from molino.verbs.results import runs_below

FIRST = ("data", "data/tokenizer", "task", "model", "optimizer", "scheduler", "hardware", "experiment")


def list_runs(*names: str, outputs: str = "outputs") -> list[dict[str, Any]]:
    """Return a row for each run, oldest name first: pandas.DataFrame(molino.list_runs()) is a table.

    Every row has the same keys: `run`, `path`, `state` (not begun, pending, running, done, failed, cut off, cancelled),
    the choices of each group (`data`, `model`, ...), `seed`, what was typed, and the figures of the summary; None where
    a run has no such thing.

    Args:
        names: sweeps by name, folders and runs by path; none for all below the outputs.
        outputs: where runs lie.

    Raises:
        CheckpointError: there is no such sweep or folder.
    """
    with Explained():
        runs = runs_below([str(name) for name in names], Path(outputs))
        rows = [
            {
                "run": run.path.name,
                "path": str(run.path),
                "state": run.status.state,
                **{group: run.choices.get(group) for group in FIRST},
                **run.choices,
                "seed": run.seed,
                **run.typed,
                **(run.status.summary or {}),
            }
            for run in runs
        ]
    return [dict.fromkeys(key for row in rows for key in row) | row for row in rows]
