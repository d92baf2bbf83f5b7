"""Text sampled at each validation: to TensorBoard and to `samples.txt` of the run."""

import html
import re
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from molino.base.files import write_text
from molino.data.start import forbidden_tokens
from molino.data.tokenizers import Tokenizer
from molino.generation.decode import generate
from molino.machine.hardware import Hardware
from molino.training.plan import Plan

HEADING = r"^--- step (\d+) ---$"


class Samples(Callback):
    """Samples a text from the model as it is, with the same random numbers every time.

    Args:
        run: the run directory.
        tokenizer: turns tokens into text.
        start_id: the token a text starts from.
        tokens: length of the sample, in tokens.
        seed: of the sampling; training's own random numbers are not touched.
    """

    def __init__(self, run: Path, tokenizer: Tokenizer, start_id: int, tokens: int, seed: int):
        self.path, self.tokenizer = Path(run) / "samples.txt", tokenizer
        self.start_id, self.tokens, self.seed = start_id, tokens, seed

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Drop samples of steps that a killed process took after the checkpoint that is resumed from."""
        if trainer.is_global_zero:
            text = self._text()
            later = (m for m in re.finditer(HEADING, text, re.MULTILINE) if int(m[1]) > trainer.global_step)
            if (first := next(later, None)) is not None:
                write_text(self.path, text[: first.start()])

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        text = sample_text(module.model, self.tokenizer, self.start_id, self.tokens, self.seed)
        write_text(self.path, f"{self._text()}--- step {trainer.global_step} ---\n{text}\n\n")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # Preformatted and escaped: TensorBoard would read a sample as Markdown, and fetch images it names.
                markup = f"<pre><code>{html.escape(text)}</code></pre>"
                logger.experiment.add_text("samples", markup, trainer.global_step)

    def _text(self) -> str:
        """What was sampled so far, with its line ends as they are."""
        return self.path.read_bytes().decode("utf-8") if self.path.is_file() else ""


def sampling(
    run: Path, tokenizer: Tokenizer, start_id: int, plan: Plan, hardware: Hardware, seed: int
) -> list[Callback]:
    """Return what samples during a run: nothing where no text is asked for, or no process holds all the weights."""
    if not plan.sample_tokens or hardware.strategy == "fsdp":
        return []
    return [Samples(run, tokenizer, start_id, plan.sample_tokens, seed)]


def sample_text(model: torch.nn.Module, tokenizer: Tokenizer, start_id: int, tokens: int, seed: int) -> str:
    """Return up to `tokens` tokens that `model` continues `start_id` with, as text."""
    generator = torch.Generator().manual_seed(seed)
    steps = generate(
        model,
        torch.tensor([start_id]),
        tokens,
        generator=generator,
        stop_id=tokenizer.end_of_text_id,
        forbidden_ids=forbidden_tokens(tokenizer, start_id, model.vocab_size),
    )
    return tokenizer.decode([int(token_B[0]) for token_B in steps])
