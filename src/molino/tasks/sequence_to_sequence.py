"""Sequence to sequence (Sutskever et al. 2014): write a target about a source, such as its translation or its summary.

Models with an encoder read the source apart from the target; those that go on with a text read it first. The loss is
that of the target alone.

Shapes: B examples, S time (tokens of sources), T time (tokens of targets), W tokens of what was written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from molino.base.errors import ConfigError
from molino.data.batches import Rows
from molino.data.examples import Example
from molino.data.examples_drawn import Examples
from molino.data.tokenizers import PADDING, Tokenizer
from molino.data.tokens import Split, TokenizedCorpus
from molino.evaluation.totals import Pairs
from molino.evaluation.written import bleu_signature, check_installed, metrics_of, scores_of
from molino.generation.targets import Writing
from molino.generation.writing import write
from molino.models import IGNORE_INDEX
from molino.models.capabilities import capabilities_of
from molino.models.source_first import SourceFirst
from molino.runs.measures import HELDOUT, MINIMIZE, Floor, Metric
from molino.tasks.answers_in_words import count_cut, write_answers
from molino.tasks.figures import perplexity
from molino.tasks.floors_of_targets import Texts, floors_of_targets
from molino.tasks.pairs import PairBatches, PairsRead, evenly, vocabulary_of
from molino.tasks.sequences import START
from molino.tasks.task import Batch

METRICS = (
    Metric("loss", unit="nats a token", per_token=True),
    Metric("perplexity", per_token=True, overflows=True),
)
PARTIAL = "partial_"  # begins the names of figures of some held-out examples alone
ENGLISH = "en"
SHOWN = 6  # examples that a sample shows
# What an answer is called, as in the pipelines of transformers.
ANSWERS = {"translation": "translation_text", "summary": "summary_text", "answer": "generated_text"}


class SequenceToSequence:
    """The mean negative log likelihood of the tokens of targets, given their sources.

    A batch holds `source_BS`, `seen_BS` (false where there is only padding), `tokens_BT` and `targets_BT`, which are
    IGNORE_INDEX behind the end of a target.

    Args:
        monitor, direction: the metric that decides, and in which direction it improves.
        score: what is measured of what is written: `translation` (BLEU, chrF), `summary` (ROUGE) or `answer` (F1, exact
            match).
        smoothing: share of each target that is spread evenly over the vocabulary in training.
        written: how many held-out targets are written, by which the score is measured: None for all, 0 for none; of
            some the figures are called `partial_...`.
        writing: how they are written, see molino.generation.targets; None for the likeliest token each time.
    """

    tokens = (START, PADDING[0])
    inputs = ("source", "tokens")
    fields = ("text",)

    def __init__(
        self,
        monitor: str = METRICS[0].tag,
        direction: str = MINIMIZE,
        score: str = "translation",
        smoothing: float = 0.0,
        written: int | None = None,
        writing: Writing | None = None,
    ):
        if not 0 <= smoothing < 1:
            raise ConfigError(f"task.smoothing={smoothing} is out of range: choose from 0 up to, not including, 1")
        if written is not None and written < 0:
            raise ConfigError(f"task.written={written} is too small: choose 0 or more, or null for all")
        self.monitor, self.direction, self.score = monitor, direction, score
        self.smoothing, self.written, self.writing = smoothing, written, writing or Writing()
        self._scored = () if written == 0 else metrics_of(score)
        # The loss without smoothing is told, and not learnt by.
        self.parts: Mapping[str, float] = {"smoothed_loss": 1.0, "loss": 0.0} if smoothing else {"loss": 1.0}
        self.learnt = ("loss", "perplexity", "smoothed_loss") if smoothing else ("loss", "perplexity")
        # What `measure` and `figures` need of the splits that `evaluation` has been asked for.
        self._held: dict[str, Sequence[Example]] = {}
        self._tokenizer: Tokenizer | None = None
        self._language = ENGLISH

    @property
    def metrics(self) -> tuple[Metric, ...]:
        scored = (replace(metric, name=self._named(metric.name)) for metric in self._scored)
        return (*METRICS, *scored)

    def settle(self, text: TokenizedCorpus) -> dict[str, Any]:
        """Refuse a corpus without pairs, and a score that cannot be computed here.

        Raises:
            ConfigError, ResourceError: as above.
        """
        self._examples(text)
        if self._scored:
            check_installed(self.score)
        return {}

    def network(self, model: nn.Module) -> nn.Module:
        """Return a model that writes about sources: itself, or one that reads them first."""
        return model if capabilities_of(model).source else SourceFirst(model)

    def remarks(self, text: TokenizedCorpus, block_size: int) -> dict[str, str]:
        """Return what is to be said of the pairs before they are trained on."""
        found = {"pairs": ", ".join(f"{split} {len(each):,}" for split, each in self._examples(text).items())}
        cut = {split: int(self._pairs(text, split, block_size).cut_N.sum()) for split in text.splits}
        if any(cut.values()):
            told = (f"{count:,} of {split}" for split, count in cut.items() if count)
            found["sources that are cut"] = ", ".join(told)
        return found

    def draw(self, text: TokenizedCorpus, batches: str, block_size: int, seed: int) -> Examples:
        """Draw pairs, each once an epoch, in batches of near-equal lengths."""
        if batches != "documents":
            raise ConfigError(f"data.batches={batches} has no use for pairs: leave it out, or say documents")
        pairs = self._pairs(text, "train", block_size)

        def take(numbers_R: np.ndarray) -> Rows:
            taken = pairs.take(numbers_R)
            count_R = pairs.sizes_N2[numbers_R, 1]
            return Rows(taken._asdict(), dict.fromkeys(self.parts, count_R))

        return Examples(take, pairs.sizes_N2, seed)

    def evaluation(
        self, text: TokenizedCorpus, split: str, block_size: int, stride: int | None, rank: int = 0, world_size: int = 1
    ) -> PairBatches:
        if stride is not None:
            raise ConfigError(f"stride={stride} has no use for this task: each pair is read once")
        pairs, examples = self._pairs(text, split, block_size), self._examples(text)[split]
        self._held[split], self._tokenizer, self._language = examples, text.tokenizer, _language_of(text)
        count = self._count(examples)
        facts = {"by": self.writing.describe()} if count else {}
        if count and self.score == "translation":
            facts["BLEU"] = bleu_signature([each.targets for each in examples])
        return PairBatches(pairs, count, text.tokenizer.size, facts, rank, world_size)

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        smoothed, plain = self._losses(network, batch, self.smoothing)
        return {"smoothed_loss": smoothed, "loss": plain} if self.smoothing else {"loss": smoothed}

    def training_figures(self, losses: Mapping[str, float]) -> dict[str, float]:
        return {**losses, "perplexity": perplexity(losses["loss"])}

    @torch.no_grad()
    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor | Pairs]:
        """Return the summed negative log likelihood in nats, how many tokens it covers, and what is written: the number
        of each example and its tokens, -1 behind them."""
        count = (batch["targets"] != IGNORE_INDEX).sum()
        found: dict[str, Tensor | Pairs] = {
            "nll": self._losses(network, batch, 0.0)[1].double() * count, "tokens": count
        }  # fmt: skip
        if self._scored:
            found["written"] = Pairs(self._write(network, batch))
        return found

    def figures(self, totals: Mapping[str, Any], split: Split) -> dict[str, float]:
        loss = totals["nll"] / totals["tokens"]
        found = {"loss": loss, "perplexity": perplexity(loss)}
        if not self._scored:
            return found
        examples, rows = self._held[split.name], totals["written"]
        rows = rows[np.argsort(rows[:, 0], kind="stable")].astype(np.int64)
        told = [_text(self._tokenizer, row[1:][row[1:] >= 0]) for row in rows]
        wanted = [examples[number].targets for number in rows[:, 0]]
        scores = scores_of(self.score, told, wanted, self._language)
        return found | {self._named(name): value for name, value in scores.items()}

    def floors(self, text: TokenizedCorpus, split: str, block_size: int) -> list[Floor]:
        """Return what copies, dictionaries or first sentences come to, of the examples about which is written."""
        examples = self._examples(text)
        if "train" not in examples or not self._scored:
            return []
        chosen = [examples[split][number] for number in evenly(len(examples[split]), self._count(examples[split]))]
        train, held = (
            Texts([each.text for each in few], [each.targets for each in few]) for few in (examples["train"], chosen)
        )
        found = floors_of_targets(self.score, train, held, _language_of(text))
        named = ({self._named(name): value for name, value in floor.levels.items()} for floor in found)
        return [replace(floor, levels=levels) for floor, levels in zip(found, named, strict=True)]

    def sample(self, network: nn.Module, text: TokenizedCorpus, tokens: int, seed: int) -> str:
        """Return some held-out sources with what the network writes about them, and what should be written."""
        examples = self._examples(text)[HELDOUT]
        few = [examples[at] for at in evenly(len(examples), SHOWN)]
        answers = self.predict(network, text.tokenizer, few, network.block_size)
        shown = zip(few, answers, strict=True)
        return "\n\n".join(f"{each.text}\n  > {told[self.answer]}\n  = {each.targets[0]}" for each, told in shown)

    def start(self, tokenizer: Tokenizer) -> int:
        """Return the token that targets begin with."""
        return vocabulary_of(tokenizer).start

    def exported(self, network: nn.Module) -> tuple[nn.Module, None]:
        """Return the model alone: one that reads sources first is exported as what goes on with texts."""
        return (network.model if isinstance(network, SourceFirst) else network), None

    def generation(self, tokenizer: Tokenizer, vocab_size: int, block_size: int) -> dict[str, Any]:
        """Return how targets are written, as `generate` of transformers wants to be told."""
        return {
            "suppress_tokens": list(vocabulary_of(tokenizer, vocab_size).forbidden),
            "max_new_tokens": self.writing.max_new_tokens or block_size,
            "min_new_tokens": self.writing.min_new_tokens,
            "num_beams": self.writing.beams,
            "length_penalty": self.writing.length_penalty,
            "no_repeat_ngram_size": self.writing.no_repeat_ngram,
        }

    @property
    def answer(self) -> str:
        """What an answer is called."""
        return ANSWERS[self.score]

    def predict(
        self, network: nn.Module, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int
    ) -> list[dict[str, Any]]:
        """Return what the network writes about texts, see molino.tasks.answers_in_words."""
        return write_answers(network, tokenizer, examples, block_size, self.writing, self.answer)

    def cut(self, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int) -> int:
        """Return of how many of these texts something is not read, as they are too long."""
        return count_cut(tokenizer.source, examples, block_size)

    def _losses(self, network: nn.Module, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
        return network.losses(batch["tokens"], batch["targets"], batch["source"], batch["seen"].bool(), smoothing)

    def _write(self, network: nn.Module, batch: Batch) -> Tensor:
        """Return of the examples of a batch that are to be written the number and the tokens, (B, 1 + W)."""
        chosen = batch["written"].bool()
        sources = [
            source_S[seen_S.bool()].cpu().numpy()
            for source_S, seen_S in zip(batch["source"][chosen], batch["seen"][chosen], strict=True)
        ]
        numbers = batch["numbers"][chosen]
        rows = torch.full((len(sources), 1 + network.block_size), -1, device=numbers.device)
        rows[:, 0] = numbers
        written = write(
            network, sources, self.writing, vocabulary_of(self._tokenizer, network.vocab_size), numbers=numbers.tolist()
        )
        for row, (best, *_) in zip(rows, written, strict=True):
            row[1 : 1 + len(best.tokens)] = torch.tensor(best.tokens, device=rows.device)
        return rows.double()

    def _count(self, examples: Sequence[Example]) -> int:
        """Return about how many of the examples of a split is written."""
        return len(examples) if self.written is None else min(self.written, len(examples))

    def _named(self, name: str) -> str:
        return name if self.written is None else f"{PARTIAL}{name}"

    def _examples(self, text: TokenizedCorpus) -> dict[str, list[Example]]:
        splits = text.corpus.examples() if hasattr(text.corpus, "examples") else {}
        first = next((each for examples in splits.values() for each in examples), None)
        if first is None or not first.targets:
            raise ConfigError(
                f"task=sequence_to_sequence needs sources and targets, and {text.corpus.name} has none: choose "
                "data=multi30k_de_en, data=pairs with files of your own, or another that has some"
            )
        if len(first.texts) != 2:
            raise ConfigError(f"task=sequence_to_sequence reads one text, and {text.corpus.name} has more beside it")
        return splits

    def _pairs(self, text: TokenizedCorpus, split: str, block_size: int) -> PairsRead:
        self._examples(text)
        return PairsRead(text.splits[split], block_size, text.tokenizer, text.corpus.name)


def _language_of(text: TokenizedCorpus) -> str:
    """Return the language of the targets, whose articles do not count in answers."""
    return getattr(text.corpus, "language", ENGLISH)


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids).strip()
