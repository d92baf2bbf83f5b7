"""A task: which of two halves of a text came first.

A window of text is cut in the middle and shown either as it is or with its halves swapped; a head on what the model has
read tells which. Beside that the model goes on learning the language, by the texts that are in order.

Shapes: B batch, T time (tokens), C channels, V vocabulary.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn import functional as F

from molino.base.errors import ConfigError, DataError
from molino.data.batches import BATCHES, Draw, Rows, random_integers
from molino.data.tokens import Split, TokenizedCorpus
from molino.evaluation.totals import Pairs
from molino.models import IGNORE_INDEX
from molino.models.capabilities import capabilities_of
from molino.runs.measures import MAXIMIZE, Floor, Metric

SIDES = 2  # the stream of random numbers that swaps; windows are drawn from others
BATCH = 256  # examples of a batch of evaluation


class Order:
    """Telling whether two halves are in order; at best also the next token.

    A batch holds `tokens_BT`, `targets_BT` (IGNORE_INDEX across the cut, and all over where halves are swapped) and
    `swapped_B`.

    Args:
        monitor, direction: what decides, and in which direction it improves.
        lm_coef: weight of the language model's loss beside the task's; 0 leaves it out.
    """

    metrics = (
        Metric("accuracy", MAXIMIZE),
        Metric("auc", MAXIMIZE),
        Metric("loss", unit="nats an example"),
        Metric("lm_loss", unit="nats a token", per_token=True, shown=False),
    )
    learnt = ("loss", "task_loss", "lm_loss")
    inputs = ("tokens",)

    def __init__(self, monitor: str = "val/accuracy", direction: str = MAXIMIZE, lm_coef: float = 0.5):
        if lm_coef < 0:
            raise ConfigError(f"task.lm_coef={lm_coef} must be 0 or more")
        self.monitor, self.direction = monitor, direction
        self.parts = {"task_loss": 1.0} | ({"lm_loss": lm_coef} if lm_coef else {})

    def network(self, model: nn.Module) -> "OrderNetwork":
        return OrderNetwork(model)

    def draw(self, text: TokenizedCorpus, batches: str, block_size: int, seed: int) -> Draw:
        if batches != "windows" or block_size < 4:
            raise ConfigError(
                f"data.batches={batches} data.block_size={block_size}: halves are cut out of windows of 4 or more"
            )
        windows = BATCHES["windows"](text.splits["train"], block_size, seed, None)

        def draw(rows: np.ndarray) -> Rows:
            tokens, _ = windows(rows)
            fields = examples(tokens[..., :-1], random_integers(seed, SIDES, rows, 2))
            # The texts in order count for the language model, with all their tokens, the others not at all.
            return Rows(fields, {"lm_loss": 1 - fields["swapped"]} if "lm_loss" in self.parts else {})

        return Draw(draw, windows.epoch)

    def evaluation(
        self, text: TokenizedCorpus, split: str, block_size: int, stride: int | None, rank: int = 0, world_size: int = 1
    ) -> "Halves":
        if stride is not None:
            raise ConfigError(f"stride={stride} has no use for this task: its windows do not overlap")
        return Halves(text.splits[split], block_size, rank, world_size)

    def loss(self, network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        losses = network.loss(batch["tokens"], batch["targets"], batch["swapped"])
        return {part: losses[part] for part in self.parts}

    def training_figures(self, losses: Mapping[str, float]) -> dict[str, float]:
        return {"loss": sum(factor * losses[part] for part, factor in self.parts.items()), **losses}

    @torch.no_grad()
    def measure(self, network: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor | Pairs]:
        swapped_B = batch["swapped"]
        score_B, hidden_BTC = network(batch["tokens"])
        lm_sum, lm_count = network.language(hidden_BTC, batch["targets"])
        return {
            "right": ((score_B > 0) == swapped_B.bool()).sum(),
            "examples": swapped_B.new_tensor(len(swapped_B)),
            "nll": F.binary_cross_entropy_with_logits(score_B.double(), swapped_B.double(), reduction="sum"),
            "lm_nll": lm_sum,
            "lm_tokens": lm_count,
            "scores": Pairs(torch.stack([score_B, swapped_B], dim=1)),
        }

    def figures(self, totals: Mapping[str, Any], split: Split) -> dict[str, float]:
        return {
            "accuracy": totals["right"] / totals["examples"],
            "auc": auc(*totals["scores"].T),
            "loss": totals["nll"] / totals["examples"],
            "lm_loss": totals["lm_nll"] / max(totals["lm_tokens"], 1),
        }

    def floors(self, text: TokenizedCorpus, split: str, block_size: int) -> list[Floor]:
        """What always guessing the more frequent of the two comes to."""
        share = float(np.mean(sides(np.arange(Halves(text.splits[split], block_size).count))))
        level = max(share, 1 - share)
        return [Floor("floor/majority", level, "majority floor", "majority", {"accuracy": level})]

    @torch.no_grad()
    def sample(self, network: nn.Module, text: TokenizedCorpus, tokens: int, seed: int) -> str:
        """Return some held-out halves with what the network makes of them."""
        halves = Halves(text.splits["val"], network.block_size)
        batch, training = next(iter(halves)), network.training
        few = slice(max(tokens // halves.length, 1))
        network.eval()
        score_B = network(batch["tokens"][few].to(next(network.parameters()).device))[0].cpu()
        network.train(training)
        lines = []
        for ids, swapped, score in zip(batch["tokens"][few].tolist(), batch["swapped"], score_B, strict=False):
            first, second = (text.tokenizer.decode(part) for part in (ids[: halves.half], ids[halves.half :]))
            told = "right" if (score > 0) == bool(swapped) else "wrong"
            lines.append(f"{first!r} | {second!r} swapped: {score.sigmoid():.2f}, {told}")
        return "\n".join(lines)


class OrderNetwork(nn.Module):
    """A model with a head on what it has read at the end of a text.

    Raises ConfigError for a model without hidden states.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        width = capabilities_of(model).hidden
        if width is None:
            raise ConfigError(
                f"model: {type(model).__name__} has no hidden states for a head to read; choose model=gpt or another "
                "that has"
            )
        self.model, self.order_head = model, nn.Linear(width, 1)

    def forward(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return a score (B,), above 0 for swapped halves, and what the head read it from (B, T, C)."""
        hidden_BTC = self.model.hidden(tokens_BT)
        return self.order_head(hidden_BTC[:, -1])[:, 0].float(), hidden_BTC

    def language(self, hidden_BTC: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed negative log likelihood of the targets that count (float64), and how many do."""
        logits_BTV = self.model.head(hidden_BTC).float()
        nll_N = F.cross_entropy(
            logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        )
        return nll_N.double().sum(), (targets_BT != IGNORE_INDEX).sum()

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor, swapped_B: Tensor) -> dict[str, Tensor]:
        """Return both parts of the loss, by one reading."""
        score_B, hidden_BTC = self(tokens_BT)
        nll, count = self.language(hidden_BTC, targets_BT)
        # Of a batch that is swapped all over nothing counts.
        return {
            "task_loss": F.binary_cross_entropy_with_logits(score_B, swapped_B),
            "lm_loss": (nll / count.clamp(min=1)).float(),
        }


class Halves:
    """A split as windows that do not overlap, the same ones swapped every time."""

    def __init__(self, split: Split, block_size: int, rank: int = 0, world_size: int = 1):
        self.tokens, self.half = split.tokens, block_size // 2
        self.length = 2 * self.half
        self.count = len(split.tokens) // self.length
        if self.count < world_size:
            raise DataError(f"the {split.name} split is too short for windows of {self.length} tokens")
        self.mine = np.arange(rank, self.count, world_size)

    def __len__(self) -> int:
        return -(-len(self.mine) // BATCH)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for at in range(0, len(self.mine), BATCH):
            numbers = self.mine[at : at + BATCH]
            windows = self.tokens[numbers[:, None] * self.length + np.arange(self.length)]
            fields = examples(windows, sides(numbers))
            yield {name: torch.from_numpy(array) for name, array in fields.items()}

    def describe(self) -> dict[str, str]:
        return {"examples": f"{self.count:,} windows of {self.length} tokens, cut in the middle"}


def sides(numbers: np.ndarray) -> np.ndarray:
    """Return which windows of a split are swapped, by their numbers."""
    return random_integers(0, SIDES, numbers, 2)


def examples(windows: np.ndarray, swapped: np.ndarray) -> dict[str, np.ndarray]:
    """Return the fields of examples from windows (..., T) and which of them (...) are to be swapped."""
    half = windows.shape[-1] // 2
    windows = windows[..., : 2 * half].astype(np.int64)
    tokens = np.where(swapped[..., None], np.roll(windows, half, axis=-1), windows)
    targets = np.roll(tokens, -1, axis=-1)
    targets[..., [half - 1, -1]] = IGNORE_INDEX
    return {
        "tokens": tokens,
        "targets": np.where(swapped[..., None], IGNORE_INDEX, targets),
        "swapped": swapped.astype(np.float32),
    }


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return how often a positive example has a higher score than a negative one (Mann and Whitney 1947)."""
    positive = labels > 0
    pairs = positive.sum() * (~positive).sum()
    if not pairs:
        return 0.5  # with nothing to tell apart
    ranks = rankdata(scores)[positive].sum()
    return float((ranks - positive.sum() * (positive.sum() + 1) / 2) / pairs)
