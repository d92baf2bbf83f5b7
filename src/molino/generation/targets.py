"""How targets are written, what one is, and which tokens may come next in it.

Shape suffixes: B rows, T time (tokens so far), V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from molino.base.errors import ConfigError, NonFiniteError
from molino.generation import filters


class Written(NamedTuple):
    """A target.

    Attributes:
        tokens: without the one that ends it.
        score: the logarithm of its probability, divided by its length (the end counts) to the power of the penalty.
    """

    tokens: list[int]
    score: float


@dataclass(frozen=True)
class Writing:
    """How targets are written.

    Attributes:
        beams: how many beginnings are followed at once; 1 takes the likeliest token each time.
        length_penalty: power of the length by which the score of a beam is divided: above 0 longer ones gain.
        n_best: how many targets of each source are told, the best first.
        no_repeat_ngram: no sequence of so many tokens comes twice; 0 for any.
        min_new_tokens, max_new_tokens: length of a target, the token that ends it included; None for what the model
            writes at most.
        temperature, top_k, top_p, min_p: draw the next token in place of taking the likeliest, see
            molino.generation.filters; temperature 0 draws nothing.
    """

    beams: int = 1
    length_penalty: float = 1.0
    n_best: int = 1
    no_repeat_ngram: int = 0
    min_new_tokens: int = 0
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self):
        most = 1 if self.max_new_tokens is None else self.max_new_tokens
        filters.check_settings(self.temperature, self.top_k, self.top_p, 1, most, self.min_p)
        for name, least in (("beams", 1), ("n_best", 1), ("no_repeat_ngram", 0), ("min_new_tokens", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"writing.{name}={getattr(self, name)} is too small: choose {least} or more")
        if not math.isfinite(self.length_penalty):
            raise ConfigError(f"writing.length_penalty={self.length_penalty} is no number: choose 1.0, or 0 for none")
        if self.max_new_tokens is not None and self.min_new_tokens >= self.max_new_tokens:
            raise ConfigError(
                f"writing.min_new_tokens={self.min_new_tokens} leaves nothing below "
                f"writing.max_new_tokens={self.max_new_tokens}: lower it"
            )
        drawn = self.temperature > 0
        if drawn and self.beams > 1:
            raise ConfigError("writing.temperature draws tokens and writing.beams follows the likeliest: choose one")
        if not drawn and self.n_best > self.beams:
            raise ConfigError(
                f"writing.n_best={self.n_best} needs writing.beams={self.n_best} or more, or writing.temperature=1"
            )
        if not drawn and any(each is not None for each in (self.top_k, self.top_p, self.min_p)):
            raise ConfigError("writing.top_k, top_p and min_p are for drawn tokens: add writing.temperature=1")

    def describe(self) -> str:
        """Return in words how targets are written."""
        if self.temperature > 0:
            return f"drawn at temperature {self.temperature:g}"
        if self.beams == 1:
            return "the likeliest token each time"
        return f"{self.beams} beams, length penalty {self.length_penalty:g}"


class Vocabulary(NamedTuple):
    """What the writing has to know of tokens.

    Attributes:
        start, end: ids of the token before each target, and of the one behind it.
        padding: stands in place of nothing in sources.
        forbidden: ids that are never written.
    """

    start: int
    end: int
    padding: int
    forbidden: tuple[int, ...] = ()


def log_probabilities(logits_BV: Tensor) -> Tensor:
    """Return the logarithms of probabilities, in float32 at least.

    Raises:
        NonFiniteError: the logits hold nan or inf, or nothing but -inf.
    """
    if not logits_BV.amax(-1).isfinite().all():
        raise NonFiniteError("the model's logits are nan or inf: it diverged; take an earlier checkpoint")
    return logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32)).log_softmax(-1)


def restrict(scores_BV: Tensor, written_BT: Tensor, writing: Writing, vocabulary: Vocabulary) -> Tensor:
    """Return scores in which no token that must not come next has a chance.

    Args:
        written_BT: all tokens so far, the one that each target begins with included.
    """
    forbidden = list(vocabulary.forbidden)
    if written_BT.shape[1] <= writing.min_new_tokens:
        forbidden.append(vocabulary.end)
    scores_BV = scores_BV.clone()
    scores_BV[:, forbidden] = -torch.inf
    size = writing.no_repeat_ngram
    if 0 < size <= written_BT.shape[1]:
        ngrams_BTN = written_BT.unfold(1, size, 1)
        begins_BT = (ngrams_BTN[..., :-1] == written_BT[:, None, written_BT.shape[1] - size + 1 :]).all(-1)
        rows, places = begins_BT.nonzero(as_tuple=True)
        scores_BV[rows, ngrams_BTN[rows, places, -1]] = -torch.inf
    return scores_BV


def without_end(tokens: list[int], end: int) -> list[int]:
    """Return a target without the token that ends it; one that was too long has none."""
    return tokens[:-1] if tokens[-1:] == [end] else tokens
