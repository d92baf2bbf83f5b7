"""What a model has to beat, beside its training: shown at once where it is known, else counted by the first validation,
so that no first step waits for it."""

from collections.abc import Iterable

from lightning.pytorch import Callback, LightningModule, Trainer

from molino.base.processes import is_main_process
from molino.data.tokens import TokenizedCorpus
from molino.runs.measures import HELDOUT, Floor, Measures, Metric, measures_of
from molino.tasks.floors import count_floors, known_floors
from molino.tasks.task import Task
from molino.training.loggers.start import draw_floors
from molino.training.run import Run


class Floors(Callback):
    """Has the floors of the held-out split counted, recorded and drawn, by the main process.

    Args:
        metrics: what the run measures.

    Attributes:
        found: the floors; None where they have not been counted, and in other processes.
    """

    def __init__(self, run: Run, task: Task, metrics: Iterable[Metric], text: TokenizedCorpus, block_size: int):
        self.run, self.task, self.metrics, self.text, self.block_size = run, task, metrics, text, block_size
        self.found: list[Floor] | None = None
        if is_main_process():
            self.found = known_floors(task, text, HELDOUT, block_size)

    @property
    def measures(self) -> Measures:
        """What the run measures, with the floors as far as they are known."""
        return measures_of(self.task.monitor, self.metrics, self.found or [])

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero and self.found is None:
            self.found = count_floors(self.task, self.text, HELDOUT, self.block_size)
            self.run.tell(self.measures)
            draw_floors(trainer.loggers, self.found, module.max_steps)
