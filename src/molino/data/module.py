"""The LightningDataModule: corpus, tokenizer and batches behind Lightning's interface."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from lightning.pytorch import LightningDataModule

from molino.base.errors import ConfigError
from molino.data.batches import BATCHES, Block, Draw, Evaluation, TrainingBlocks, draw_block
from molino.data.corpus import Corpus
from molino.data.examples_drawn import Examples, UnevenBlock, draw_examples
from molino.data.tokenizers import MakesTokenizer, Tokenizer
from molino.data.tokens import Split, TokenizedCorpus, prepare


class MakesBatches(Protocol):
    """What a task says of batches; see molino.tasks.task.Task."""

    parts: Mapping[str, float]

    def draw(self, text: TokenizedCorpus, batches: str, block_size: int, seed: int) -> Draw | Examples: ...

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
        batch_tokens: in its place, tokens of a micro-batch, padding included; for examples of unequal lengths.
        accumulate: micro-batches of an optimizer step.
        steps_per_block: optimizer steps drawn, and trained, at once.
        joint_vocabulary: whether sources and targets share a tokenizer, or each have one of the same kind.
        seed: decides every batch.
        val_windows: Lightning validates on the first so many windows of the held-out text; None for all of it.
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
        batch_tokens: int | None = None,
        joint_vocabulary: bool = True,
        *,
        task: MakesBatches,
        accumulate: int,
        steps_per_block: int,
        seed: int,
        val_windows: int | None = None,
    ):
        super().__init__()
        if not callable(tokenizer):
            choice = tokenizer if isinstance(tokenizer, str) else "<name>"
            raise ConfigError(f"data.tokenizer={tokenizer} says nothing to call: choose data/tokenizer={choice}")
        if not hasattr(corpus, "read"):
            raise ConfigError(f"data.corpus={corpus} is no corpus: choose one with data=<name>")
        if batches not in BATCHES:
            raise ConfigError(f"data.batches={batches} is unknown: choose {' or '.join(BATCHES)}")
        sizes = {"block_size": block_size, "batch_size": batch_size, "distinct_batches": distinct_batches}
        sizes["batch_tokens"] = batch_tokens
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise ConfigError(f"data.{name}={value} must be at least 1")
        self.corpus, self.train_tokenizer, self.cache = corpus, tokenizer, Path(cache).expanduser()
        self.batches, self.block_size, self.batch_size = batches, block_size, batch_size
        self.batch_tokens, self.distinct_batches, self.task = batch_tokens, distinct_batches, task
        self.accumulate, self.steps_per_block, self.seed = accumulate, steps_per_block, seed
        self.joint_vocabulary, self.val_windows = joint_vocabulary, val_windows
        self.text: TokenizedCorpus | None = None

    @property
    def tokens_per_step(self) -> int:
        if self.text is None or not isinstance(self.draw, Examples):
            return self.accumulate * self.batch_size * self.block_size
        return round(self.draw.length * len(self.draw.sizes_NF) / self.order.count * self.accumulate)

    @property
    def steps_per_epoch(self) -> float:
        """How many optimizer steps see as much as the whole training split."""
        if isinstance(self.draw, Examples):
            return self.order.count / self.accumulate
        return self.draw.epoch / (self.accumulate * self.batch_size)

    def check_processes(self, count: int) -> None:
        """Refuse a number of processes that cannot share a batch evenly."""
        if self.batch_tokens is None and self.batch_size % count:
            raise ConfigError(f"data.batch_size={self.batch_size} cannot be shared by {count} processes evenly")

    def check_context(self, longest: int, shared: bool = False) -> None:
        """Refuse windows that are longer than what a model reads.

        Args:
            shared: source and target of a pair have one context together, and `longest` is half of it.
        """
        if longest < self.block_size:
            more = f", or model.block_size={2 * self.block_size} for source and target together" if shared else ""
            half = f", half of {2 * longest}" if shared else ""
            raise ConfigError(
                f"data.block_size={self.block_size} is beyond the model's context of {longest}{half}: "
                f"add data.block_size={longest} or less{more}"
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
            added = getattr(self.task, "tokens", ())
            self.text = prepare(self.corpus, self.train_tokenizer, self.cache, added, self.joint_vocabulary)
            # What only the text tells of the task, such as the names of its classes.
            self.settled = self.task.settle(self.text) if hasattr(self.task, "settle") else {}
            self.draw = self.task.draw(self.text, self.batches, self.block_size, self.seed)
            if self.batches == "documents" and not self.corpus.documents:
                raise ConfigError(
                    f"data.batches=documents draws from many documents, and {self.corpus.name} is one continuous text: "
                    "add data.batches=windows"
                )
            if isinstance(self.draw, Examples):
                self.order = self.draw.order(self.batch_size, self.batch_tokens)
            elif not isinstance(self.draw, Draw):
                name, kind = type(self.task).__name__, type(self.draw).__name__
                kinds = "molino.data.batches.Draw or molino.data.examples_drawn.Examples"
                raise ConfigError(f"{name}.draw(...) must be a {kinds}, not a {kind}")
            elif self.batch_tokens is not None:
                raise ConfigError(
                    f"data.batch_tokens={self.batch_tokens} is for examples of unequal lengths: with this task say "
                    "data.batch_size"
                )
            self._check_share()

    def block(self, steps: np.ndarray, rank: int = 0, world_size: int = 1) -> Block | UnevenBlock:
        """Return the batches of some steps; of several processes each has its share of every batch."""
        share = (self.task.parts, steps, self.accumulate)
        if isinstance(self.draw, Examples):
            return draw_examples(self.draw, self.order, *share, rank, world_size)
        return draw_block(self.draw, *share, self.batch_size, rank, world_size)

    def train_dataloader(self) -> TrainingBlocks:
        rank, world_size = self._processes()
        self.check_processes(world_size)

        def block(first_step: int, count: int):
            steps = first_step + np.arange(count)
            if self.distinct_batches is not None:
                steps %= self.distinct_batches
            return self.block(steps, rank, world_size)

        return TrainingBlocks(block, lambda: self.trainer.global_step, self.trainer.max_steps, self.steps_per_block)

    def val_dataloader(self) -> Evaluation:
        """Return what validations read: the held-out split, or a share of it."""
        whole = self.heldout()
        share = None if self.val_windows is None else whole.first(self.val_windows)
        return whole if share is None else share

    def heldout(self) -> Evaluation:
        """Return the held-out split."""
        return self.task.evaluation(self.text, "val", self.block_size, None, *self._processes())

    def _check_share(self) -> None:
        """Refuse a share of what has no windows, and leave out one that is all."""
        if self.val_windows is None:
            return
        whole = self.heldout()
        if not hasattr(whole, "first"):
            name = type(self.task).__name__
            reason = f"is for windows of text, and {name} reads examples: leave it out"
            raise ConfigError(f"trainer.val_windows={self.val_windows} {reason}")
        if whole.first(self.val_windows) is None:
            self.val_windows = None

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
