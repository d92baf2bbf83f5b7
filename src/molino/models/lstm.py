"""Long short-term memory (Hochreiter and Schmidhuber 1997): it reads a token after the other and keeps a state.

What is notable:
- the layers are torch's own, one module each, with dropout between them (Zaremba et al. 2014)
- forget gates begin with a bias of 1 (Jozefowicz et al. 2015)
- for sampling a cache holds the state after each token, in place of keys and values: `keys` are the outputs h, `values`
  the cells c. A text can so be gone on with wherever it ends

Shape suffixes: B batch, T time (tokens), C channels (n_embd), V vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from molino.models import require_dropout, require_layers, require_positive, token_positions
from molino.models.cache import CacheShape, KVCache
from molino.models.capabilities import Capabilities
from molino.models.dropout import Dropout
from molino.models.head import head_loss
from molino.models.linear import Linear


class LSTM(nn.Module):
    """A language model of LSTM layers.

    Args:
        vocab_size: V.
        block_size: length of the training blocks, and of the window that a growing text is read by.
        n_layer: number of layers.
        n_embd: C, of the embeddings, the outputs and the cells.
        dropout: probability, after the embeddings and after each layer.
        tie_weights: one table for token embeddings and head.

    Raises ConfigError for a setting out of range, with its name and what to choose.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_embd: int,
        dropout: float = 0.0,
        tie_weights: bool = True,
    ):
        super().__init__()
        require_positive({"vocab_size": vocab_size, "data.block_size": block_size, "model.n_embd": n_embd})
        require_layers(n_layer)
        require_dropout(dropout)
        self.vocab_size, self.block_size = vocab_size, block_size
        self.capabilities = Capabilities(
            cache=CacheShape(n_layer, 1, n_embd),
            hidden=n_embd,
            head="lm_head.weight",
            beside=True,
            tied=("lm_head.weight", "wte.weight") if tie_weights else None,
            embedding="wte.weight",
            layers=(("wte",), *((f"layers.{number}",) for number in range(n_layer))),
        )
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.drop = Dropout(dropout)
        self.layers = nn.ModuleList(nn.LSTM(n_embd, n_embd, batch_first=True) for _ in range(n_layer))
        self.lm_head = Linear(n_embd, vocab_size, bias=False)
        if tie_weights:
            self.lm_head.weight = self.wte.weight
        initialise(self)

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each token; see `molino.models` for the cache."""
        return self.head(self.hidden(tokens_BT, cache))

    def hidden(self, tokens_BT: Tensor, cache: KVCache | None = None, beside_BTC: Tensor | None = None) -> Tensor:
        """What the head reads, (B, T, C).

        Args:
            beside_BTC: is added to the embeddings of the tokens.
        """
        x_BTC = self.wte(tokens_BT)
        x_BTC = self.drop(x_BTC if beside_BTC is None else x_BTC + beside_BTC)
        if cache is None:
            for layer in self.layers:
                x_BTC = self.drop(layer(x_BTC)[0])
            return x_BTC
        # A token at a time, for the cells after each are to be kept.
        return torch.cat([self._next(x_B1C, cache) for x_B1C in x_BTC.split(1, dim=1)], dim=1)

    def _next(self, x_B1C: Tensor, cache: KVCache) -> Tensor:
        token_positions(x_B1C, cache, self.block_size)  # whether there is room
        for number, layer in enumerate(self.layers):
            h_BC, c_BC = cache.last(number)
            y_B1C, (h_1BC, c_1BC) = layer(x_B1C, (h_BC.to(x_B1C.dtype)[None], c_BC.to(x_B1C.dtype)[None]))
            cache.extend(number, h_1BC[0, :, None, None], c_1BC[0, :, None, None])
            x_B1C = y_B1C
        cache.advance(1)
        return x_B1C

    def head(self, hidden_BTC: Tensor) -> Tensor:
        """Logits (B, T, V) of what `hidden` returns."""
        return self.lm_head(hidden_BTC)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats over the targets that are not IGNORE_INDEX."""
        return head_loss(self.hidden(tokens_BT), self.lm_head.weight, targets_BT)


@torch.no_grad()
def initialise(model: LSTM) -> None:
    """Sets every parameter, from torch's global random state.

    weight                               value
    wte.weight, lm_head.weight           normal, std 0.02
    weight_ih_l0, weight_hh_l0           uniform in +-1 / sqrt(C)
    bias_ih_l0                           1 for the forget gates, else 0
    bias_hh_l0                           0
    """
    for name, parameter in model.named_parameters():
        if name.startswith("layers."):
            width = parameter.shape[0] // 4  # gates are stacked: input, forget, cell, output
            if parameter.dim() == 2:
                nn.init.uniform_(parameter, -1 / math.sqrt(width), 1 / math.sqrt(width))
            else:
                nn.init.zeros_(parameter)
            if "bias_ih" in name:
                nn.init.ones_(parameter[width : 2 * width])
        else:
            nn.init.normal_(parameter, std=0.02)
