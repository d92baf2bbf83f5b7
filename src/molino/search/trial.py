"""`trial.json`: which trial of its sweep's study a run is, and how it is pruned. Needs neither Optuna nor Lightning."""

import json
from pathlib import Path
from typing import Any

from molino.base.errors import CheckpointError, ConfigError
from molino.base.files import write_text
from molino.base.messages import suggest

TRIAL = "trial.json"
# The numbers of summary.json that tell one run of a search from another.
CURVES = ("val/loss", "val/perplexity", "val/bits_per_character", "val/bits_per_byte")
OBJECTIVES = (
    *CURVES, "val/best_loss", "val/best_perplexity", "best_step", "train/loss", "train/perplexity",
    "train/learning_rate", "train/gradient_norm", "train/tokens_per_second", "steps", "tokens", "tokens_per_second",
    "seconds", "parameters",
)  # fmt: skip


def check_objective(objective: str) -> None:
    """Refuse what no run measures.

    Raises:
        ConfigError: the objective is none of OBJECTIVES.
    """
    if objective not in OBJECTIVES:
        raise ConfigError(f"hydra.sweeper.objective={objective} is not measured{suggest(objective, OBJECTIVES)}")


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
    file = Path(run) / TRIAL
    try:
        told = json.loads(file.read_text("utf-8"))
        if told.keys() != {"trial", "curve", "pruner"}:
            raise ValueError("it does not tell trial, curve and pruner")
        if told["curve"] not in CURVES:
            raise ValueError(f"{told['curve']} is not measured")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): delete it to train without pruning") from error
    return told
