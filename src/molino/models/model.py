"""What a model is: a torch.nn.Module with these methods, whoever wrote it.

Shape suffixes: B batch, T time (tokens), C channels, V vocabulary.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from molino.base.errors import ConfigError
from molino.models.cache import CacheShape, KVCache


class Model(Protocol):
    """What every model has. Its constructor takes `vocab_size`, and the settings under `model` by their names.

    A model may also have, and is then asked for it:

    - `block_size`: the longest text it reads, in tokens. Without, it is taken to read what it is trained on
      (data.block_size).
    - `cache_shape`, a `molino.models.cache.CacheShape`, and `forward(tokens_BT, cache=None)`, which takes up a
      `KVCache`: then it samples with one. Without, every new token has it read the whole context again.
    - `hidden(tokens_BT) -> hidden_BTC`: what its head reads, for further heads.
    """

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the logits_BTV of the token after each token."""
        ...

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean cross entropy in nats over the targets that are not IGNORE_INDEX, a scalar.

        `molino.models.next_token_loss(logits_BTV, targets_BT)` is that of logits. It is a pure function of parameters,
        buffers and inputs, and of the random numbers that dropout draws.
        """
        ...


# What belongs under `model`.
MODEL = (nn.Module, Model)


def is_ours(model: nn.Module) -> bool:
    """Tell whether a model is of molino's own families, whose tests say what they return."""
    return type(model).__module__.startswith("molino.")


@torch.no_grad()
def check_model_by_use(model: nn.Module) -> None:
    """Have a model of people's own, on the CPU, read two tokens; neither it nor the random state is changed.

    Raises:
        ConfigError: what it returns is not what `Model` says.
    """
    name, training = type(model).__name__, model.training
    tokens_BT = torch.zeros(1, min(2, model.block_size), dtype=torch.long)
    wanted = (*tokens_BT.shape, model.vocab_size)
    try:
        with torch.random.fork_rng(devices=[]):
            model.eval()
            _check_logits(f"{name}.forward(tokens_BT)", model(tokens_BT), wanted)
            loss = model.loss(tokens_BT, tokens_BT)
            if not (isinstance(loss, Tensor) and loss.shape == () and loss.is_floating_point()):
                raise ConfigError(f"{name}.loss(tokens_BT, targets_BT) must be a scalar tensor, not {_shown(loss)}")
            if hasattr(model, "cache_shape"):
                if not isinstance(model.cache_shape, CacheShape):
                    raise ConfigError(f"{name}.cache_shape must be a CacheShape, but it is {_shown(model.cache_shape)}")
                cache = KVCache(model.cache_shape, 1, len(tokens_BT[0]))
                _check_logits(f"{name}.forward(tokens_BT, cache)", model(tokens_BT, cache), wanted)
                if cache.length != len(tokens_BT[0]):
                    raise ConfigError(f"{name}.forward(tokens_BT, cache) must call cache.advance(T) at its end")
    finally:
        model.train(training)


def _check_logits(call: str, logits: object, wanted: tuple[int, ...]) -> None:
    if not (isinstance(logits, Tensor) and tuple(logits.shape) == wanted):
        raise ConfigError(f"{call} must be logits of shape {wanted} (B, T, vocab_size), but it is {_shown(logits)}")


def _shown(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
