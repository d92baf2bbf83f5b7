"""Sampling filters: pure functions from logits to logits, in the order of Hugging Face's `generate`: repetition
penalty, temperature, top-k, top-p, min-p.

A token that may not be drawn gets the logit -inf, and keeps it. Filters keep dtype and device and change nothing in
place. Top-k counts tokens, which temperature does not reorder; top-p measures the mass of what temperature and top-k
left, min-p compares what is left of all.

Shape suffixes: B samples, V vocabulary.
"""

import math

import torch
from torch import Tensor

from molino.base.errors import ConfigError

# Logits are rounded, so the mass of a set of tokens is known to about this relative precision: a set that holds p but
# for rounding counts as holding it.
ROUNDING = 1e-6


def check_settings(
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    samples: int,
    max_new_tokens: int,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
) -> None:
    """Raises ConfigError for the first setting that is out of range; None switches top_k, top_p or min_p off."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"temperature={temperature} is out of range: choose 0 (always the likeliest token) or more")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k={top_k} keeps no token: choose 1 or more, or null for all tokens")
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError(f"top_p={top_p} is out of range: choose above 0 and up to 1, or null for all tokens")
    if min_p is not None and not 0 <= min_p <= 1:
        raise ConfigError(f"min_p={min_p} is out of range: choose from 0 to 1, or null for all tokens")
    if not (math.isfinite(repetition_penalty) and repetition_penalty > 0):
        raise ConfigError(f"repetition_penalty={repetition_penalty} is out of range: choose above 0; 1 is none")
    if samples < 1:
        raise ConfigError(f"samples={samples} is too small: choose 1 or more")
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens={max_new_tokens} is too small: choose 1 or more")


def repetition_penalty(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Logits of the tokens that a text already holds, divided by `penalty` where positive, else times it.

    Above 1 repetitions become rarer, below 1 more frequent. Keskar et al. (2019), section 4.1; as in `transformers`,
    the prompt counts too.
    """
    penalised_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, penalised_BV, logits_BV)


def temperature(logits_BV: Tensor, value: float) -> Tensor:
    """Logits divided by `value` >= 0 and shifted so that a row's highest is 0; at 0 only the first highest stays."""
    if value == 0:
        best_B1 = logits_BV.argmax(-1, keepdim=True)
        return torch.full_like(logits_BV, -math.inf).scatter(-1, best_B1, 0.0)
    # The shift keeps the quotient from overflowing, the bound keeps 0 / value from becoming 0 / 0.
    shifted_BV = logits_BV - logits_BV.amax(-1, keepdim=True)
    return shifted_BV / max(value, torch.finfo(logits_BV.dtype).tiny)


def top_k(logits_BV: Tensor, k: int) -> Tensor:
    """The k highest logits of a row: exactly k, of equals those with the lowest ids; all where k >= V. k >= 1."""
    if k >= logits_BV.shape[-1]:
        return logits_BV
    kth_B1 = logits_BV.topk(k).values[:, -1:]
    above_BV, equal_BV = logits_BV > kth_B1, logits_BV == kth_B1
    room_B1 = k - above_BV.sum(-1, keepdim=True)
    keep_BV = above_BV | (equal_BV & (equal_BV.cumsum(-1) <= room_B1))
    return logits_BV.masked_fill(~keep_BV, -math.inf)


def top_p(logits_BV: Tensor, p: float) -> Tensor:
    """The nucleus of a row: the smallest set of its likeliest tokens that holds mass p, of equals the lowest ids first.

    `p` lies above 0, and 1 keeps all. Holtzman et al. (2020).
    """
    if p == 1:
        return logits_BV
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    mass_BV = sorted_BV.softmax(-1)
    before_BV = mass_BV.cumsum(-1) - mass_BV
    # A token belongs to the nucleus while those before it do not yet hold p: the first always does.
    keep_BV = torch.zeros_like(logits_BV, dtype=torch.bool).scatter(-1, order_BV, before_BV < p * (1 - ROUNDING))
    return logits_BV.masked_fill(~keep_BV, -math.inf)


def min_p(logits_BV: Tensor, p: float) -> Tensor:
    """The tokens of a row that are at least `p` times as likely as its likeliest. Nguyen et al. (2024)."""
    if p == 0:
        return logits_BV
    bar_B1 = logits_BV.amax(-1, keepdim=True) + math.log(p) - ROUNDING
    return logits_BV.masked_fill(logits_BV < bar_B1, -math.inf)
