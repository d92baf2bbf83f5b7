"""What a network writes at each validation: to the loggers and to `samples.txt` of the run."""

import re
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from molino.base.files import write_text
from molino.data.tokens import TokenizedCorpus
from molino.machine.hardware import Hardware
from molino.training.loggers.start import tell
from molino.training.plan import Plan

HEADING = r"^--- step (\d+) ---$"


class Samples(Callback):
    """Has the task show what the network can do by now, with the same random numbers every time.

    Args:
        run: the run directory.
        text: the corpus as tokens.
        tokens: length of the sample, in tokens.
        seed: of the sampling; training's own random numbers are not touched.
    """

    def __init__(self, run: Path, text: TokenizedCorpus, tokens: int, seed: int):
        self.path, self.text, self.tokens, self.seed = Path(run) / "samples.txt", text, tokens, seed

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Drop samples of steps that a killed process took after the checkpoint that is resumed from."""
        if trainer.is_global_zero:
            text = self._sampled()
            later = (m for m in re.finditer(HEADING, text, re.MULTILINE) if int(m[1]) > trainer.global_step)
            if (first := next(later, None)) is not None:
                write_text(self.path, text[: first.start()])

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        text = module.task.sample(module.model, self.text, self.tokens, self.seed)
        if not text:
            return
        write_text(self.path, f"{self._sampled()}--- step {trainer.global_step} ---\n{text}\n\n")
        tell(trainer.loggers, "log_text", "samples", text, trainer.global_step)

    def _sampled(self) -> str:
        """What was sampled so far, with its line ends as they are."""
        return self.path.read_bytes().decode("utf-8") if self.path.is_file() else ""


def sampling(run: Path, text: TokenizedCorpus, plan: Plan, hardware: Hardware, seed: int) -> list[Callback]:
    """Return what samples during a run: nothing where no text is asked for."""
    if not plan.sample_tokens:
        return []
    return [Samples(run, text, plan.sample_tokens, seed)]
