"""Texts of which parts are hidden, and what is to be written about them: pre-training for encoder-decoders.

Shapes: R rows, B batch, S time (tokens of sources), T time (tokens of windows and targets), V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.data.batches import BATCHES, Draw, Rows
from molino.data.examples import Example
from molino.data.tokenizers import PADDING, Tokenizer
from molino.data.tokens import Split, TokenizedCorpus
from molino.generation.targets import Writing
from molino.generation.writing import write
from molino.models import IGNORE_INDEX
from molino.models.capabilities import capabilities_of
from molino.models.source_first import SourceFirst
from molino.runs.measures import HELDOUT, MAXIMIZE, MINIMIZE, Floor, Metric
from molino.tasks.answers_in_words import count_cut, write_answers
from molino.tasks.figures import perplexity
from molino.tasks.masked_language_model import MASK
from molino.tasks.noise import INFILL, SPANS, Marks, Noise
from molino.tasks.noised_windows import NoisedWindows, Windows, floor_of_noise
from molino.tasks.pairs import vocabulary_of
from molino.tasks.sequences import START
from molino.tasks.task import Batch

METRICS = (
    Metric("loss", unit="nats a token", per_token=True),
    Metric("perplexity", per_token=True, overflows=True),
    Metric("accuracy", MAXIMIZE),
)
# What each kind hides where nothing else is said: the share of the tokens.
SHARES = {SPANS: 0.15, INFILL: 0.3}
SENTINELS = 100
LEAST = 5  # tokens of a window in which something can be hidden, its end included


class Denoising:
    """The mean negative log likelihood of the tokens of targets, given texts of which parts are hidden.

    A batch holds `source_BS`, `seen_BS` (false where there is only padding), `tokens_BT` and `targets_BT`, as that of
    molino.tasks.sequence_to_sequence, which goes on with what has been learnt here.

    Args:
        monitor, direction: the metric that decides, and in which direction it improves.
        kind: `spans`, in place of each of which stands a token of its own, and which are written one after the other
            (T5), or `infill`, where `<mask>` stands in place of each, and the whole text is written (BART).
        share: of the tokens that are hidden; None for 0.15 of spans and 0.3 of infill.
        mean: tokens of a span, on average.
        sentinels: how many tokens `<extra_id_0>`, ... there are for the spans of a window; None for 100, as in T5.
    """

    metrics = METRICS
    parts: Mapping[str, float] = {"loss": 1.0}
    learnt = ("loss", "perplexity")
    inputs = ("source", "tokens")
    fields = ("text",)

    def __init__(
        self,
        monitor: str = METRICS[0].tag,
        direction: str = MINIMIZE,
        kind: str = SPANS,
        share: float | None = None,
        mean: float = 3.0,
        sentinels: int | None = None,
    ):
        if kind not in SHARES:
            raise ConfigError(f"task.kind={kind} is unknown: choose {' or '.join(SHARES)}")
        share = SHARES[kind] if share is None else share
        if not 0 < share <= 0.5:
            raise ConfigError(f"task.share={share} must be above 0 and at most 0.5")
        if not 1 <= mean <= 100:
            raise ConfigError(f"task.mean={mean} must be from 1 to 100")
        if sentinels is not None and (kind == INFILL or sentinels < 1):
            why = "has no use for task.kind=infill: leave it out" if kind == INFILL else "must be at least 1"
            raise ConfigError(f"task.sentinels={sentinels} {why}")
        self.monitor, self.direction = monitor, direction
        self.noise, self.sentinels = Noise(kind, share, mean), SENTINELS if sentinels is None else sentinels

    @property
    def hidden(self) -> tuple[str, ...]:
        """The tokens that stand in place of what is hidden."""
        return (MASK,) if self.noise.kind == INFILL else tuple(f"<extra_id_{n}>" for n in range(self.sentinels))

    @property
    def hole(self) -> str:
        """What stands in a text where something is to be told."""
        return self.hidden[0]

    @property
    def tokens(self) -> tuple[str, ...]:
        return START, PADDING[0], *self.hidden

    def network(self, model: nn.Module) -> nn.Module:
        """Return a model that writes about sources: itself, or one that reads them first."""
        return model if capabilities_of(model).source else SourceFirst(model)

    def start(self, tokenizer: Tokenizer) -> int:
        """Return the token that targets begin with."""
        return vocabulary_of(tokenizer).start

    def exported(self, network: nn.Module) -> tuple[nn.Module, None]:
        """Return the model alone: one that reads sources first is exported as what goes on with texts."""
        return (network.model if isinstance(network, SourceFirst) else network), None

    def draw(self, text: TokenizedCorpus, batches: str, block_size: int, seed: int) -> Draw:
        """Draw windows as `data.batches` says, and hide some of each, something else every time.

        Marks of where texts end are left out: an end is what ends a target.
        """
        longest, marks = self._longest(block_size), self._marks(text.tokenizer)
        windows = BATCHES[batches](text.splits["train"], longest - 1, seed, text.tokenizer.padding_id)

        def draw(rows: np.ndarray) -> Rows:
            tokens, inside = windows(rows)
            tokens_RT = tokens.reshape(-1, longest).astype(np.int64)
            kept_RT = tokens_RT != marks.end
            if inside is not None:
                kept_RT[:, 1:] &= inside.reshape(-1, longest - 1)
            order_RT = np.argsort(~kept_RT, axis=1, kind="stable")
            tokens_RT = np.take_along_axis(tokens_RT, order_RT, axis=1)
            noised = self.noise(tokens_RT, kept_RT.sum(axis=1), rows.ravel(), seed, marks)
            fields = {name: array.reshape(*rows.shape, -1) for name, array in noised._asdict().items()}
            return Rows(fields, {"loss": (fields["targets"] != IGNORE_INDEX).sum(axis=-1)})

        return Draw(draw, windows.epoch)

    def evaluation(
        self, text: TokenizedCorpus, split: str, block_size: int, stride: int | None, rank: int = 0, world_size: int = 1
    ) -> NoisedWindows:
        if stride is not None:
            raise ConfigError(f"stride={stride} has no use for this task: each token is read in one window")
        windows = Windows(text.splits[split], self._longest(block_size))
        marks = self._marks(text.tokenizer)
        return NoisedWindows(windows, self.noise, marks, text.tokenizer.size, rank, world_size)

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": network.losses(batch["tokens"], batch["targets"], batch["source"], batch["seen"].bool())[0]}

    def training_figures(self, losses: Mapping[str, float]) -> dict[str, float]:
        return {"loss": losses["loss"], "perplexity": perplexity(losses["loss"])}

    @torch.no_grad()
    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the summed negative log likelihood in nats, how many tokens it covers, and how many are told right."""
        logits_BTV = network(batch["tokens"], batch["source"], batch["seen"].bool()).float()
        nll = F.cross_entropy(logits_BTV.flatten(0, 1), batch["targets"].flatten(), reduction="none")
        right_BT = logits_BTV.argmax(dim=-1) == batch["targets"]
        return {"nll": nll.double().sum(), "tokens": (batch["targets"] != IGNORE_INDEX).sum(), "right": right_BT.sum()}

    def figures(self, totals: Mapping[str, Any], split: Split) -> dict[str, float]:
        loss = totals["nll"] / totals["tokens"]
        return {"loss": loss, "perplexity": perplexity(loss), "accuracy": totals["right"] / totals["tokens"]}

    def floors(self, text: TokenizedCorpus, split: str, block_size: int) -> list[Floor]:
        """Return what is told by how frequent tokens are in targets."""
        if "train" not in text.splits:
            return []
        train, held = (self.evaluation(text, name, block_size, None) for name in ("train", split))
        return [floor_of_noise(train, held, text.tokenizer.size)]

    def sample(self, network: nn.Module, text: TokenizedCorpus, tokens: int, seed: int) -> str:
        """Return the beginning of the held-out text with some of it hidden, what the network writes about it, and what
        was there."""
        windows = Windows(text.splits[HELDOUT], min(tokens, self._longest(network.block_size)))
        noised = windows.noised(np.arange(1), self.noise, self._marks(text.tokenizer))
        source, targets = noised.source[0][noised.seen[0]], noised.targets[0][noised.targets[0] != IGNORE_INDEX]
        writing = Writing(max_new_tokens=min(2 * len(targets), network.block_size))
        ((told,),) = write(network, [source], writing, vocabulary_of(text.tokenizer, network.vocab_size))
        read, written, wanted = map(text.tokenizer.decode, (source[:-1], told.tokens, targets[:-1]))
        return f"{read}\n  > {written}\n  = {wanted}"

    def predict(
        self, network: nn.Module, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int
    ) -> list[dict[str, Any]]:
        """Return what the network writes about texts with some of `hidden` in them, see
        molino.tasks.answers_in_words."""
        return write_answers(network, tokenizer, examples, block_size, Writing(), "generated_text")

    def cut(self, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int) -> int:
        """Return of how many of these texts something is not read, as they are too long."""
        return count_cut(tokenizer, examples, block_size)

    def _longest(self, block_size: int) -> int:
        """Return how many tokens of a text a window has: behind them stands one more.

        Raises:
            ConfigError: there are too few, or more spans than tokens for them.
        """
        if block_size < LEAST:
            raise ConfigError(f"data.block_size={block_size} has no room to hide something: choose {LEAST} or more")
        most = int(self.noise.spans(np.arange(block_size)).max())
        if self.noise.kind == SPANS and most > self.sentinels:
            raise ConfigError(
                f"data.block_size={block_size} needs {most} tokens in place of spans: add task.sentinels={most}, or a "
                "larger task.mean"
            )
        return block_size - 1

    def _marks(self, tokenizer: Tokenizer) -> Marks:
        words = vocabulary_of(tokenizer)
        hidden = np.array([tokenizer.backend.token_to_id(token) for token in self.hidden])
        return Marks(words.start, words.end, words.padding, hidden)
