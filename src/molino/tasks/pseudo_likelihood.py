"""Pseudo-likelihood (Salazar et al. 2020): each token of a window is hidden in turn, and told from all others.

Shapes: W windows, R rows, T time (tokens).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from molino.data.batches import EVALUATION_LOGITS, EVALUATION_TOKENS
from molino.data.tokenizers import Tokenizer
from molino.data.tokens import Split, TokenizedCorpus
from molino.evaluation.totals import Measured
from molino.models import IGNORE_INDEX
from molino.runs.measures import Metric
from molino.tasks.figures import perplexity
from molino.tasks.task import Batch


class PseudoLikelihood:
    """What a split is measured by beside the figures of a task: as a task, it has metrics, an evaluation and figures.

    Args:
        measure: of the task, for batches of `tokens_BT`, `targets_BT` and `seen_BT`.
    """

    metrics = (
        Metric("pseudo_loss", unit="nats a token", per_token=True),
        Metric("pseudo_perplexity", per_token=True, overflows=True),
    )

    def __init__(self, measure: Callable[[nn.Module, Batch], Measured]):
        self.measure = measure

    def evaluation(self, text: TokenizedCorpus, split: str, block_size: int, stride: None = None) -> "EachHidden":
        return EachHidden(text, split, block_size, text.tokenizer.mask_id)

    def figures(self, totals: Mapping[str, Any], split: Split) -> dict[str, float]:
        loss = totals["nll"] / totals["tokens"]
        return {"pseudo_loss": loss, "pseudo_perplexity": perplexity(loss)}


class EachHidden:
    """A split in windows that do not overlap, as often as each has tokens, of which one is hidden each time.

    Marks of where texts end are read, and never hidden. Yields tokens_RT, targets_RT and seen_RT; rows are as long as
    the longest window among them.
    """

    def __init__(self, text: TokenizedCorpus, split: str, block_size: int, mask_id: int):
        self.split, self.block_size, self.mask_id = text.splits[split], block_size, mask_id
        starts_W, ends_W = windows_of(self.split, block_size)
        self.starts_W, self.sizes_W = starts_W, np.minimum(ends_W - starts_W, block_size)
        window_R = np.repeat(np.arange(len(starts_W)), self.sizes_W)
        first_W = np.cumsum(self.sizes_W) - self.sizes_W
        hidden_R = np.arange(len(window_R)) - first_W[window_R]
        counted_R = ~np.isin(self.split.tokens[starts_W[window_R] + hidden_R], marks_of(text.tokenizer))
        self.window_R, self.hidden_R = window_R[counted_R], hidden_R[counted_R]
        # Of each row the head reads one token.
        self.rows = max(min(EVALUATION_TOKENS // block_size, EVALUATION_LOGITS // text.tokenizer.size), 1)

    def __len__(self) -> int:
        return -(-len(self.window_R) // self.rows)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for at in range(0, len(self.window_R), self.rows):
            window_R, hidden_R1 = self.window_R[at : at + self.rows], self.hidden_R[at : at + self.rows, None]
            sizes_R1 = self.sizes_W[window_R, None]
            places_T = np.arange(sizes_R1.max())
            seen_RT = places_T < sizes_R1
            inside_RT = np.where(seen_RT, self.starts_W[window_R, None] + places_T, 0)
            tokens_RT = np.where(seen_RT, self.split.tokens[inside_RT].astype(np.int64), 0)
            is_hidden_RT = places_T == hidden_R1
            yield {
                "tokens": torch.from_numpy(np.where(is_hidden_RT, self.mask_id, tokens_RT)),
                "targets": torch.from_numpy(np.where(is_hidden_RT, tokens_RT, IGNORE_INDEX)),
                "seen": torch.from_numpy(seen_RT),
            }

    def describe(self) -> dict[str, str]:
        return {"hidden in turn": f"each of {len(self.window_R):,} tokens, in windows of up to {self.block_size}"}


def windows_of(split: Split, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where windows that do not overlap begin, and where the document of each ends, (W,) each.

    A document lies between two marks, of which the second one begins the next.
    """
    starts, ends = split.marks[:-1], split.marks[1:].copy()
    ends[-1] += 1
    ranges = [np.arange(a, b, block_size) for a, b in zip(starts, ends, strict=True)]
    return np.concatenate(ranges), np.repeat(ends, [len(each) for each in ranges])


def marks_of(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that are never hidden: where texts end, and padding."""
    return [id for id in (tokenizer.end_of_text_id, tokenizer.padding_id) if id is not None]
