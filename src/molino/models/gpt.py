"""The GPT family: the decoder of the 2017 transformer, GPT-1, GPT-2 and what lies between, by settings alone.

What is notable:
- parameters carry GPT-2's names (wte, wpe, h.0.attn.c_attn, h.0.mlp.c_fc, ln_f, lm_head), as Linear weights (out, in)
- pre-norm blocks (GPT-2) with a final norm, or post-norm blocks (GPT-1, the 2017 transformer) without one
- learned or sinusoidal positions, up to block_size
- dropout where GPT-2 has it: after the embeddings, on attention weights, at the end of each residual branch. There is
  none inside the MLP (`torch.nn.TransformerEncoderLayer` has one there; the papers have not)
- the head has no bias, and is the token table transposed where weights are tied

Shape suffixes: B batch, T time (tokens), C channels (n_embd), V vocabulary.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn

from molino.base.errors import ConfigError
from molino.models import (
    choose,
    require_dropout,
    require_layers,
    require_norm_eps,
    require_positive,
    token_positions,
)
from molino.models.attention import CausalSelfAttention
from molino.models.cache import CacheShape, KVCache
from molino.models.capabilities import Capabilities
from molino.models.dropout import Dropout
from molino.models.head import head_loss
from molino.models.linear import Linear


class SinusoidalPositions(nn.Module):
    """The fixed position table of Vaswani et al. 2017, section 3.5, called like an `nn.Embedding`.

    table[t, 2i] = sin(t / 10000^(2i/C)), table[t, 2i+1] = cos(t / 10000^(2i/C)). Not saved: it can be computed.
    Raises ConfigError for an odd n_embd.

    Args:
        halves: the sines stand before the cosines, in place of beside them.
    """

    def __init__(self, block_size: int, n_embd: int, halves: bool = False):
        super().__init__()
        if n_embd % 2:
            raise ConfigError(
                f"model.n_embd={n_embd} is odd, but model.positions=sinusoidal pairs sines with cosines: make it even"
            )
        self.block_size, self.n_embd, self.halves = block_size, n_embd, halves
        self.reset_buffers()

    def reset_buffers(self, device: torch.device | None = None) -> None:
        """Compute the table (again, where the module was moved from the meta device)."""
        # float64 until the end: the rounding of large angles would show in the table.
        told = {"dtype": torch.float64, "device": device}
        frequency = 10000.0 ** (-torch.arange(0, self.n_embd, 2, **told) / self.n_embd)
        angle = torch.arange(self.block_size, **told)[:, None] * frequency
        table_TC = torch.stack((angle.sin(), angle.cos()), dim=-2 if self.halves else -1).flatten(1)
        self.register_buffer("table", table_TC.float(), persistent=False)

    def forward(self, positions_T: Tensor) -> Tensor:
        """(T,) -> (T, C), or (B, T) -> (B, T, C)."""
        return self.table[positions_T]


class MLP(nn.Module):
    """Two linear layers with an activation between them, applied at each position: (B, T, C) -> (B, T, C)."""

    def __init__(self, n_embd: int, n_inner: int, dropout: float, bias: bool, activation: nn.Module):
        super().__init__()
        self.c_fc = Linear(n_embd, n_inner, bias=bias)
        self.activation = activation
        self.c_proj = Linear(n_inner, n_embd, bias=bias)
        self.resid_dropout = Dropout(dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.resid_dropout(self.c_proj(self.activation(self.c_fc(x_BTC))))


class PreNormBlock(nn.Module):
    """Attention, then MLP, each reading a normed copy of the residual stream (GPT-2): (B, T, C) -> (B, T, C)."""

    def __init__(self, ln_1: nn.Module, attn: nn.Module, ln_2: nn.Module, mlp: nn.Module):
        super().__init__()
        self.ln_1, self.attn = ln_1, attn
        self.ln_2, self.mlp = ln_2, mlp

    def forward(self, x_BTC: Tensor, cache: KVCache | None = None) -> Tensor:
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC), cache)
        return x_BTC + self.mlp(self.ln_2(x_BTC))


class PostNormBlock(nn.Module):
    """Attention, then MLP, with a norm on each sum (the 2017 transformer, GPT-1): (B, T, C) -> (B, T, C)."""

    def __init__(self, ln_1: nn.Module, attn: nn.Module, ln_2: nn.Module, mlp: nn.Module):
        super().__init__()
        self.attn, self.ln_1 = attn, ln_1
        self.mlp, self.ln_2 = mlp, ln_2

    def forward(self, x_BTC: Tensor, cache: KVCache | None = None) -> Tensor:
        x_BTC = self.ln_1(x_BTC + self.attn(x_BTC, cache))
        return self.ln_2(x_BTC + self.mlp(x_BTC))


POSITIONS = {"learned": nn.Embedding, "sinusoidal": SinusoidalPositions}
POSITION_TABLES = {
    "learned": {"wpe.weight": "learned positions (wpe.weight)"},
    "sinusoidal": {"wpe.table": "sinusoidal positions (wpe.table)"},
}
BLOCKS = {"pre": PreNormBlock, "post": PostNormBlock}
ACTIVATIONS = {
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


class GPT(nn.Module):
    """A decoder-only transformer.

    Args:
        vocab_size: V.
        block_size: the longest sequence, in tokens.
        n_layer: number of blocks.
        n_head: attention heads a block; must divide n_embd.
        n_embd: C, the width of the residual stream.
        n_inner: width inside the MLP; None is 4 * n_embd.
        dropout: one probability for all the places named at the top of this file.
        bias: whether linear layers and norms have biases (the head never has).
        positions: "learned" (GPT) or "sinusoidal" (Vaswani et al. 2017).
        norm: "pre" (GPT-2) or "post" (GPT-1).
        activation: "gelu", "gelu_tanh" (the approximation that GPT-1 and GPT-2 use), "relu" or "silu".
        tie_weights: one table for token embeddings and head (Press and Wolf 2017).
        scale_embeddings: multiply token embeddings by sqrt(n_embd) (Vaswani et al. 2017).
        init: "gpt2" or "xavier_uniform", see `initialise`.
        norm_eps: added to a norm's variance.

    Raises ConfigError for a setting out of range, with its name and what to choose.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        n_inner: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        positions: str = "learned",
        norm: str = "pre",
        activation: str = "gelu",
        tie_weights: bool = True,
        scale_embeddings: bool = False,
        init: str = "gpt2",
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        n_inner = 4 * n_embd if n_inner is None else n_inner
        require_positive({"vocab_size": vocab_size, "data.block_size": block_size})
        require_layers(n_layer)
        require_positive({"model.n_head": n_head})
        require_positive({"model.n_embd": n_embd, "model.n_inner": n_inner})
        require_dropout(dropout)
        require_norm_eps(norm_eps)
        new_positions = choose("model.positions", positions, POSITIONS)
        new_block = choose("model.norm", norm, BLOCKS)
        new_activation = choose("model.activation", activation, ACTIVATIONS)
        self.vocab_size = vocab_size
        self.block_size = block_size
        self.capabilities = Capabilities(
            cache=CacheShape(n_layer, n_head, n_embd // n_head),
            attention=True,
            hidden=n_embd,
            head="lm_head.weight",
            beside=True,
            tied=("lm_head.weight", "wte.weight") if tie_weights else None,
            embedding="wte.weight",
            positions=POSITION_TABLES[positions],
            layers=(("wte", "wpe"), *((f"h.{number}",) for number in range(n_layer))),
            formats=("gpt2", "openai-gpt"),
        )
        self.embedding_scale = math.sqrt(n_embd) if scale_embeddings else 1.0

        new_norm = partial(nn.LayerNorm, n_embd, eps=norm_eps, bias=bias)

        def block(layer: int) -> nn.Module:
            attn = CausalSelfAttention(n_embd, n_head, dropout, bias, layer)
            mlp = MLP(n_embd, n_inner, dropout, bias, new_activation())
            return new_block(new_norm(), attn, new_norm(), mlp)

        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = new_positions(block_size, n_embd)
        self.drop = Dropout(dropout)
        self.h = nn.ModuleList(map(block, range(n_layer)))
        # A post-norm block already ends with a norm.
        self.ln_f = new_norm() if norm == "pre" else nn.Identity()
        self.lm_head = Linear(n_embd, vocab_size, bias=False)
        if tie_weights:
            self.lm_head.weight = self.wte.weight
        initialise(self, init)

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each token; see `molino.models` for the cache."""
        return self.head(self.hidden(tokens_BT, cache))

    def hidden(self, tokens_BT: Tensor, cache: KVCache | None = None, beside_BTC: Tensor | None = None) -> Tensor:
        """What the head reads, (B, T, C).

        Args:
            beside_BTC: is added to the embeddings of the tokens.
        """
        positions_T = token_positions(tokens_BT, cache, self.block_size)
        x_BTC = self.wte(tokens_BT) * self.embedding_scale + self.wpe(positions_T)
        x_BTC = self.drop(x_BTC if beside_BTC is None else x_BTC + beside_BTC)
        for block in self.h:
            x_BTC = block(x_BTC, cache)
        if cache is not None:
            cache.advance(tokens_BT.shape[1])
        return self.ln_f(x_BTC)

    def head(self, hidden_BTC: Tensor) -> Tensor:
        """Logits (B, T, V) of what `hidden` returns."""
        return self.lm_head(hidden_BTC)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats over the targets that are not IGNORE_INDEX."""
        return head_loss(self.hidden(tokens_BT), self.lm_head.weight, targets_BT)


def initialise(model: GPT, init: str) -> None:
    """Sets every parameter, from torch's global random state. Raises ConfigError for an unknown `init`.

    weight                                gpt2 (normal, std)         xavier_uniform (std)
    wte.weight, wpe.weight                0.02                       sqrt(2 / (rows + columns))
    lm_head.weight, where not tied        0.02                       sqrt(2 / (rows + columns))
    attn.c_attn.weight                    0.02                       sqrt(2 / (rows + columns)), rows = 3C
    mlp.c_fc.weight                       0.02                       sqrt(2 / (rows + columns))
    attn.c_proj.weight, mlp.c_proj.weight 0.02 / sqrt(2 * n_layer)   sqrt(2 / (rows + columns))
    weights of the norms                  1, constant                1, constant
    biases                                0, constant                0, constant

    gpt2: Radford et al. 2019, section 2.3. Each block adds two branches to the residual stream; the factor keeps its
    variance independent of depth. xavier_uniform: Glorot and Bengio 2010, uniform in +-sqrt(6 / (rows + columns)); the
    fused projection counts as one matrix, as in `torch.nn.MultiheadAttention`.
    """
    residual_std = 0.02 / math.sqrt(2 * len(model.h))
    fill_residual, fill_matrix = choose(
        "model.init",
        init,
        {
            "gpt2": (partial(nn.init.normal_, std=residual_std), partial(nn.init.normal_, std=0.02)),
            "xavier_uniform": (nn.init.xavier_uniform_, nn.init.xavier_uniform_),
        },
    )
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 1:
            nn.init.ones_(parameter)
        elif name.endswith("c_proj.weight"):
            fill_residual(parameter)
        else:
            fill_matrix(parameter)
