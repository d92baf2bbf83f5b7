"""The LightningDataModule: corpus, tokenizer and batches behind Lightning's interface."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from lightning.pytorch import LightningDataModule

from molino.base.errors import ConfigError
from molino.data.batches import BATCHES, Draw, Evaluation, TrainingBlocks, draw_block
from molino.data.corpus import Corpus
from molino.data.tokenizers import MakesTokenizer, Tokenizer
from molino.data.tokens import Split, TokenizedCorpus, prepare


class MakesBatches(Protocol):
    """What a task says of batches; see molino.tasks.task.Task."""

    parts: Mapping[str, float]

    def draw(self, text: TokenizedCorpus, batches: str, block_size: int, seed: int) -> Draw: ...

    def evaluation(
        self, text: TokenizedCorpus, split: str, block_size: int, stride: int | None, rank: int = 0, world_size: int = 1
    ) -> Evaluation: ...


class TextDataModule(LightningDataModule):
    """Text as blocks of training batches and as batches for exact evaluation.

    Args:
        task: what a batch holds.
        corpus: what to read; see molino.data.corpus.
        tokenizer: makes a tokenizer of the training texts; see molino.data.tokenizers.
        batches: `windows` of the token stream or `documents` (a random window of each).
        block_size: context length in tokens.
        batch_size: rows of a micro-batch, over all processes together.
        accumulate: micro-batches of an optimizer step.
        steps_per_block: optimizer steps drawn, and trained, at once.
        seed: decides every batch.
        distinct_batches: train on the batches of the first so many steps over and over, None for always new ones.
        cache: folder for tokenizers and tokens.

    After `setup`, which prepares the corpus at its first call and does nothing at later ones:

    Attributes:
        text: the corpus as tokens.
        settled: settings of the task that follow from it, by name.
        draw: the examples of its training split.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: MakesTokenizer,
        batches: str,
        block_size: int,
        batch_size: int,
        cache: str,
        distinct_batches: int | None = None,
        *,
        task: MakesBatches,
        accumulate: int,
        steps_per_block: int,
        seed: int,
    ):
        super().__init__()
        if not callable(tokenizer):
            raise ConfigError(f"data.tokenizer={tokenizer} says nothing to call: choose data/tokenizer={tokenizer}")
        if not hasattr(corpus, "read"):
            raise ConfigError(f"data.corpus={corpus} is no corpus: choose one with data=<name>")
        if batches not in BATCHES:
            raise ConfigError(f"data.batches={batches} is unknown: choose {' or '.join(BATCHES)}")
        sizes = {"block_size": block_size, "batch_size": batch_size, "distinct_batches": distinct_batches}
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise ConfigError(f"data.{name}={value} must be at least 1")
        self.corpus, self.train_tokenizer, self.cache = corpus, tokenizer, Path(cache).expanduser()
        self.batches, self.block_size, self.batch_size = batches, block_size, batch_size
        self.distinct_batches, self.task = distinct_batches, task
        self.accumulate, self.steps_per_block, self.seed = accumulate, steps_per_block, seed
        self.text: TokenizedCorpus | None = None

    @property
    def tokens_per_step(self) -> int:
        length = self.block_size if self.text is None or self.draw.length is None else self.draw.length
        return round(self.accumulate * self.batch_size * length)

    @property
    def steps_per_epoch(self) -> float:
        """How many optimizer steps see as much as the whole training split."""
        return self.draw.epoch / (self.accumulate * self.batch_size)

    def check_processes(self, count: int) -> None:
        """Refuse a number of processes that cannot share a batch evenly."""
        if self.batch_size % count:
            raise ConfigError(f"data.batch_size={self.batch_size} cannot be shared by {count} processes evenly")

    def check_context(self, longest: int) -> None:
        """Refuse windows that are longer than what a model reads."""
        if longest < self.block_size:
            raise ConfigError(
                f"data.block_size={self.block_size} is beyond the model's context of {longest}: "
                f"add data.block_size={longest} or less"
            )

    @property
    def tokenizer(self) -> Tokenizer:
        return self.text.tokenizer

    @property
    def splits(self) -> dict[str, Split]:
        return self.text.splits

    def setup(self, stage: str | None = None) -> None:
        # Lightning calls this too, when a run has long prepared its corpus.
        if self.text is None:
            self.text = prepare(self.corpus, self.train_tokenizer, self.cache, getattr(self.task, "tokens", ()))
            # What only the text tells of the task, such as the names of its classes.
            self.settled = self.task.settle(self.text) if hasattr(self.task, "settle") else {}
            self.draw = self.task.draw(self.text, self.batches, self.block_size, self.seed)
            if not isinstance(self.draw, Draw):
                name, kind = type(self.task).__name__, type(self.draw).__name__
                raise ConfigError(f"{name}.draw(...) must be a molino.data.batches.Draw, not a {kind}")

    def train_dataloader(self) -> TrainingBlocks:
        rank, world_size = self._processes()
        self.check_processes(world_size)

        def block(first_step: int, count: int):
            steps = first_step + np.arange(count)
            if self.distinct_batches is not None:
                steps %= self.distinct_batches
            return draw_block(self.draw, self.task.parts, steps, self.accumulate, self.batch_size, rank, world_size)

        return TrainingBlocks(block, lambda: self.trainer.global_step, self.trainer.max_steps, self.steps_per_block)

    def val_dataloader(self) -> Evaluation:
        return self.task.evaluation(self.text, "val", self.block_size, None, *self._processes())

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
