"""Tasks on labelled examples: classification, entailment, similarity and multiple choice (Radford et al. 2018).

Each example is one sequence or several, laid out with tokens of their own (sequences.py). One reading of them serves
two losses: the task's, by a head on what was read at the end, and that of the language model, which goes on learning.

Shapes: B examples, K sequences of each, T time (tokens), N logits of an example.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from molino.base.errors import ConfigError, DataError
from molino.data.batches import Rows
from molino.data.examples import Example
from molino.data.examples_drawn import Examples
from molino.data.tokenizers import PADDING, Tokenizer
from molino.data.tokens import Split, TokenizedCorpus
from molino.evaluation.totals import Pairs
from molino.models import IGNORE_INDEX
from molino.models.capabilities import device_of
from molino.models.trained_head import Head
from molino.models.with_head import WithHead
from molino.runs.examples import Outcomes
from molino.runs.measures import HELDOUT, Floor, Metric
from molino.tasks.bags import FittedBag, bag_of, cross_fitted, load_bag
from molino.tasks.finetuning import freeze, rates
from molino.tasks.floors_of_examples import floors_of_examples
from molino.tasks.heads import head_of, refuse_unexportable, take_head
from molino.tasks.outcomes import AUTO, Classes, line_of, outcome_of, outcomes_of, rows_of
from molino.tasks.remarks import remarks_on
from molino.tasks.sequences import (
    BOTH_ORDERS,
    DELIMITER,
    EXTRACT,
    ONE,
    START,
    TWO,
    ExampleBatches,
    Layout,
    Sequences,
    choices,
    marks_of,
    next_tokens,
    sequences_asked,
    sequences_of,
)
from molino.tasks.task import Batch

LM_LOSS = Metric("lm_loss", unit="nats a token", per_token=True, shown=False)
# What each kind reads of an example.
KINDS = {
    "classification": ("text",),
    "entailment": ("text", "pair"),
    "similarity": ("text", "pair"),
    "multiple_choice": ("text", "choices"),
}
SHOWN = 8  # examples that a sample shows at most


class LabelledTask:
    """Telling the class, the score or the right choice of examples.

    A batch holds `tokens_BKT`, `ends_BK` (the place of each sequence's last token), `seconds_BK` (where its second text
    begins), `wanted_B` and, where the language model learns too, `targets_BKT`, IGNORE_INDEX where nothing is foretold.

    Args:
        kind: `classification` of a text, `entailment` (the class of a pair), `similarity` (the score of a pair),
            `multiple_choice`.
        monitor, direction: the metric that decides, and in which direction it improves.
        lm_coef: weight of the language model's loss beside the task's; 0 leaves it out.
        pooling: what the head reads: the state at an `extract` token behind the text, the `mean` of all, or that of the
            text's own `last` token.
        dropout: probability of dropping a number that the head reads.
        freeze: `none` of the model's weights, `all`, or the tables and so many layers.
        layer_decay: each layer learns with so much of the rate of the one above it.
        both_orders: a pair is read both ways round, and the two states are added up; null: that of similarity.
        on_floor: the head adds to what a bag of words says, see molino.evaluation.bag_of_words.
        new_head: forget the head that `weights=` come with.
        classes: their names, in order; `auto` for those of the corpus.
        choices: how many each example has; `auto` for those of the corpus.
        scale: mean and standard deviation of the scores; `auto` for those of the training split.
    """

    bag: FittedBag  # what its network stands on
    tokens = (START, DELIMITER, EXTRACT, PADDING[0])
    inputs = ("tokens",)

    def __init__(
        self,
        kind: str,
        monitor: str,
        direction: str,
        lm_coef: float = 0.5,
        pooling: str = "extract",
        dropout: float = 0.1,
        freeze: str | int = "none",
        layer_decay: float = 1.0,
        both_orders: bool | None = None,
        on_floor: bool = False,
        new_head: bool = False,
        classes: str | list[str] = AUTO,
        choices: str | int = AUTO,
        scale: str | list[float] = AUTO,
    ):
        if kind not in KINDS:
            raise ConfigError(f"task.kind={kind} is unknown: choose one of {', '.join(KINDS)}")
        if not 0 <= lm_coef <= 1000:
            raise ConfigError(f"task.lm_coef={lm_coef} must be from 0 to 1000")
        if both_orders and kind not in ("entailment", "similarity"):
            raise ConfigError(f"task.both_orders=true needs pairs, which task={kind} does not read: leave it out")
        if on_floor and kind not in ("classification", "entailment"):
            raise ConfigError(f"task.on_floor=true needs classes, which task={kind} has not: leave it out")
        self.kind, self.monitor, self.direction = kind, monitor, direction
        self.lm_coef, self.pooling, self.dropout = lm_coef, pooling, dropout
        self.freeze, self.layer_decay = freeze, layer_decay
        self.both_orders = kind == "similarity" if both_orders is None else both_orders
        self.on_floor, self.new_head = on_floor, new_head
        self.outcome = outcome_of(kind, classes, choices, scale)
        self.parts = {"task_loss": 1.0} | ({"lm_loss": lm_coef} if lm_coef else {})
        self.learnt = ("loss", "task_loss", "lm_loss") if lm_coef else ("loss",)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self.outcome.metrics + ((LM_LOSS,) if self.lm_coef else ())

    @property
    def fields(self) -> tuple[str, ...]:
        """What it reads of an example."""
        return KINDS[self.kind]

    def settle(self, text: TokenizedCorpus) -> dict[str, Any]:
        """Learn from a corpus what only it can tell; return that as settings.

        Raises:
            ConfigError, DataError: it has no such examples.
        """
        order = list(getattr(text.corpus, "classes", {}).values())
        self.outcome = self.outcome.settle(self._examples(text), text.corpus.name, order)
        if self.monitor not in (metric.tag for metric in self.metrics):
            known = ", ".join(metric.tag for metric in self.metrics)
            raise ConfigError(f"task.monitor={self.monitor} is not measured of these classes: choose one of {known}")
        return self.outcome.settled

    def remarks(self, text: TokenizedCorpus, block_size: int) -> dict[str, str]:
        """Return what is to be said of the examples before they are trained on."""
        sequences = {split: self._sequences(text, split, block_size) for split in text.splits}
        return remarks_on(self._examples(text), self.outcome, {k: int(v.cut_N.sum()) for k, v in sequences.items()})

    def network(self, model: nn.Module) -> WithHead:
        told, settings = self.outcome, (self.pooling, self.dropout, self.on_floor)
        network = WithHead(model, told.outputs, told.each, told.criterion, *settings)
        freeze(network, self.freeze, self.lm_coef)
        network.names = told.names if isinstance(told, Classes) else None
        network.rates = rates(network, self.layer_decay)
        return network

    def draw(self, text: TokenizedCorpus, batches: str, block_size: int, seed: int) -> Examples:
        """Draw examples, each once an epoch, in batches of near-equal lengths."""
        if batches != "documents":
            raise ConfigError(f"data.batches={batches} has no use for examples: leave it out, or say documents")
        sequences = self._sequences(text, "train", block_size)
        numbers, wanted = self._wanted(text, "train")
        floor = cross_fitted(text, self.outcome) if self.on_floor else None

        def take(rows_R: np.ndarray) -> Rows:
            chosen = numbers[rows_R]
            tokens, lengths, seconds = sequences.take(chosen)
            fields, counts = {"tokens": tokens, "ends": lengths - 1, "seconds": seconds, "wanted": wanted[chosen]}, {}
            if floor is not None:
                fields["floor"] = floor[chosen]
            if self.lm_coef:
                fields["targets"] = next_tokens(tokens, lengths)
                counts["lm_loss"] = (lengths - 1).sum(axis=-1)
            return Rows(fields, counts)

        return Examples(take, sequences.lengths_NK[numbers], seed)

    def evaluation(
        self, text: TokenizedCorpus, split: str, block_size: int, stride: int | None, rank: int = 0, world_size: int = 1
    ) -> ExampleBatches:
        if stride is not None:
            raise ConfigError(f"stride={stride} has no use for this task: each example is read once")
        numbers, wanted = self._wanted(text, split)
        vocab_size = text.tokenizer.size if self.lm_coef else None
        sequences = self._sequences(text, split, block_size)
        fields = {"wanted": wanted} | self._floor(self._examples(text)[split])
        return ExampleBatches(sequences, numbers, fields, vocab_size, rank, world_size)

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        fields = (batch.get(name) for name in ("tokens", "ends", "wanted", "targets", "floor", "seconds"))
        return network.loss(*fields)

    def training_figures(self, losses: Mapping[str, float]) -> dict[str, float]:
        total = sum(factor * losses[part] for part, factor in self.parts.items())
        return {"loss": total, **(losses if self.lm_coef else {})}

    @torch.no_grad()
    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor | Pairs]:
        """Return the logits of all examples, and sums of the language model's loss."""
        logits_BN, hidden_BTC = network(batch["tokens"], batch["ends"], batch.get("floor"), batch["seconds"])
        told_B2 = torch.stack([batch["numbers"], batch["wanted"]], dim=1)
        found: dict[str, Tensor | Pairs] = {"rows": Pairs(torch.cat([told_B2.double(), logits_BN.double()], dim=1))}
        if self.lm_coef:
            count = (batch["targets"] != IGNORE_INDEX).sum()
            mean = network.language_loss(hidden_BTC, batch["targets"].flatten(0, 1))
            found |= {"lm_nll": mean.double() * count, "lm_tokens": count}
        return found

    def figures(self, totals: Mapping[str, Any], split: Split) -> dict[str, float]:
        found = self.outcome.figures(rows_of(totals["rows"]))
        return found | ({"lm_loss": totals["lm_nll"] / totals["lm_tokens"]} if self.lm_coef else {})

    def outcomes(self, totals: Mapping[str, Any], text: TokenizedCorpus, step: int) -> Outcomes:
        """Return what became of the held-out examples."""
        return outcomes_of(rows_of(totals["rows"]), self._examples(text)[HELDOUT], self.outcome, step)

    def floors(self, text: TokenizedCorpus, split: str, block_size: int) -> list[Floor]:
        """Return what always guessing the same, and a bag of words, come to."""
        return floors_of_examples(text, split, self.outcome) if "train" in self._examples(text) else []

    def stand(self, text: TokenizedCorpus) -> Path | None:
        """Return the file of what the network is to stand on: the bag of words of the training split, if it is to."""
        return bag_of(text, self.outcome) if self.on_floor else None

    def take(self, path: Path) -> None:
        """Take up such a file, for examples from elsewhere.

        Raises:
            DataError: it is damaged.
        """
        self.bag = load_bag(path)

    def exported(self, network: WithHead) -> tuple[nn.Module, Head]:
        """Return the model and its head, for the formats of transformers.

        Raises:
            ConfigError: no format computes the same.
        """
        refuse_unexportable(self.kind, self.pooling, self.both_orders, self.on_floor)
        return network.model, head_of(network, self.pooling, "pair" in self.fields)

    def begin(self, network: WithHead, trained: nn.Module | Head | None) -> None:
        """Take up the head that weights come with; of other classes none is taken, if a new one is asked for.

        Args:
            trained: the network of a run, the head of a folder, or None.

        Raises:
            ConfigError: it is a head for other classes, or there is none to forget.
        """
        take_head(network, trained, self.new_head)

    def sample(self, network: nn.Module, text: TokenizedCorpus, tokens: int, seed: int) -> str:
        """Return some held-out examples with what the network makes of them, always the same."""
        examples = [each for each in self._examples(text)[HELDOUT] if self.outcome.right(each) is not None]
        few = [examples[at] for at in np.linspace(0, len(examples) - 1, min(SHOWN, len(examples))).astype(int)]
        answers = self.predict(network, text.tokenizer, few, network.block_size)
        return "\n".join(line_of(self.outcome, each, answer) for each, answer in zip(few, answers, strict=True))

    @torch.no_grad()
    def predict(
        self, network: nn.Module, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int
    ) -> list[dict[str, Any]]:
        """Return what the network tells of examples, each {"label": ..., "score": ...} as in a pipeline of
        transformers, with the probabilities of all classes or choices; of a score {"score": ...}.

        Raises:
            ConfigError: an example lacks what the task reads.
        """
        self.check_fields(examples)
        sequences = self._asked(tokenizer, examples, block_size)
        batches = ExampleBatches(sequences, np.arange(len(examples)), self._floor(examples), None)
        training, device, logits = network.training, device_of(network), {}
        network.eval()
        for batch in batches:
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            logits_BN = network(batch["tokens"], batch["ends"], batch.get("floor"), batch["seconds"])[0]
            logits |= dict(zip(batch["numbers"].tolist(), logits_BN.double().cpu().numpy(), strict=True))
        network.train(training)
        return [self.outcome.answer(logits[number], each) for number, each in enumerate(examples)]

    def cut(self, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int) -> int:
        """Return of how many of these examples something is not read, as they are too long."""
        # No token is less than a byte.
        long = [each for each in examples if sum(len(text.encode()) for text in each.texts) + 3 > block_size]
        return int(self._asked(tokenizer, long, block_size).cut_N.sum()) if long else 0

    def check_fields(self, examples: Sequence[Example]) -> None:
        """Refuse examples that lack what the task reads, or have more.

        Raises:
            ConfigError: there is one.
        """
        for each in examples:
            has = {"pair": each.pair is not None, "choices": bool(each.choices), "target": bool(each.targets)}
            for field, there in has.items():
                if there != (field in self.fields):
                    what = "reads no" if there else "needs"
                    raise ConfigError(f"task={self.kind} {what} {field}: it takes {' and '.join(self.fields)}")
        if len({len(each.choices) for each in examples}) > 1:
            raise ConfigError("the examples have unequal numbers of choices: ask for those that have equally many")

    def _asked(self, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int) -> Sequences:
        texts = [each.texts for each in examples]
        return sequences_asked(tokenizer, texts, self._layout(examples), self.pooling, block_size)

    def _examples(self, text: TokenizedCorpus) -> dict[str, list[Example]]:
        if not hasattr(text.corpus, "examples"):
            raise ConfigError(
                f"task={self.kind} needs examples with labels, and {text.corpus.name} is text alone: choose data=sst2, "
                "data=labelled with a table of your own, or another that has some"
            )
        splits = text.corpus.examples()
        for examples in splits.values():
            try:
                self.check_fields(examples[:1])
            except ConfigError as error:
                raise ConfigError(f"{text.corpus.name} does not go with it: {error}") from error
        return splits

    def _layout(self, examples: Sequence[Example]) -> Layout:
        if self.kind == "multiple_choice":
            return choices(len(examples[0].choices))
        return ONE if self.kind == "classification" else BOTH_ORDERS if self.both_orders else TWO

    def _sequences(self, text: TokenizedCorpus, split: str, block_size: int) -> Sequences:
        examples = self._examples(text)[split]
        marks = marks_of(text.tokenizer, self.pooling)
        texts = len(examples[0].texts)
        return sequences_of(text.splits[split], texts, self._layout(examples), marks, block_size)

    def _wanted(self, text: TokenizedCorpus, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Return which examples of a split are labelled, and what is wanted of all."""
        wanted = self.outcome.wanted(self._examples(text)[split])
        numbers = np.flatnonzero(~np.isnan(wanted) if wanted.dtype.kind == "f" else wanted >= 0)
        if not len(numbers):
            raise DataError(f"the {split} split of {text.corpus.name} has no labels: choose another split")
        return numbers, wanted

    def _floor(self, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """Return what the network stands on as a field of a batch."""
        return {"floor": self.bag.log_probabilities(examples).astype(np.float32)} if self.on_floor else {}
