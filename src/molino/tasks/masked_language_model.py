"""Masked language modelling (Devlin et al. 2019): tokens that are hidden, given all that stand around them.

Shapes: R rows, T time (tokens), M hidden tokens, V vocabulary.
"""

import bisect
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.data.batches import (
    BATCHES,
    EVALUATION_LOGITS,
    EVALUATION_TOKENS,
    Draw,
    Rows,
    random_integers,
)
from molino.data.examples import Example
from molino.data.tokenizers import MASKS, Tokenizer
from molino.data.tokens import Split, TokenizedCorpus
from molino.models import IGNORE_INDEX
from molino.models.capabilities import capabilities_of, device_of
from molino.runs.measures import MAXIMIZE, MINIMIZE, Floor, Metric
from molino.tasks.figures import perplexity
from molino.tasks.floors_of_masks import floors_of_masks
from molino.tasks.holes import with_holes
from molino.tasks.pseudo_likelihood import PseudoLikelihood, marks_of, windows_of
from molino.tasks.task import Batch

MASK = MASKS[0]  # what is added to a tokenizer that has none of its own
METRICS = (
    Metric("loss", unit="nats a hidden token", per_token=True),
    Metric("perplexity", per_token=True, overflows=True),
    Metric("accuracy", MAXIMIZE),
)
MILLION = 1_000_000  # probabilities are multiples of a millionth
# What held-out text is hidden by, whatever the seed of a run: its figures can be compared.
HELD_OUT_SEED = 0
# Streams of random numbers: which tokens are chosen, what becomes of each, and what stands in its place.
CHOSEN, BECOMES, INSTEAD = 16, 17, 18
FILLINGS = 5  # tokens that an answer names


class MaskedLanguageModel:
    """The mean negative log likelihood of the tokens that were chosen to be hidden.

    A batch holds `tokens_BT` as the network sees them, `targets_BT`, which are IGNORE_INDEX where nothing was chosen,
    and `seen_BT`, which is false where there is only padding.

    Args:
        monitor, direction: the metric that decides, and in which direction it improves.
        share: of the tokens that are chosen.
        masked, replaced: share of the chosen ones in whose place stands the tokenizer's mask, or a token drawn evenly
            from the vocabulary; the others stay as they are.
        whole_words: all tokens of a word are chosen, or none.
    """

    tokens = (MASK,)
    metrics = METRICS
    parts: Mapping[str, float] = {"loss": 1.0}
    learnt = ("loss", "perplexity")
    inputs = ("tokens",)
    fields = ("text",)
    hole = MASK

    def __init__(
        self,
        monitor: str = METRICS[0].tag,
        direction: str = MINIMIZE,
        share: float = 0.15,
        masked: float = 0.8,
        replaced: float = 0.1,
        whole_words: bool = False,
    ):
        if not 0 < share <= 1:
            raise ConfigError(f"task.share={share} must be above 0 and at most 1")
        if not (masked >= 0 and replaced >= 0 and masked + replaced <= 1):
            raise ConfigError(
                f"task.masked={masked} and task.replaced={replaced} must be 0 or more, together at most 1"
            )
        self.monitor, self.direction = monitor, direction
        self.share, self.masked, self.replaced, self.whole_words = share, masked, replaced, whole_words

    def network(self, model: nn.Module) -> nn.Module:
        if not capabilities_of(model).both_ways:
            raise ConfigError(
                f"task=masked_language_model needs a model that sees both ways, which {type(model).__name__} does not: "
                "choose model=bert"
            )
        return model

    def draw(self, text: TokenizedCorpus, batches: str, block_size: int, seed: int) -> Draw:
        """Draw windows as `data.batches` says, and hide some tokens of each, others every time."""
        windows = BATCHES[batches](text.splits["train"], block_size - 1, seed, text.tokenizer.padding_id)
        choose = self._chooser(text.tokenizer)

        def draw(rows: np.ndarray) -> Rows:
            tokens, inside = windows(rows)
            seen = np.ones(tokens.shape, bool)
            if inside is not None:
                seen[..., 1:] = inside
            places = rows[..., None] * block_size + np.arange(block_size)
            tokens = tokens.astype(np.int64)
            hidden, targets = self.hide(tokens, choose(tokens, places, seed) & seen, places, seed, text.tokenizer)
            counts = {"loss": (targets != IGNORE_INDEX).sum(axis=-1)}
            return Rows({"tokens": hidden, "targets": targets, "seen": seen}, counts)

        return Draw(draw, windows.epoch)

    def evaluation(
        self, text: TokenizedCorpus, split: str, block_size: int, stride: int | None, rank: int = 0, world_size: int = 1
    ) -> "MaskedWindows":
        if stride is not None:
            raise ConfigError(f"stride={stride} has no use for this task: each token is read in one window")
        return MaskedWindows(self, text, split, block_size, rank, world_size)

    def loss(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": network.loss(batch["tokens"], batch["targets"], batch["seen"].bool())}

    def training_figures(self, losses: Mapping[str, float]) -> dict[str, float]:
        return {"loss": losses["loss"], "perplexity": perplexity(losses["loss"])}

    @torch.no_grad()
    def measure(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the summed negative log likelihood in nats, how many tokens it covers, and how many are told right."""
        is_hidden = batch["targets"] != IGNORE_INDEX
        wanted_M = batch["targets"][is_hidden]
        logits_MV = network.head(network.hidden(batch["tokens"], batch["seen"].bool())[is_hidden]).float()
        nll_M = F.cross_entropy(logits_MV, wanted_M, reduction="none")
        right = (logits_MV.argmax(dim=-1) == wanted_M).sum()
        return {"nll": nll_M.double().sum(), "tokens": is_hidden.sum(), "right": right}

    def figures(self, totals: Mapping[str, Any], split: Split) -> dict[str, float]:
        loss = totals["nll"] / totals["tokens"]
        return {"loss": loss, "perplexity": perplexity(loss), "accuracy": totals["right"] / totals["tokens"]}

    def pseudo(self) -> PseudoLikelihood:
        """Return what measures how likely text is where each token is hidden in turn."""
        return PseudoLikelihood(self.measure)

    def floors(self, text: TokenizedCorpus, split: str, block_size: int) -> list[Floor]:
        """Return what the frequency of a token, and its two neighbours, tell of those that are hidden."""
        return floors_of_masks(text, split, np.flatnonzero(self.chosen(text, split)))

    def sample(self, network: nn.Module, text: TokenizedCorpus, tokens: int, seed: int) -> str:
        """Return the beginning of the held-out text with what the network puts in for hidden tokens, in brackets; what
        was there stands behind it, where that is something else."""
        batch = next(iter(MaskedWindows(self, text, "val", network.block_size, 0, 1, rows=1)))
        device, training = device_of(network), network.training
        network.eval()
        with torch.no_grad():
            guesses = network(batch["tokens"].to(device), batch["seen"].bool().to(device)).argmax(-1)[0].tolist()
        network.train(training)
        pieces = []
        length = min(int(batch["seen"][0].sum()), tokens)
        read, targets = batch["tokens"][0].tolist(), batch["targets"][0].tolist()
        for there, guess, wanted in list(zip(read, guesses, targets, strict=True))[:length]:
            hidden = wanted != IGNORE_INDEX
            told = [text.tokenizer.decode([each]) for each in dict.fromkeys((guess, wanted) if hidden else (there,))]
            pieces.append(f"[{'|'.join(told)}]" if hidden else told[0])
        return "".join(pieces)

    @torch.no_grad()
    def predict(
        self, network: nn.Module, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int
    ) -> list[dict[str, Any]]:
        """Return of texts with one mask each, by any of its names, the likeliest token there, with the probabilities of
        some.

        Raises:
            ConfigError: a text has none or several, or the tokenizer knows none.
        """
        if tokenizer.mask_id is None:
            raise ConfigError(f"the tokenizer has no token for what is hidden, such as {' or '.join(MASKS)}")
        return [self._fill(network, tokenizer, each.text, block_size, at) for at, each in enumerate(examples, start=1)]

    def cut(self, tokenizer: Tokenizer, examples: Sequence[Example], block_size: int) -> int:
        """Return of how many of these texts only what is around the mask is read, as they are too long."""
        frame = sum(map(len, tokenizer.frame()))
        return sum(len(with_holes(tokenizer, each.text)[0]) + frame > block_size for each in examples)

    def read_hidden(self, tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
        """Return a text in which masks stand for some tokens as the network reads it, and the places of these."""
        ids, places = with_holes(tokenizer, text)
        first_ids, last_ids = tokenizer.frame()
        return [*first_ids, *ids, *last_ids], [len(first_ids) + place for place in places]

    def _fill(
        self, network: nn.Module, tokenizer: Tokenizer, text: str, block_size: int, number: int
    ) -> dict[str, Any]:
        ids, places = with_holes(tokenizer, text)
        if (count := len(places)) != 1:
            mask = tokenizer.token(tokenizer.mask_id)
            raise ConfigError(f"a text needs one {mask} to be filled, and text {number} has {count}: {text[:60]!r}")
        (place,) = places
        first_ids, last_ids = tokenizer.frame()
        room = block_size - len(first_ids) - len(last_ids)
        first = max(min(place - room // 2, len(ids) - room), 0)
        read = [*first_ids, *ids[first : first + room], *last_ids]
        tokens_BT = torch.tensor([read], device=device_of(network))
        p_V = network(tokens_BT)[0, len(first_ids) + place - first].float().softmax(dim=-1).cpu()
        # Rows beyond the vocabulary stand for nothing.
        top = p_V[: tokenizer.size].topk(min(FILLINGS, tokenizer.size))
        shares = {tokenizer.token(id): p for id, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)}
        best = int(top.indices[0])
        filled = [*ids[:place], best, *ids[place + 1 :]]
        return {
            "score": float(top.values[0]), "token": best, "token_str": tokenizer.decode([best]),
            "sequence": tokenizer.decode(filled), "probabilities": shares,
        }  # fmt: skip

    def chosen(self, text: TokenizedCorpus, split: str) -> np.ndarray:
        """Return which tokens of a split are hidden when it is measured: always the same."""
        tokens = text.splits[split].tokens.astype(np.int64)
        return self._chooser(text.tokenizer)(tokens, np.arange(len(tokens)), HELD_OUT_SEED)

    def hide(
        self, tokens: np.ndarray, chosen: np.ndarray, places: np.ndarray, seed: int, tokenizer: Tokenizer
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens as a network sees them, and the targets; a pure function of seed and places."""
        becomes = random_integers(seed, BECOMES, places, MILLION)
        masked, replaced = round(self.masked * MILLION), round((self.masked + self.replaced) * MILLION)
        drawn = random_integers(seed, INSTEAD, places, tokenizer.size)
        instead = np.where(becomes < masked, tokenizer.mask_id, drawn)
        return np.where(chosen & (becomes < replaced), instead, tokens), np.where(chosen, tokens, IGNORE_INDEX)

    def _chooser(self, tokenizer: Tokenizer) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
        """Return what chooses among tokens, given their places and a seed: no marks of where texts end, no padding."""
        marks = marks_of(tokenizer)
        first_of_word = words_of(tokenizer) if self.whole_words else None

        def choose(tokens: np.ndarray, places: np.ndarray, seed: int) -> np.ndarray:
            # What happens to a word is decided at its first token.
            at = places if first_of_word is None else places - first_of_word(tokens)
            drawn = random_integers(seed, CHOSEN, at, MILLION) < round(self.share * MILLION)
            return drawn & ~np.isin(tokens, marks)

        return choose


def words_of(tokenizer: Tokenizer) -> Callable[[np.ndarray], np.ndarray]:
    """Return what tells of each token how many tokens before it the first one of its word stands.

    A word is letters and digits that follow each other; whatever else there is, is a word by itself. Where tokens are
    words, each is one.
    """
    texts = [tokenizer.decode([id]) for id in range(tokenizer.size)]

    def within(piece: str) -> bool:
        # Part of a character that takes several bytes shows as this.
        return piece.isalnum() or piece == "\ufffd"

    begins_V = np.array([not within(text[:1]) for text in texts])
    ends_V = np.array([not within(text[-1:]) for text in texts])
    letter = next((id for id, text in enumerate(texts) if text.isalnum()), None)
    apart = letter is not None and " " in tokenizer.decode([letter, letter]).strip()

    def first_of_word(tokens: np.ndarray) -> np.ndarray:
        number_T = np.arange(tokens.shape[-1])
        begins = begins_V[tokens] | apart
        begins[..., 1:] |= ends_V[tokens[..., :-1]]
        begins[..., :1] = True
        return number_T - np.maximum.accumulate(np.where(begins, number_T, 0), axis=-1)

    return first_of_word


class MaskedWindows:
    """A split in windows that do not overlap, with hidden tokens that follow from where they stand in it.

    Yields tokens_BT, targets_BT and seen_BT. Documents are read apart. Of `world_size` processes each gets every
    world_size-th window.
    """

    def __init__(
        self,
        task: MaskedLanguageModel,
        text: TokenizedCorpus,
        split: str,
        block_size: int,
        rank: int,
        world_size: int,
        rows: int | None = None,
    ):
        self.task, self.tokenizer, self.split = task, text.tokenizer, text.splits[split]
        self.block_size = block_size
        self.places, self.ends = windows_of(self.split, block_size)
        self.chosen = task.chosen(text, split)
        self.mine = np.arange(rank, len(self.places), world_size)
        room = min(EVALUATION_LOGITS // text.tokenizer.size, EVALUATION_TOKENS)
        self.rows = max(room // block_size, 1) if rows is None else rows

    def __len__(self) -> int:
        return -(-len(self.mine) // self.rows)

    def first(self, count: int) -> "MaskedWindows | None":
        """Return the first so many windows alone; None where there are no more."""
        part = copy.copy(self)
        part.mine = self.mine[: bisect.bisect_left(self.mine, count)]
        return None if len(part.mine) == len(self.mine) else part

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for at in range(0, len(self.mine), self.rows):
            chosen = self.mine[at : at + self.rows]
            places = self.places[chosen][:, None] + np.arange(self.block_size)
            seen = places < self.ends[chosen][:, None]
            inside = np.where(seen, places, 0)
            tokens, chosen_BT = self.split.tokens[inside].astype(np.int64), self.chosen[inside] & seen
            hidden, targets = self.task.hide(tokens, chosen_BT, places, HELD_OUT_SEED, self.tokenizer)
            yield {
                "tokens": torch.from_numpy(np.where(seen, hidden, 0)),
                "targets": torch.from_numpy(targets),
                "seen": torch.from_numpy(seen),
            }

    def describe(self) -> dict[str, str]:
        return {
            "context": f"windows of up to {self.block_size} tokens that do not overlap, read both ways",
            "hidden": f"{self.task.share:.0%} of the tokens, always the same ones",
        }
