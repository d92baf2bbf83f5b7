"""TensorBoard: curves, floors as level lines beside them, samples, pictures, and the HParams tab."""

import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from molino.runs.measures import HELDOUT, LEARNT, Floor, Metric, metric_name, partial_tag

# One chart, the first that TensorBoard shows: the held-out loss, that of training, and the floors. Lines share a chart
# where they share a tag, so each but the first is a small run of its own below the run.
CHART = metric_name(LEARNT)
HELD = f"{HELDOUT}/{CHART}"
# Where those lie, and the tags that they are of.
BESIDE = {LEARNT: "training", partial_tag(HELD): "partial"}
FLOORS = "floors"


class TensorBoard(TensorBoardLogger):
    """TensorBoard events, right in `directory`, so that TensorBoard names the run after it.

    Args:
        directory: the run directory.
        first_step: where a resumed run goes on: TensorBoard drops what the killed process logged after it. None for a
            new run.
    """

    def __init__(self, directory: Path, first_step: int | None):
        self._directory = Path(directory)
        self._purge = {} if first_step is None else {"purge_step": first_step + 1}
        self._beside = {}
        super().__init__(directory, name="", version="", default_hp_metric=False, **self._purge)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        if HELD in metrics:
            super().log_metrics({CHART: metrics[HELD]}, step)
        for tag, name in BESIDE.items():
            if tag in metrics:
                self._writer(name).add_scalar(CHART, metrics[tag], step)

    @rank_zero_only
    def save(self) -> None:
        """Make what was logged safe. Lightning would also write the settings, which config.yaml holds."""
        self.experiment.flush()
        for writer in self._beside.values():
            writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        for writer in self._beside.values():
            writer.close()

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

    @rank_zero_only
    def log_floors(self, floors: Iterable[Floor], last_step: int) -> None:
        """Draw each floor as a level line in the chart of the metric that it is of (and of those that follow from it),
        unless that has been done."""
        directory = self._directory / FLOORS
        if not directory.exists():
            write_floors(directory, floors, last_step)

    @rank_zero_only
    def log_text(self, tag: str, text: str, step: int) -> None:
        self.experiment.add_text(tag, as_markup(text), step)

    @rank_zero_only
    def log_figure(self, tag: str, figure: Any, step: int) -> None:
        self.experiment.add_figure(tag, figure, step)

    def _writer(self, name: str) -> Any:
        if name not in self._beside:
            from torch.utils.tensorboard import SummaryWriter

            self._beside[name] = SummaryWriter(str(self._directory / name), **self._purge)
        return self._beside[name]


def write_floors(directory: Path, floors: Iterable[Floor], last_step: int) -> None:
    """Write level lines, each floor into a folder of its own."""
    from torch.utils.tensorboard import SummaryWriter

    for floor in floors:
        if not floor.levels:
            continue
        with SummaryWriter(str(directory / floor.tag.removeprefix("floor/"))) as writer:
            for step in (0, last_step):
                for name, level in floor.levels.items():
                    writer.add_scalar(f"{HELDOUT}/{name}", level, step)
                    if name == CHART:
                        writer.add_scalar(CHART, level, step)


def as_markup(text: str) -> str:
    """Return a text as TensorBoard shows it character by character, its lines folded at the edge of their card.

    Unescaped it would be read as Markdown, and images that it names fetched.
    """
    lines = html.escape(text).split("\n")
    # Of several spaces all but the last would be swallowed; an empty line would end the paragraph.
    kept = (re.sub("^ | (?= )", "\N{NO-BREAK SPACE}", line) for line in lines)
    return f"<p>{'<br>'.join(kept)}</p>"
