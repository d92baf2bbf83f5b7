"""`metrics.csv` of a run. Settings are in `config.yaml`, samples in `samples.txt`, floors in `metrics.json`."""

import csv
import io
from argparse import Namespace
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from molino.base.errors import CheckpointError
from molino.base.files import append_text, atomic_write, whole_lines


class MetricsFile(Logger):
    """`metrics.csv`: one row a step, one column a metric, in order of appearance.

    Rows are appended. The file is written anew only where a run goes on, for a new column, and for a row that is there
    already and has more to hold.

    Args:
        directory: the run directory.
        first_step: where a resumed run goes on; rows of later steps, left by a killed process, are dropped. None for a
            new run.

    Attributes:
        rows: by step, those that are to be written, and the last that has been.
    """

    def __init__(self, directory: Path, first_step: int | None):
        super().__init__()
        self.path = Path(directory) / "metrics.csv"
        self.rows: dict[int, dict[str, str]] = {}
        self._columns: dict[str, None] = {}
        # What the file holds and is to keep: rows up to this step.
        self._kept = -1 if first_step is None else first_step
        self._anew = True
        if first_step is not None and self.path.is_file():
            for step, row in self._read():
                self._columns |= dict.fromkeys(row)
                self.rows = {step: row}

    def _read(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the rows of the file that it is to keep, one at a time."""
        try:
            reader = csv.DictReader(whole_lines(self.path))
            if "step" not in (reader.fieldnames or ()):
                raise ValueError("it has no column of steps")
            for row in reader:
                if (step := int(row["step"])) <= self._kept:
                    yield step, {k: v for k, v in row.items() if v and k != "step"}
        except (ValueError, KeyError, csv.Error) as error:
            raise CheckpointError(f"{self.path} is damaged ({error}): delete it to go on without its rows") from error

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
        if step <= self._kept or not metrics.keys() <= self._columns.keys():
            self._anew = True
            self._columns |= dict.fromkeys(metrics)

    @rank_zero_only
    def save(self) -> None:
        waiting = sorted(self.rows.items())
        if self._anew or not self.path.is_file():
            with atomic_write(self.path) as file:
                text = io.TextIOWrapper(file, "utf-8", newline="")
                self._writer(text).writeheader()
                self._write(text, self._beside(waiting))
                text.detach()
        elif fresh := [(step, row) for step, row in waiting if step > self._kept]:
            self._anew = True  # should this fail halfway
            text = io.StringIO()
            self._write(text, fresh)
            append_text(self.path, text.getvalue())
        self._anew = False
        if waiting:
            self._kept = waiting[-1][0]
            self.rows = dict(waiting[-1:])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _beside(self, waiting: list[tuple[int, dict[str, str]]]) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield what the file holds and what it is to hold beside it, by step."""
        waiting = waiting[::-1]
        for step, row in self._read() if self.path.is_file() and self._kept >= 0 else ():
            while waiting and waiting[-1][0] < step:
                yield waiting.pop()
            yield step, row | (waiting.pop()[1] if waiting and waiting[-1][0] == step else {})
        yield from reversed(waiting)

    def _write(self, text: TextIO, rows: Iterable[tuple[int, dict[str, str]]]) -> None:
        self._writer(text).writerows({"step": step, **row} for step, row in rows)

    def _writer(self, text: TextIO) -> csv.DictWriter:
        return csv.DictWriter(text, ["step", *self._columns], lineterminator="\n")
