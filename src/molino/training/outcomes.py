"""What became of the held-out examples, beside each validation: in the loggers, and in the run for the results page."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from molino.data.tokens import TokenizedCorpus
from molino.runs.examples import Outcomes, write_outcomes
from molino.runs.pictures import draw_outcomes
from molino.tasks.task import Task
from molino.training.loggers.start import tell


class ExampleOutcomes(Callback):
    """Records what the task shows of the held-out examples.

    Args:
        run: the run directory.
    """

    def __init__(self, run: Path, text: TokenizedCorpus):
        self.path, self.text = Path(run), text

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        outcomes = module.task.outcomes(module.totals, self.text, trainer.global_step)
        write_outcomes(self.path, outcomes)
        tell(trainer.loggers, "log_text", "most wrong", _wrong(outcomes), trainer.global_step)
        for logger in trainer.loggers:
            # Each closes the picture that it has drawn.
            if hasattr(logger, "log_figure") and (figure := _figure(outcomes)) is not None:
                logger.log_figure("held-out examples", figure, trainer.global_step)


def example_outcomes(task: Task, run: Path, text: TokenizedCorpus) -> list[Callback]:
    """Return what records the examples of a task that shows some."""
    return [ExampleOutcomes(run, text)] if hasattr(task, "outcomes") else []


def _figure(outcomes: Outcomes) -> object | None:
    """Return a picture; None where matplotlib, which is optional, is missing."""
    try:
        return draw_outcomes(outcomes, f"held-out examples after step {outcomes.step:,}")
    except ImportError:
        return None


def _wrong(outcomes: Outcomes) -> str:
    return "\n".join(f"{each.sure:.3f}  {each.told}, not {each.wanted}: {each.text}" for each in outcomes.wrong)
