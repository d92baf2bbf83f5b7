"""What a run measures: its figures by name, which of them decides, and what counting reaches. Told by its task.

The run's directory holds it as `metrics.json`, so that sweeps, searches and tables know in which direction a figure
improves without the code of the task. Tags are TensorBoard's and those of `summary.json`: the split, and the name of a
metric (`val/accuracy` is the `accuracy` of the held-out split); what ends in `best_...` is that of the best step. Where
it is of a share of the split alone, that is called so (`val_partial/accuracy`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from molino.base.errors import CheckpointError, ConfigError
from molino.base.files import read_text, write_text
from molino.base.messages import suggest

METRICS = "metrics.json"
HELDOUT = "val"  # the split that is looked at during training
TEST = "test"  # the split that is looked at when all is chosen
LOOKS = "test/looks"  # how often it was
LOST = "lost/"  # before what the tokens have lost of the held-out text: a share of it
MINIMIZE, MAXIMIZE = "minimize", "maximize"
PARTIAL = "_partial"  # behind the split of a figure that is of a share of it alone
OF_100 = "of 100"  # the unit of what is perfect at 100, unlike a share
# What every run measures, whatever its task, and in which direction it improves; None where that is a matter of taste.
OF_EVERY_RUN = {
    "train/tokens_per_second": MAXIMIZE, "train/mfu": MAXIMIZE, "train/learning_rate": None,
    "train/gradient_norm": None, "tokens_per_second": MAXIMIZE, "seconds": MINIMIZE, "steps": None, "best_step": None,
    "tokens": None, "parameters": MINIMIZE,
}  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """A figure over a whole split.

    Attributes:
        direction: `minimize` or `maximize`, the way in which it improves.
        unit: as it stands behind the number, such as "nats a token".
        per_token: it compares only between runs with the same tokenizer.
        across: it is what runs with different ones are ranked by, in place of a figure a token.
        shown: it is told while a run trains, kept of the best step, and stands in TensorBoard's HParams tab.
        overflows: it may be infinite, for which a summary has null.
    """

    name: str
    direction: str = MINIMIZE
    unit: str = ""
    per_token: bool = False
    shown: bool = True
    overflows: bool = False
    across: bool = False

    def __post_init__(self):
        if not self.name.isidentifier() or self.name.startswith("best_"):
            raise ConfigError(f"a metric cannot be called {self.name}: its tags begin with a split, or with best_")
        if self.direction not in (MINIMIZE, MAXIMIZE):
            raise ConfigError(
                f"the metric {self.name} improves in direction {self.direction}: say minimize or maximize"
            )

    @property
    def tag(self) -> str:
        """What it is called where it is that of the held-out split."""
        return f"{HELDOUT}/{self.name}"

    @property
    def best_tag(self) -> str:
        """What it is called where it is that of the best step."""
        return f"{HELDOUT}/best_{self.name}"


@dataclass(frozen=True)
class Floor:
    """What counting reaches of a metric: a model has to be better.

    Attributes:
        tag: its name in the summary, such as `floor/ngram`.
        title: what it is called in a table of facts.
        brief: what it is called beside a number, such as "5-gram".
        levels: the lines it draws: the value of each metric (by name) that it amounts to, the one it is of first. None
            where it is of no metric of this split.
        remark: what else there is to say of it.
        beatable: a model can be better for long; not so of the entropy of a source.
        facts: further numbers for the summary.
    """

    tag: str
    value: float
    title: str
    brief: str
    levels: Mapping[str, float] = field(default_factory=dict)
    remark: str = ""
    beatable: bool = True
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measures:
    """What is recorded of all that.

    Attributes:
        monitor: the tag of the figure that decides: by which a checkpoint is the best, runs are ranked and pruned.
        metrics: by name.
        floors: tag -> what it is called beside a number, and what it amounts to of each metric, by name, the one it is
            of first; None where only the summary tells.
    """

    monitor: str
    metrics: Mapping[str, Metric]
    floors: Mapping[str, tuple[str, Mapping[str, float | None]]] = field(default_factory=dict)

    def metric(self, tag: str) -> Metric | None:
        """Return the metric that a tag is a figure of; None where it is of none."""
        return self.metrics.get(metric_name(tag))

    def maximized(self, tag: str) -> bool:
        """Tell whether the figure improves upwards."""
        if tag in OF_EVERY_RUN:
            return OF_EVERY_RUN[tag] == MAXIMIZE
        metric = self._metric_behind(tag)
        return metric is not None and metric.direction == MAXIMIZE

    def per_token(self, tag: str) -> bool:
        """Tell whether a figure compares only between runs with the same tokenizer. A part of a training loss does."""
        if tag in OF_EVERY_RUN:
            return tag.startswith("train/")
        metric = self._metric_behind(tag)
        return tag.startswith("train/") if metric is None else metric.per_token

    def across(self, tag: str) -> str:
        """Return the tag of the figure that compares in place of one a token, of the same split; else the same."""
        if not self.per_token(tag):
            return tag
        other = next((name for name, metric in self.metrics.items() if metric.across), None)
        return tag if other is None else f"{tag.partition('/')[0]}/{other}"

    def levels_of(self, tag: str) -> dict[str, tuple[str, float | None]]:
        """Return the floors of a held-out figure: tag -> what it is called, and its value; None where only the summary
        tells it."""
        name = metric_name(tag) if tag.startswith(f"{HELDOUT}/") else None
        return {floor: (brief, levels[name]) for floor, (brief, levels) in self.floors.items() if name in levels}

    def _metric_behind(self, tag: str) -> Metric | None:
        """Return the metric that a tag is a figure of, or a floor of."""
        return self.metric(tag) or (self.metrics.get(next(iter(self.floors[tag][1]))) if tag in self.floors else None)


def check_monitor(monitor: str, direction: str, metrics: Iterable[Metric]) -> None:
    """Refuse a monitor that is not measured, and a direction that is not its own.

    Raises:
        ConfigError: as above.
    """
    own = {metric.tag: metric.direction for metric in metrics}
    if monitor not in own:
        raise ConfigError(f"task.monitor={monitor} is not measured{suggest(monitor, own)}")
    if direction != own[monitor]:
        better = "higher" if own[monitor] == MAXIMIZE else "lower"
        raise ConfigError(
            f"task.direction={direction}, but {monitor} is better when {better}: set task.direction={own[monitor]}"
        )


def measures_of(monitor: str, metrics: Iterable[Metric], floors: Iterable[Floor]) -> Measures:
    """Return what is recorded of a run with these metrics and floors."""
    beside = {floor.tag: (floor.brief, dict(floor.levels)) for floor in floors if floor.levels and floor.beatable}
    return Measures(monitor, {metric.name: metric for metric in metrics}, beside)


def metric_name(tag: str) -> str:
    """Return the name of the metric in a tag: `accuracy` of `val/accuracy` and of `val/best_accuracy`."""
    return tag.partition("/")[2].removeprefix("best_")


def partial_tag(tag: str) -> str:
    """Return what a figure is called that is of a share of its split alone: `val_partial/accuracy`."""
    split, _, name = tag.partition("/")
    return f"{split}{PARTIAL}/{name}"


def learnt_tag(name: str) -> str:
    """Return what a figure of the training loss is called: `train/loss` of `loss`."""
    return f"train/{name}"


LEARNT = learnt_tag("loss")  # what is learnt by, whatever the task


def metric_tag(tag: str) -> str:
    """Return the tag of each validation for that of the best: `val/accuracy` of `val/best_accuracy`."""
    return tag.replace("/best_", "/")


def spoken(tag: str) -> str:
    """Return a tag in words: `held-out accuracy` of `val/accuracy`."""
    split, _, name = tag.partition("/")
    words = {HELDOUT: "held-out"}.get(split, split)
    return f"{words} {name}".replace("_", " ").strip()


def write_measures(run: Path, measures: Measures) -> None:
    """Record what a run measures in its directory."""
    metrics = {name: {k: v for k, v in asdict(m).items() if k != "name"} for name, m in measures.metrics.items()}
    floors = {tag: {"brief": brief, "levels": dict(levels)} for tag, (brief, levels) in measures.floors.items()}
    content = {"monitor": measures.monitor, "metrics": metrics, "floors": floors}
    write_text(Path(run) / METRICS, json.dumps(content, indent=2) + "\n")


def read_measures(run: Path) -> Measures | None:
    """Return what a run measures; None of one that has not recorded it.

    Raises:
        CheckpointError: the record is damaged.
    """
    path = Path(run) / METRICS
    try:
        return _parse(json.loads(read_text(path)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {type(error).__name__} {' '.join(str(error).split())}"
        ) from error


def _parse(content: Any) -> Measures:
    metrics = {name: Metric(name, **values) for name, values in content["metrics"].items()}
    floors = {tag: (str(each["brief"]), _levels(each)) for tag, each in content["floors"].items()}
    if not isinstance(content["monitor"], str) or any(
        m.direction not in (MINIMIZE, MAXIMIZE) for m in metrics.values()
    ):
        raise ValueError("it names no monitor, or no direction")
    return Measures(content["monitor"], metrics, floors)


def _levels(floor: Any) -> dict[str, float | None]:
    """Return the levels of a recorded floor; earlier ones have the name of a metric alone."""
    if "levels" not in floor:
        return {str(floor["metric"]): None}
    levels = {str(name): level for name, level in floor["levels"].items()}
    if not levels or not all(level is None or isinstance(level, int | float) for level in levels.values()):
        raise ValueError("a floor has no levels")
    return levels
