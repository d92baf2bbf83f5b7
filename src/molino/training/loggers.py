"""Where metrics go: TensorBoard events and `metrics.csv`, both in the run directory, both exact after a resume."""

import csv
import inspect
import io
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from molino.base.errors import CheckpointError, ConfigError
from molino.base.files import write_text
from molino.configuration.build import build
from molino.configuration.door import find_part
from molino.configuration.identity import compared
from molino.runs.measures import HELDOUT, LEARNT, Floor, Metric
from molino.training.run import Run


class TensorBoard(TensorBoardLogger):
    """TensorBoard events, right in `directory`, so that TensorBoard names the run after it.

    Args:
        directory: the run directory.
        first_step: where a resumed run goes on: TensorBoard drops what the killed process logged after it. None for a
            new run.
    """

    def __init__(self, directory: Path, first_step: int | None):
        purge = {} if first_step is None else {"purge_step": first_step + 1}
        super().__init__(directory, name="", version="", default_hp_metric=False, **purge)

    @rank_zero_only
    def save(self) -> None:
        """Make what was logged safe. Lightning would also write the settings, which config.yaml holds."""
        self.experiment.flush()

    @rank_zero_only
    def log_settings(self, settings: dict[str, Any], metrics: Iterable[Metric]) -> None:
        """Fill the HParams tab: settings, and the tags whose last values stand beside them.

        Lightning's own way would begin each of the metrics' charts with a made-up point.
        """
        tags = [*(metric.tag for metric in metrics if metric.shown), LEARNT]
        from torch.utils.tensorboard.summary import hparams

        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
        for summary in hparams(plain, dict.fromkeys(tags)):
            self.experiment.file_writer.add_summary(summary)
        # A resumed run does not log them again.
        self.save()


class MetricsFile(Logger):
    """`metrics.csv`: one row a step, one column a metric, in order of appearance.

    Args:
        directory: the run directory.
        first_step: where a resumed run goes on; rows of later steps, left by a killed process, are dropped. None for a
            new run.
    """

    def __init__(self, directory: Path, first_step: int | None):
        super().__init__()
        self.path = Path(directory) / "metrics.csv"
        self.rows: dict[int, dict[str, str]] = {}
        if first_step is not None and self.path.is_file():
            try:
                self._read(first_step)
            except (ValueError, KeyError, csv.Error) as error:
                raise CheckpointError(
                    f"{self.path} is damaged ({error}): delete it to go on without its rows"
                ) from error

    def _read(self, last_step: int) -> None:
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if "step" not in (reader.fieldnames or ()):
                raise ValueError("it has no column of steps")
            for row in reader:
                if int(row["step"]) <= last_step:
                    self.rows[int(row["step"])] = {k: v for k, v in row.items() if v and k != "step"}

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.setdefault(step, {}).update({tag: repr(float(value)) for tag, value in metrics.items()})

    @rank_zero_only
    def save(self) -> None:
        columns = ["step", *dict.fromkeys(tag for row in self.rows.values() for tag in row)]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({"step": step, **row} for step, row in sorted(self.rows.items()))
        write_text(self.path, text.getvalue())

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def start_loggers(run: Run, metrics: Iterable[Metric], first_step: int) -> list[Logger]:
    """Build the loggers of a run; of one that begins, fill the HParams tab."""
    facts = {"directory": run.path, "first_step": first_step if run.has_history else None}
    loggers = []
    for name, node in run.settings["logger"].items():
        if node:
            given = {fact: facts[fact] for fact in given_to(node, f"logger.{name}")}
            loggers.append(build(node, f"logger.{name}", Logger, **given))
    for logger in loggers:
        if isinstance(logger, TensorBoard) and not run.exists:
            logger.log_settings(compared(run.settings, run.request.choices, run.request.overrides), metrics)
    return loggers


def draw_floors(run: Run, loggers: Iterable[Logger], floors: Iterable[Floor], max_steps: int) -> None:
    """Draw the floors of a run where its metrics are drawn, unless that has been done."""
    directory = run.path / "floors"
    if any(isinstance(logger, TensorBoard) for logger in loggers) and not directory.exists():
        log_floors(directory, floors, max_steps)


def given_to(node: Any, key: str) -> list[str]:
    """Return what a logger is told of the run, beside its settings: where its directory is, and the step it goes on
    from, if its constructor takes them.

    Raises:
        ConfigError: there is no such logger, or it does not ask.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        return []
    target = find_part(node["_target_"], f"{key}._target_", Logger)
    if target.__module__.startswith("lightning."):
        # Settings may be somebody else's, and some of these delete what they find in their folder.
        raise ConfigError(
            f"{key}._target_={node['_target_']} is not taken: Lightning's own loggers write where their settings say, "
            "not into the run's directory"
        )
    return [name for name in ("directory", "first_step") if name in inspect.signature(target).parameters]


def log_floors(directory: Path, floors: Iterable[Floor], last_step: int) -> None:
    """Draw each floor as a level line in the chart of the metric that it is of (and of those that follow from it).

    TensorBoard puts lines into one chart when they share a tag, so each floor is a small run of its own below the run.
    """
    from torch.utils.tensorboard import SummaryWriter

    for floor in floors:
        if not floor.levels:
            continue
        with SummaryWriter(str(directory / floor.tag.removeprefix("floor/"))) as writer:
            for step in (0, last_step):
                for name, level in floor.levels.items():
                    writer.add_scalar(f"{HELDOUT}/{name}", level, step)
