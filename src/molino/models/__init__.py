"""Language models, one family a file.

Every model is a `torch.nn.Module` with

    block_size: int, vocab_size: int, capabilities: Capabilities
    forward(tokens_BT: LongTensor, cache=None) -> logits_BTV   the scores of the token after each token
    loss(tokens_BT, targets_BT) -> scalar                      what `next_token_loss` says

With a `KVCache` the tokens follow those it holds, and it takes them up: reading a text in pieces gives the logits of
reading it whole.

`loss` need not make all logits at once (`head.py`). It is a pure function of parameters, buffers and inputs (and of the
random numbers dropout draws), so that `torch.func.functional_call` works.

Here is what the families share. Legend of the shape suffixes: B batch, T time (tokens), V vocabulary.
"""

import math
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.models.cache import KVCache

IGNORE_INDEX = -100  # a target of this value does not count in the loss: padding, or a prompt that is given

# As deep as transformers have been trained (Wang et al. 2022); a slip of the finger would build layers for minutes.
MOST_LAYERS = 1000

Option = TypeVar("Option")


def next_token_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross entropy in nats over the targets that are not IGNORE_INDEX; nan where none is left.

    Computed in float32 at least: bfloat16 holds three digits, too few for a loss.
    """
    dtype = torch.promote_types(logits_BTV.dtype, torch.float32)
    return F.cross_entropy(logits_BTV.flatten(0, 1).to(dtype), targets_BT.flatten(), ignore_index=IGNORE_INDEX)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return what `x` is multiplied in: the precision of autocast, where that is on, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def require_positive(settings: Mapping[str, int]) -> None:
    """Raises ConfigError for the first setting (by the name a user types) that is below 1."""
    for name, value in settings.items():
        if value < 1:
            raise ConfigError(f"{name}={value} is too small: choose 1 or more")


def require_layers(n_layer: int) -> None:
    """Raises ConfigError unless 1 <= n_layer <= MOST_LAYERS."""
    require_positive({"model.n_layer": n_layer})
    if n_layer > MOST_LAYERS:
        raise ConfigError(f"model.n_layer={n_layer} is too large: choose {MOST_LAYERS} or less")


def require_dropout(dropout: float) -> None:
    """Raises ConfigError unless 0 <= dropout < 1."""
    if not 0 <= dropout < 1:
        raise ConfigError(f"model.dropout={dropout} is out of range: choose from 0 up to, not including, 1")


def require_norm_eps(norm_eps: float) -> None:
    """Raises ConfigError unless 0 <= norm_eps < inf."""
    if not (math.isfinite(norm_eps) and norm_eps >= 0):
        raise ConfigError(f"model.norm_eps={norm_eps} is out of range: choose a small number such as 1e-5")


def choose(name: str, value: str, options: Mapping[str, Option]) -> Option:
    """options[value], or a ConfigError that names the setting and lists what there is."""
    if value not in options:
        raise ConfigError(f"{name}={value} is unknown: choose one of {', '.join(options)}")
    return options[value]


def token_positions(tokens_BT: Tensor, cache: KVCache | None, block_size: int) -> Tensor:
    """Return the places of new tokens in their texts: (T,), or (B, T) where the rows of a cache differ.

    Raises ConfigError where one is beyond `block_size`.
    """
    T = tokens_BT.shape[1]
    end = T if cache is None else cache.length + T
    if end > block_size:
        raise ConfigError(
            f"a sequence of {end} tokens is longer than the model's block_size={block_size}: "
            "shorten it, or train with a larger data.block_size"
        )
    return torch.arange(T, device=tokens_BT.device) if cache is None else cache.positions(T)
