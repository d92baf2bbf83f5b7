"""`trial.json`: which trial of its sweep's study a run is, and how it is pruned. Needs neither Optuna nor Lightning."""

import json
from pathlib import Path
from typing import Any

from molino.errors import CheckpointError, ConfigError
from molino.files import write_text

TRIAL = "trial.json"


def curve(objective: str) -> str:
    """Return the metric of each validation by which the runs of a search are pruned.

    Raises:
        ConfigError: the objective is not measured before the end.
    """
    if not objective.startswith("val/"):
        raise ConfigError(
            f"hydra.sweeper.objective={objective} is known only at the end of a run, so none can be pruned: add "
            "hydra.sweeper.pruner=null"
        )
    return objective.replace("best_", "")


def write_trial(run: Path, number: int, tag: str, pruner: dict[str, Any]) -> None:
    """Leave in a run's directory its number in the study, the metric it reports, and the settings of the pruner."""
    write_text(Path(run) / TRIAL, json.dumps({"trial": number, "curve": tag, "pruner": pruner}, indent=2) + "\n")


def read_trial(run: Path) -> dict[str, Any]:
    """Return what `write_trial` has left.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return json.loads((Path(run) / TRIAL).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{Path(run) / TRIAL} cannot be read ({error}): delete it to train without pruning"
        ) from error
