"""What a model is: a torch.nn.Module with these methods, whoever wrote it.

Shape suffixes: B batch, T time (tokens), C channels, V vocabulary.
"""

from typing import Protocol

from torch import Tensor, nn


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
