"""MLflow: a store beside the runs, which `mlflow ui` shows; or where MLFLOW_TRACKING_URI says."""

import logging
import os
import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from molino.base.errors import ResourceError
from molino.base.files import lock, write_text
from molino.runs.measures import Floor, Metric

STORE, ARTIFACTS, LOCK, RUN_ID = "mlflow.db", "mlflow-files", ".mlflow.lock", "mlflow.id"
LONGEST = 6000  # characters of a parameter


class MLflow(Logger):
    """Settings as parameters, metrics, floors as level metrics, samples and pictures as artifacts.

    Where it all goes is for the person at the keyboard to say, not for a configuration, which may be somebody else's:
    MLFLOW_TRACKING_URI, or else an SQLite file in the folder that the run's lies in, for all runs there.

    Args:
        directory: the run directory.
        first_step: where a resumed run goes on, into the same run of MLflow; None for a new one.
        experiment: what MLflow calls the runs together.
    """

    needs = "mlflow"

    def __init__(self, directory: Path, first_step: int | None, experiment: str = "molino"):
        super().__init__()
        # It would tell its makers that it is used.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        self._directory, self._folder = Path(directory), Path(directory).absolute().parent
        self._experiment, self._new = experiment, first_step is None
        self._client, self._id = None, ""

    @property
    def name(self) -> str:
        return self._experiment

    @property
    def version(self) -> str:
        return self._id

    @property
    @rank_zero_only
    def experiment(self) -> Any:
        """MLflow's own client, with a run that is open."""
        if self._client is None:
            from mlflow.exceptions import MlflowException

            try:
                self._begin()
            except MlflowException as error:
                reason = " ".join(str(error).split())
                raise ResourceError(f"logger.mlflow: {reason}; say where with MLFLOW_TRACKING_URI") from error
        return self._client

    def _begin(self) -> None:
        from mlflow.tracking import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self._folder / STORE}"
        # Runs of a sweep begin at once, and only one of them can make the store.
        with lock(self._folder / LOCK):
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(self._experiment)
            # The store of a server has a place of its own for files.
            place = None if os.environ.get("MLFLOW_TRACKING_URI") else (self._folder / ARTIFACTS).as_uri()
            number = found.experiment_id if found else client.create_experiment(self._experiment, place)
        kept = self._directory / RUN_ID
        if not self._new and kept.is_file():
            self._id = kept.read_text("utf-8").strip()
            client.update_run(self._id, status="RUNNING")
        else:
            self._id = client.create_run(number, run_name=self._directory.name).info.run_id
            write_text(kept, self._id + "\n")
        self._client = client

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Settings come by log_settings."""

    @rank_zero_only
    def log_settings(self, settings: dict[str, Any], metrics: Iterable[Metric]) -> None:
        from mlflow.entities import Param

        given = [Param(_allowed(name), str(value)[:LONGEST]) for name, value in settings.items()]
        self.experiment.log_batch(self._id, params=given)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric as Point

        now = int(time.time() * 1000)
        points = [Point(_allowed(tag), float(value), now, step or 0) for tag, value in metrics.items()]
        self.experiment.log_batch(self._id, metrics=points)

    @rank_zero_only
    def log_floors(self, floors: Iterable[Floor], last_step: int) -> None:
        for floor in floors:
            for step in (0, last_step):
                self.log_metrics({floor.tag: floor.value}, step)

    @rank_zero_only
    def log_text(self, tag: str, text: str, step: int) -> None:
        self.experiment.log_text(self._id, text, f"{tag}/{step:08}.txt")

    @rank_zero_only
    def log_figure(self, tag: str, figure: Any, step: int) -> None:
        self.experiment.log_figure(self._id, figure, f"{tag}/{step:08}.png")

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._client is not None:
            self._client.set_terminated(self._id, "FINISHED" if status == "success" else "FAILED")


def _allowed(name: str) -> str:
    """Return a name with what MLflow allows in one."""
    return "".join(c if c.isalnum() or c in "_-. /:" else "_" for c in name)
