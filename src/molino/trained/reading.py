"""What a run makes of a text that it reads: its tokens, what it expects, what it looks at, how well it foretells it.

Shape suffixes: T tokens, C channels, V vocabulary, L layers, H heads.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from molino.base.errors import ConfigError, DataError
from molino.data.batches import evaluation_windows
from molino.data.prompt import encode_prompt
from molino.data.tokens import Split
from molino.evaluation.totals import measure_all
from molino.inspection.attention import read
from molino.models.capabilities import capabilities_of, device_of, require_next_token
from molino.tasks.language_model import LanguageModel
from molino.trained.load import LoadedRun
from molino.trained.looking import look


def read_tokens(loaded: LoadedRun, text: str) -> list[int]:
    """Return the ids of a text, with what stands before every text."""
    check_text(text)
    return encode_prompt(text, loaded.tokenizer, loaded.prefix, loaded.line_end)


def check_text(text: object) -> None:
    """Refuse what is no text.

    Raises:
        DataError: it is not.
    """
    if not isinstance(text, str):
        raise DataError(f"a text must be a str, and this is a {type(text).__name__}")


def read_logits(loaded: LoadedRun, text: str) -> Tensor:
    """Return the logits of what comes after each token, (T, V)."""
    require_next_token(loaded.model, "logits")
    return read(loaded.model, _few(loaded, text))[0]


class SourceAttention(NamedTuple):
    """What each head of each layer attends to where a target of T tokens is written about a source of S: rows sum to 1.

    Attributes:
        encoder: the source to itself, (L, H, S, S).
        decoder: the target to itself, (L, H, T, T).
        cross: the target to the source, (L, H, T, S).
    """

    encoder: Tensor
    decoder: Tensor
    cross: Tensor


def read_attention(loaded: LoadedRun, text: str, target: str | None = None) -> Tensor | SourceAttention:
    """Return what each head of each layer attends to, (L, H, T, T): rows sum to 1; of a model with an encoder and a
    decoder all three kinds, see molino.trained.looking.

    Raises:
        ConfigError: the model has no attention to look at.
    """
    check_text(text)
    looks = look(loaded, "attention", text, target).looks
    if not looks:
        raise ConfigError(f"{type(loaded.model).__name__} has no attention to look at")
    kinds = [each.weights() for each in looks]
    return SourceAttention(*kinds) if len(kinds) > 1 else kinds[0]


@torch.no_grad()
def read_hidden(loaded: LoadedRun, text: str) -> Tensor:
    """Return what the model's head reads at each token, (T, C).

    Raises:
        ConfigError: the model has no such thing.
    """
    if capabilities_of(loaded.model).hidden is None:
        raise ConfigError(f"{type(loaded.model).__name__} has no hidden states to look at")
    tokens_T = torch.tensor(_few(loaded, text), device=_device(loaded))
    return loaded.model.hidden(tokens_T[None])[0].float().cpu()


def read_loss(loaded: LoadedRun, text: str) -> float:
    """Return the mean loss of a text's tokens but the first, in nats, in windows of the model's context.

    Raises:
        DataError: it has fewer than two tokens.
    """
    require_next_token(loaded.model, "loss")
    ids = read_tokens(loaded, text)
    if len(ids) < 2:
        raise DataError(f"the text has {len(ids)} tokens: there is nothing to predict")
    split = Split("text", np.array(ids), np.array([0, len(ids) - 1]), len(text), len(text.encode()), 0)
    block_size = loaded.model.block_size
    windows = evaluation_windows(split, block_size, block_size, loaded.model.vocab_size)
    sums = measure_all(LanguageModel().measure, loaded.model, windows, _device(loaded))
    return sums["nll"] / sums["tokens"]


def _few(loaded: LoadedRun, text: str) -> list[int]:
    """Return the ids of a text that fits into the context."""
    ids = read_tokens(loaded, text)
    if not 0 < len(ids) <= loaded.model.block_size:
        advice = "shorten it" if ids else "add some text"
        raise DataError(f"the text has {len(ids)} tokens, and the model reads 1 to {loaded.model.block_size}: {advice}")
    return ids


def _device(loaded: LoadedRun) -> torch.device:
    return device_of(loaded.model)
