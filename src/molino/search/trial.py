"""`trial.json`: which trial of its sweep's study a run is, and how it is pruned. Needs neither Optuna nor Lightning."""

import json
from pathlib import Path
from typing import Any

from molino.base.errors import CheckpointError, ConfigError
from molino.base.files import write_text
from molino.base.messages import suggest
from molino.configuration.door import find_callable
from molino.runs.measures import HELDOUT, OF_EVERY_RUN, Metric, check_monitor, learnt_tag, metric_tag

TRIAL = "trial.json"


def direction_of(objective: str, task: dict[str, Any]) -> str | None:
    """Return in which direction an objective improves; None of one that does in neither.

    Args:
        task: the settings of the task, which tell it of its monitor. Of another of its metrics the task itself does,
            and that brings torch.

    Raises:
        ConfigError: the objective is not measured.
    """
    if metric_tag(objective) == task.get("monitor"):
        return task["direction"]
    if objective in OF_EVERY_RUN:
        return OF_EVERY_RUN[objective]
    known = objectives(_class_of(task))
    if objective not in known:
        raise ConfigError(f"hydra.sweeper.objective={objective} is not measured{suggest(objective, known)}")
    return known[objective]


def check_declared(task: dict[str, Any]) -> None:
    """Refuse a monitor that a task does not measure, and a direction that is not its own.

    Raises:
        ConfigError: as above.
    """
    check_monitor(task["monitor"], task["direction"], getattr(_class_of(task), "metrics", ()))


def _class_of(task: dict[str, Any]) -> Any:
    return find_callable(task.get("_target_"), "task._target_")


def objectives(task: Any) -> dict[str, str | None]:
    """Return the numbers of a summary but the floors, each with the direction in which it improves.

    Args:
        task: the class of a task, or a task.
    """
    metrics: dict[str, Metric] = {metric.name: metric for metric in getattr(task, "metrics", ())}
    found = {metric.tag: metric.direction for metric in metrics.values()}
    found |= {metric.best_tag: metric.direction for metric in metrics.values() if metric.shown}
    learnt = {name: metrics.get(name, Metric(name)).direction for name in getattr(task, "learnt", ())}
    return found | {learnt_tag(name): direction for name, direction in learnt.items()} | OF_EVERY_RUN


def curve(objective: str) -> str:
    """Return the metric of each validation by which the runs of a search are pruned.

    Raises:
        ConfigError: the objective is not measured before the end.
    """
    if not objective.startswith(f"{HELDOUT}/"):
        raise ConfigError(
            f"hydra.sweeper.objective={objective} is known only at the end of a run, so none can be pruned: add "
            "hydra.sweeper.pruner=null"
        )
    return metric_tag(objective)


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
        if not isinstance(told["curve"], str):
            raise ValueError(f"{told['curve']} is no name of a metric")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): delete it to train without pruning") from error
    return told
