"""What a task is: whatever a network is trained to do, told in one place to everybody else."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from molino.data.batches import Draw, Evaluation
from molino.data.examples_drawn import Examples
from molino.data.tokens import Split, TokenizedCorpus
from molino.evaluation.totals import Measured
from molino.runs.measures import Floor, Metric

Batch = Mapping[str, Tensor]


class Task(Protocol):
    """What a task says. Nothing outside of it knows what is in a batch, what the loss is made of, or what is measured.

    Attributes:
        monitor: the tag of the metric that decides, such as `val/loss`: a setting of every task, and so is
        direction: `minimize` or `maximize`, in which it improves. Searches need both before there is a run.
        metrics: what is measured of a split.
        parts: the parts of the loss, each with its factor in the total. Where there is one alone it is the total.
        learnt: what `training_figures` tells of; the total is called `loss`.
        inputs: the fields of a batch that the network reads. Their elements are the tokens that speeds count.

    A task may also have, and is then asked for it:

    - `tokens`: special tokens that are appended to the run's tokenizer, behind its own.
    - `settle(text)`: learn what only the text can tell, such as names of classes; returned as settings, they
      are recorded with the run. Before anything is drawn.
    - `remarks(text, block_size)`: rows for the table at the start.
    - `stand(text)`, `take(path)`: the file of what its network stands on, kept with the run; and to take it up.
    - `begin(network, trained)`: take over what weights come with beside the model: a network, or a head of a folder.
    - `fields` and `predict(network, tokenizer, examples, block_size)`: which fields of examples it reads, and what it
      tells of them, each a dict as `molino predict` writes it.
    - `hole`: what stands in a text for what the answer is about, such as `<mask>`.
    - `read_hidden(tokenizer, text)`: the ids of a text in which some are to be filled, and their places.
    - `pseudo()`: what measures a split where each token is hidden in turn: like a task it has `metrics`, `evaluation`,
      `measure` and `figures`.
    - `cut(tokenizer, examples, block_size)`: of how many examples that somebody asks about something is not read.
    - `outcomes(totals, text, step)`: what became of the held-out examples, see molino.runs.examples.
    - `exported(network)`: the model and the head that an export writes.
    - `start(tokenizer)`: the token that what is written begins with; without, that of the corpus.
    - `writing`, a molino.generation.targets.Writing: how targets are written; `predict` and `evaluate` may change it.
    - `generation(tokenizer, vocab_size, block_size)`: the same as transformers' generation_config.json says it.
    """

    monitor: str
    direction: str
    metrics: tuple[Metric, ...]
    parts: Mapping[str, float]
    learnt: tuple[str, ...]
    inputs: tuple[str, ...]

    def network(self, model: nn.Module) -> nn.Module:
        """Return what is trained: the model, or a module around it, with heads of its own."""
        ...

    def draw(self, text: TokenizedCorpus, batches: str, block_size: int, seed: int) -> Draw | Examples:
        """Return what turns numbers of rows into examples of the training split, or examples of unequal lengths.

        Args:
            batches: the way to draw from it, as data.batches says.
            block_size: tokens that the network reads of each.
        """
        ...

    def evaluation(
        self, text: TokenizedCorpus, split: str, block_size: int, stride: int | None, rank: int = 0, world_size: int = 1
    ) -> Evaluation:
        """Return a whole split in batches.

        Args:
            stride: tokens between two windows; None for windows that do not overlap.
        """
        ...

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return each part of the loss, the mean over whatever counts in it (0 where nothing does), by `network.losses`
        or, if it has none, `network.loss`, which is compiled where that is asked for."""
        ...

    def training_figures(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Return what is told of the loss in training, by the names of `learnt`.

        Args:
            losses: the parts, means over the steps of a block.
        """
        ...

    def measure(self, network: nn.Module, batch: Batch) -> Measured:
        """Return what a batch of `evaluation` comes to: sums over its examples, by whatever names."""
        ...

    def figures(self, totals: Mapping[str, Any], split: Split) -> dict[str, float]:
        """Return the metrics of a split, by name, from what all its batches come to."""
        ...

    def floors(self, text: TokenizedCorpus, split: str, block_size: int) -> list[Floor]:
        """Return what counting alone reaches on a split. It is asked once for each text, and may take a while."""
        ...

    def sample(self, network: nn.Module, text: TokenizedCorpus, tokens: int, seed: int) -> str:
        """Return what shows a person what the network can do by now, about so many tokens long; empty if nothing does.
        Training's own random numbers are not touched."""
        ...
