"""Language modelling: the next token, given those before it.

Shapes: B batch, T time (tokens), V vocabulary, N tokens of a batch.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molino.data.batches import BATCHES, Draw, EvaluationWindows, Rows, Windows, evaluation_windows
from molino.data.start import forbidden_tokens, start_token
from molino.data.tokens import Split, TokenizedCorpus
from molino.evaluation.floors import cached_floors
from molino.generation.decode import generate
from molino.models import IGNORE_INDEX
from molino.runs.measures import MINIMIZE, Floor
from molino.tasks.figures import METRICS, perplexity
from molino.tasks.task import Batch


class LanguageModel:
    """The mean negative log likelihood of every next token.

    A batch holds `tokens_BT` and `targets_BT`, which are IGNORE_INDEX where nothing is to be predicted.

    Args:
        monitor: the metric that decides: `val/loss`, `val/perplexity`, `val/bits_per_character`, `val/bits_per_byte`.
        direction: in which it improves.
    """

    metrics = METRICS
    parts: Mapping[str, float] = {"loss": 1.0}
    learnt = ("loss", "perplexity")
    inputs = ("tokens",)

    def __init__(self, monitor: str = METRICS[0].tag, direction: str = MINIMIZE):
        self.monitor, self.direction = monitor, direction

    def network(self, model: nn.Module) -> nn.Module:
        return model

    def draw(self, text: TokenizedCorpus, batches: str, block_size: int, seed: int) -> Draw:
        """Draw windows as `data.batches` says; targets are the tokens one further on."""
        return next_tokens(BATCHES[batches](text.splits["train"], block_size, seed, text.tokenizer.padding_id))

    def evaluation(
        self, text: TokenizedCorpus, split: str, block_size: int, stride: int | None, rank: int = 0, world_size: int = 1
    ) -> EvaluationWindows:
        stride = block_size if stride is None else stride
        return evaluation_windows(text.splits[split], block_size, stride, text.tokenizer.size, rank, world_size)

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": network.loss(batch["tokens"], batch["targets"])}

    def training_figures(self, losses: Mapping[str, float]) -> dict[str, float]:
        return {"loss": losses["loss"], "perplexity": perplexity(losses["loss"])}

    @torch.no_grad()
    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the summed negative log likelihood in nats, and how many targets it covers."""
        logits_BTV, targets_BT = network(batch["tokens"]), batch["targets"]
        nll_N = F.cross_entropy(
            logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        )
        return {"nll": nll_N.double().sum(), "tokens": (targets_BT != IGNORE_INDEX).sum()}

    def figures(self, totals: Mapping[str, Any], split: Split) -> dict[str, float]:
        loss = totals["nll"] / totals["tokens"]
        units = {unit: loss * factor for unit, factor in loss_units(split).items()}
        return {"loss": loss, "perplexity": perplexity(loss), **units}

    def floors(self, text: TokenizedCorpus, split: str, block_size: int, cache: Path) -> list[Floor]:
        """N-grams, counted on the training split, once per corpus and tokenizer.

        A corpus of known entropy adds `floor/source`: the loss that no model can be below for long.
        """
        heldout = text.splits[split]
        path = Path(cache) / "floors" / f"{text.digest}-{split}.json"
        found = cached_floors(path, text.splits["train"].tokens, heldout.tokens, text.tokenizer.size)
        floors = [_floor("unigram", "unigram floor", "unigram", found["floor/unigram"])]
        optimum = Floor("floor/bigram_train", found["floor/bigram_train"], "bigram optimum on train", "bigram on train")
        if split == "train":
            # Scored on what was counted, n-grams recite; what is left to say of the training split is exact.
            floors.append(optimum)
        else:
            order = found["floor/ngram_order"]
            said = {"remark": f", order {order}", "facts": {"floor/ngram_order": order}}
            floors.append(_floor("bigram", "bigram floor", "bigram", found["floor/bigram"]))
            floors.append(optimum)
            floors.append(_floor("ngram", "n-gram floor", f"{order}-gram", found["floor/ngram"], **said))
        entropy = getattr(text.corpus, "entropy_per_character", None)
        if entropy is not None:
            loss = entropy * heldout.characters / len(heldout.tokens)
            floors.append(_floor("source", "true entropy", "source", loss, beatable=False))
        return floors

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


def next_tokens(windows: Windows) -> Draw:
    """Return what makes examples of windows of T + 1 tokens: T to read, and T one further on to predict."""

    def draw(rows: np.ndarray) -> Rows:
        tokens, mask = windows(rows)
        inputs, targets = tokens[..., :-1], tokens[..., 1:]
        if mask is None:
            return Rows({"tokens": inputs, "targets": targets}, {})
        # In wider numbers: those of tokens have no room for what does not count.
        targets = np.where(mask, targets.astype(np.int64), IGNORE_INDEX)
        return Rows({"tokens": inputs, "targets": targets}, {"loss": mask.sum(axis=-1)})

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


def _floor(name: str, title: str, brief: str, loss: float, **more: Any) -> Floor:
    return Floor(f"floor/{name}", loss, title, brief, {"loss": loss, "perplexity": perplexity(loss)}, **more)
