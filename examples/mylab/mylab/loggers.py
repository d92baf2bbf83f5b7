"""A logger of Lightning's."""

import json
from pathlib import Path

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only


class JsonLines(Logger):
    """A line of JSON for each line of metrics.

    Args:
        directory: the run directory; molino passes it to whoever asks.
        first_step: where a run goes on; None for a new one. Lines of later steps were left by a killed process.
        name: of the file.
    """

    def __init__(self, directory: Path, first_step: int | None, name: str = "metrics.jsonl"):
        super().__init__()
        self.path = directory / name
        if first_step is not None and self.path.is_file():
            lines = self.path.read_text("utf-8").splitlines(keepends=True)
            self.path.write_text("".join(line for line in lines if json.loads(line)["step"] <= first_step), "utf-8")

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *_, **__) -> None:
        """Settings are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
