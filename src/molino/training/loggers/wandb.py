"""Weights & Biases: offline, in the run directory, unless WANDB_MODE says otherwise."""

import html
import os
import secrets
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from molino.base.files import write_text
from molino.runs.measures import Floor, Metric

RUN_ID = "wandb.id"


class WeightsAndBiases(Logger):
    """Settings, metrics, floors as level lines, samples and pictures, in `wandb/` of the run.

    Nothing leaves the machine before the person at the keyboard says so: `wandb sync <run>/wandb/offline-run-*`, or
    WANDB_MODE=online. A configuration cannot say it, as it may be somebody else's.

    Args:
        directory: the run directory.
        first_step: where a resumed run goes on, as the same run of theirs; None for a new one.
        project: what the runs are called together; WANDB_PROJECT names another.
    """

    needs = "wandb"

    def __init__(self, directory: Path, first_step: int | None, project: str = "molino"):
        super().__init__()
        self._directory, self._project, self._new = Path(directory), project, first_step is None
        self._run, self._id = None, ""

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str:
        return self._id

    @property
    @rank_zero_only
    def experiment(self) -> Any:
        """The run of their own package, open."""
        if self._run is None:
            import wandb

            kept = self._directory / RUN_ID
            if self._new or not kept.is_file():
                write_text(kept, secrets.token_hex(4) + "\n")
            self._id = kept.read_text("utf-8").strip()
            self._run = wandb.init(
                id=self._id,
                resume="allow",
                name=self._directory.name,
                project=os.environ.get("WANDB_PROJECT", self._project),
                dir=str(self._directory),
                mode=os.environ.get("WANDB_MODE", "offline"),
                settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
            )
            # Their own steps count calls, and never go back.
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
        return self._run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings come by log_settings."""

    @rank_zero_only
    def log_settings(self, settings: dict[str, Any], metrics: Iterable[Metric]) -> None:
        self.experiment.config.update(settings, allow_val_change=True)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.experiment.log({**metrics, "step": step})

    @rank_zero_only
    def log_floors(self, floors: Iterable[Floor], last_step: int) -> None:
        levels = {floor.tag: floor.value for floor in floors}
        for step in (0, last_step):
            self.log_metrics(levels, step)

    @rank_zero_only
    def log_text(self, tag: str, text: str, step: int) -> None:
        import wandb

        shown = f"<pre style='white-space: pre-wrap'>{html.escape(text)}</pre>"
        self.experiment.log({tag: wandb.Html(shown, inject=False), "step": step})

    @rank_zero_only
    def log_figure(self, tag: str, figure: Any, step: int) -> None:
        import wandb

        self.experiment.log({tag: wandb.Image(figure), "step": step})

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if status == "success" else 1)
