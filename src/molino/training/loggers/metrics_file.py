"""`metrics.csv` of a run. Settings are in `config.yaml`, samples in `samples.txt`, floors in `metrics.json`."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from molino.base.errors import CheckpointError
from molino.base.files import write_text


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
