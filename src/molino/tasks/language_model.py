"""Language modelling: the next token, given those before it.

Shapes: B batch, T time (tokens), V vocabulary, N tokens of a batch.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molino.base.errors import ConfigError
from molino.data.batches import BATCHES, Draw, EvaluationWindows, Rows, Windows, evaluation_windows
from molino.data.counts import best_order, count_parts
from molino.data.start import forbidden_tokens, start_token
from molino.data.tokens import Split, TokenizedCorpus
from molino.generation.decode import generate
from molino.models import IGNORE_INDEX
from molino.models.capabilities import capabilities_of
from molino.models.on_counts import OnCounts
from molino.runs.measures import MINIMIZE, Floor
from molino.tasks.figures import METRICS, perplexity
from molino.tasks.floors_of_text import floors_of_text
from molino.tasks.task import Batch


class LanguageModel:
    """The mean negative log likelihood of every next token.

    A batch holds `tokens_BT` and `targets_BT`, which are IGNORE_INDEX where nothing is to be predicted.

    Args:
        on_floor: the network stands on what counting says, see molino.models.on_counts; a batch of training then holds
            `contexts_BT`, what to look up of each token.
        monitor: the metric that decides: `val/loss`, `val/perplexity`, `val/bits_per_character`, `val/bits_per_byte`.
        direction: in which it improves.
    """

    metrics = METRICS
    parts: Mapping[str, float] = {"loss": 1.0}
    learnt = ("loss", "perplexity")
    inputs = ("tokens",)

    def __init__(self, monitor: str = METRICS[0].tag, direction: str = MINIMIZE, on_floor: bool = False):
        self.monitor, self.direction, self.on_floor = monitor, direction, on_floor

    def network(self, model: nn.Module) -> nn.Module:
        if capabilities_of(model).both_ways:
            raise ConfigError(
                f"task=language_model foretells tokens, and {type(model).__name__} sees those that come: choose "
                "task=masked_language_model, or model=gpt"
            )
        if capabilities_of(model).source:
            raise ConfigError(
                f"task=language_model goes on with a text, and {type(model).__name__} writes about a source: choose "
                "task=sequence_to_sequence, or model=gpt"
            )
        if not self.on_floor:
            return model
        if capabilities_of(model).counts:
            raise ConfigError("task.on_floor=true puts a network on counts, and model=kneser_ney is these counts alone")
        return OnCounts(model)

    def draw(self, text: TokenizedCorpus, batches: str, block_size: int, seed: int) -> Draw:
        """Draw windows as `data.batches` says; targets are the tokens one further on."""
        train, windows = text.splits["train"], BATCHES[batches]
        drawn = windows(train, block_size, seed, text.tokenizer.padding_id)
        if not self.on_floor:
            return next_tokens(drawn)
        # The same windows, of what is looked up in place of tokens.
        contexts_N = count_parts(text, best_order(text))[1]
        return next_tokens(drawn, windows(replace(train, tokens=contexts_N), block_size, seed, 0))

    def evaluation(
        self, text: TokenizedCorpus, split: str, block_size: int, stride: int | None, rank: int = 0, world_size: int = 1
    ) -> EvaluationWindows:
        stride = block_size if stride is None else stride
        return evaluation_windows(text.splits[split], block_size, stride, text.tokenizer.size, rank, world_size)

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        contexts = (batch["contexts"],) if self.on_floor else ()
        return {"loss": network.loss(batch["tokens"], batch["targets"], *contexts)}

    def training_figures(self, losses: Mapping[str, float]) -> dict[str, float]:
        return {"loss": losses["loss"], "perplexity": perplexity(losses["loss"])}

    @torch.no_grad()
    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the summed negative log likelihood in nats, and how many targets it covers."""
        before = {"before_BR": batch["before"]} if capabilities_of(network).counts else {}
        logits_BTV, targets_BT = network(batch["tokens"], **before), batch["targets"]
        nll_N = F.cross_entropy(
            logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        )
        return {"nll": nll_N.double().sum(), "tokens": (targets_BT != IGNORE_INDEX).sum()}

    def figures(self, totals: Mapping[str, Any], split: Split) -> dict[str, float]:
        loss = totals["nll"] / totals["tokens"]
        units = {unit: loss * factor for unit, factor in loss_units(split).items()}
        return {"loss": loss, "perplexity": perplexity(loss), **units}

    def floors(self, text: TokenizedCorpus, split: str, block_size: int) -> list[Floor]:
        return floors_of_text(text, split, lambda loss: self.figures({"nll": loss, "tokens": 1}, text.splits[split]))

    def sample(self, network: nn.Module, text: TokenizedCorpus, tokens: int, seed: int) -> str:
        """Return a text that starts from nothing, of so many tokens at most."""
        tokenizer, start_id = text.tokenizer, start_token(text.tokenizer, text.corpus.documents)
        steps = generate(
            network,
            torch.tensor([start_id]),
            tokens,
            generator=torch.Generator().manual_seed(seed),
            stop_id=tokenizer.end_of_text_id,
            forbidden_ids=forbidden_tokens(tokenizer, start_id, network.vocab_size),
        )
        return tokenizer.decode([int(token_B[0]) for token_B in steps])


def next_tokens(windows: Windows, contexts: Windows | None = None) -> Draw:
    """Return what makes examples of windows of T + 1 tokens: T to read, and T one further on to predict.

    Args:
        contexts: the same windows of what is to be looked up of each token.
    """

    def draw(rows: np.ndarray) -> Rows:
        tokens, mask = windows(rows)
        fields = {"tokens": tokens[..., :-1], "targets": tokens[..., 1:]}
        if contexts is not None:
            fields["contexts"] = contexts(rows)[0][..., :-1]
        if mask is None:
            return Rows(fields, {})
        # In wider numbers: those of tokens have no room for what does not count.
        fields["targets"] = np.where(mask, fields["targets"].astype(np.int64), IGNORE_INDEX)
        return Rows(fields, {"loss": mask.sum(axis=-1)})

    return Draw(draw, windows.epoch)


def loss_units(split: Split) -> dict[str, float]:
    """Return the factors from nats per token to bits per character and per byte of the split's text.

    They are the figures that compare across tokenizers. Where a tokenizer drops something (the word kinds fold case
    and white space), the text's own size still counts.
    """
    predicted = len(split.tokens) - 1  # all but the first; of documents, all but the mark before them
    return {
        "bits_per_character": predicted / math.log(2) / split.characters,
        "bits_per_byte": predicted / math.log(2) / split.bytes,
    }
