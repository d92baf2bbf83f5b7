"""The Llama family: Llama, Mistral, Qwen2, Qwen3 and Phi-3 by settings alone.

What is notable:
- RMSNorm before each branch and at the end, no biases (Qwen2 has them on queries, keys and values)
- rotary positions: nothing is added to the embeddings, queries and keys are turned by an angle that grows with place
- grouped-query attention: n_kv_head heads of keys and values serve n_head heads of queries
- SwiGLU: the MLP's inner activations are gated by a second projection
- queries and keys may be normed (Qwen3), and n-grams embedded beside the tokens; see `ngrams.py`
- projections that read the same input are one matrix (qkv_proj, gate_up_proj), as in Phi-3

Parameters carry Phi-3's names in `transformers`, less the prefix `model.`.

Shape suffixes: B batch, T time (tokens), C channels (n_embd), H heads of queries, G heads of keys and values, D head
size, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.models import (
    require_dropout,
    require_layers,
    require_norm_eps,
    require_positive,
    token_positions,
)
from molino.models.attention import attend, divide
from molino.models.cache import CacheShape, KVCache
from molino.models.capabilities import Capabilities
from molino.models.dropout import Dropout
from molino.models.head import head_loss
from molino.models.linear import Linear
from molino.models.ngrams import NgramEmbedding

INNER_MULTIPLE = 64  # widths of SwiGLU are rounded up to a multiple of this


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021): pairs (i, i + D/2) of a head turn by position * base^(-2i/D).

    The tables are computed in float32, as `transformers` does, so that they agree at every position. They are not
    saved. Raises ConfigError for an odd head size.
    """

    def __init__(self, block_size: int, head_size: int, base: float):
        super().__init__()
        if head_size % 2:
            raise ConfigError(f"a head size of {head_size} is odd, but rotary positions turn pairs: make it even")
        if not (math.isfinite(base) and base > 0):
            raise ConfigError(f"model.rope_base={base} is out of range: choose a number above 0, such as 10000")
        self.block_size, self.head_size, self.base = block_size, head_size, base
        self.reset_buffers()

    def reset_buffers(self, device: torch.device | None = None) -> None:
        """Compute the tables (again, where the module was moved from the meta device)."""
        exponent = torch.arange(0, self.head_size, 2, dtype=torch.float32, device=device) / self.head_size
        angle_TD = torch.arange(self.block_size, device=device)[:, None] * (1.0 / self.base**exponent).repeat(2)
        self.register_buffer("cos", angle_TD.cos(), persistent=False)
        self.register_buffer("sin", angle_TD.sin(), persistent=False)

    def forward(self, positions_T: Tensor) -> tuple[Tensor, Tensor]:
        """(T,) -> cos and sin (T, D); (B, T) -> (B, 1, T, D), which goes for all heads."""
        cos, sin = self.cos[positions_T], self.sin[positions_T]
        return (cos, sin) if positions_T.dim() == 1 else (cos[:, None], sin[:, None])


def turn(x_BHTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + D/2) of x by the angle whose cosine and sine are given."""
    first, second = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos + torch.cat((-second, first), dim=-1) * sin


class HeadNorm(nn.RMSNorm):
    """RMSNorm of each head, in the precision of its weights: torch has no kernel for mixed ones."""

    def forward(self, x_BHTD: Tensor) -> Tensor:
        return super().forward(x_BHTD.to(self.weight.dtype))


class RotaryAttention(nn.Module):
    """Causal grouped-query attention with rotary positions: (B, T, C) -> (B, T, C).

    The rows of `qkv_proj` are H heads of queries, G of keys, G of values.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        n_kv_head: int,
        head_size: int,
        window: int | None,
        qkv_bias: bool,
        qk_norm: bool,
        norm_eps: float,
        dropout: float,
        layer: int,
    ):
        super().__init__()
        self.n_head, self.n_kv_head, self.head_size = n_head, n_kv_head, head_size
        self.window, self.layer = window, layer
        self.attn_dropout, self.attn_path = dropout, "auto"
        self.qkv_proj = Linear(n_embd, (n_head + 2 * n_kv_head) * head_size, bias=qkv_bias)
        self.q_norm, self.k_norm = (
            HeadNorm(head_size, norm_eps) if qk_norm else nn.Identity() for _ in ("queries", "keys")
        )
        self.o_proj = Linear(n_head * head_size, n_embd, bias=False)

    def forward(self, x_BTC: Tensor, turning: tuple[Tensor, Tensor], cache: KVCache | None) -> Tensor:
        B, T, _ = x_BTC.shape
        H, G = self.n_head, self.n_kv_head
        heads_BNTD = self.qkv_proj(x_BTC).view(B, T, H + 2 * G, self.head_size).transpose(1, 2)
        q_BHTD, k_BGTD, v_BGTD = heads_BNTD.split((H, G, G), dim=1)
        q_BHTD, k_BGTD = turn(self.q_norm(q_BHTD), *turning), turn(self.k_norm(k_BGTD), *turning)
        dropout = self.attn_dropout if self.training else 0.0
        y_BHTD = attend(q_BHTD, k_BGTD, v_BGTD, cache, self.layer, self.window, dropout, self.attn_path)
        return self.o_proj(y_BHTD.transpose(1, 2).reshape(B, T, H * self.head_size))


class SwiGLU(nn.Module):
    """silu(gate(x)) * up(x), projected down (Shazeer 2020): (B, T, C) -> (B, T, C)."""

    def __init__(self, n_embd: int, n_inner: int):
        super().__init__()
        self.gate_up_proj = Linear(n_embd, 2 * n_inner, bias=False)
        self.down_proj = Linear(n_inner, n_embd, bias=False)

    def forward(self, x_BTC: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x_BTC).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class LlamaBlock(nn.Module):
    """Attention, then MLP, each reading a normed copy of the residual stream: (B, T, C) -> (B, T, C)."""

    def __init__(self, n_embd: int, norm_eps: float, dropout: float, self_attn: RotaryAttention, mlp: SwiGLU):
        super().__init__()
        self.input_layernorm, self.self_attn = nn.RMSNorm(n_embd, norm_eps), self_attn
        self.post_attention_layernorm, self.mlp = nn.RMSNorm(n_embd, norm_eps), mlp
        self.dropout = Dropout(dropout)

    def forward(self, x_BTC: Tensor, turning: tuple[Tensor, Tensor], cache: KVCache | None) -> Tensor:
        x_BTC = x_BTC + self.dropout(self.self_attn(self.input_layernorm(x_BTC), turning, cache))
        return x_BTC + self.dropout(self.mlp(self.post_attention_layernorm(x_BTC)))


class Llama(nn.Module):
    """A decoder-only transformer in the manner of Llama (Touvron et al. 2023).

    Args:
        vocab_size: V.
        block_size: the longest sequence, in tokens.
        n_layer: number of blocks.
        n_head: H, attention heads a block.
        n_embd: C, the width of the residual stream.
        n_kv_head: G, heads of keys and values, which must divide n_head; None is n_head.
        head_size: D; None is n_embd / n_head.
        n_inner: width inside the MLP; None is 8/3 * n_embd, rounded up to a multiple of 64.
        window: how far back a token sees, itself included (Mistral's sliding window); None for all the way.
        qkv_bias: whether queries, keys and values have biases (Qwen2).
        qk_norm: whether queries and keys are normed, each head by itself (Qwen3; Henry et al. 2020).
        rope_base: the rotary positions' base.
        norm_eps: added to a norm's mean square.
        tie_weights: one table for token embeddings and head.
        dropout: probability after the embeddings, on attention weights and at the end of each residual branch.
        ngrams: the longest n-grams that have embeddings of their own, see `NgramEmbedding`; 1 for none.
        ngram_rows: of each of their tables.

    Raises ConfigError for a setting out of range, with its name and what to choose.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        n_kv_head: int | None = None,
        head_size: int | None = None,
        n_inner: int | None = None,
        window: int | None = None,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        rope_base: float = 10000.0,
        norm_eps: float = 1e-5,
        tie_weights: bool = False,
        dropout: float = 0.0,
        ngrams: int = 1,
        ngram_rows: int = 16384,
    ):
        super().__init__()
        n_kv_head = n_head if n_kv_head is None else n_kv_head
        n_inner = default_inner(n_embd) if n_inner is None else n_inner
        require_positive({"vocab_size": vocab_size, "data.block_size": block_size})
        require_layers(n_layer)
        require_positive({"model.n_head": n_head, "model.n_kv_head": n_kv_head, "model.n_embd": n_embd})
        require_positive({"model.ngrams": ngrams})
        head_size = divide("model.n_embd", n_embd, "model.n_head", n_head) if head_size is None else head_size
        require_positive({"model.head_size": head_size, "model.n_inner": n_inner})
        if window is not None:
            require_positive({"model.window": window})
        require_dropout(dropout)
        require_norm_eps(norm_eps)
        divide("model.n_head", n_head, "model.n_kv_head", n_kv_head)
        self.vocab_size, self.block_size = vocab_size, block_size
        self.capabilities = Capabilities(
            cache=CacheShape(n_layer, n_kv_head, head_size),
            attention=True,
            hidden=n_embd,
            head="lm_head.weight",
            beside=True,
            tied=("lm_head.weight", "embed_tokens.weight") if tie_weights else None,
            embedding="embed_tokens.weight",
            positions={
                "rotary.cos": "rotary positions: cosines (rotary.cos)",
                "rotary.sin": "rotary positions: sines (rotary.sin)",
            },
            layers=(("embed_tokens", "ngrams"), *((f"layers.{number}",) for number in range(n_layer))),
            formats=("llama", "mistral", "qwen2", "qwen3", "phi3"),
        )

        def block(layer: int) -> LlamaBlock:
            biases_and_norms = (qkv_bias, qk_norm, norm_eps)
            attn = RotaryAttention(n_embd, n_head, n_kv_head, head_size, window, *biases_and_norms, dropout, layer)
            return LlamaBlock(n_embd, norm_eps, dropout, attn, SwiGLU(n_embd, n_inner))

        self.embed_tokens = nn.Embedding(vocab_size, n_embd)
        self.ngrams = NgramEmbedding(ngrams, ngram_rows, vocab_size, n_embd) if ngrams > 1 else None
        self.rotary = Rotary(block_size, head_size, rope_base)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(map(block, range(n_layer)))
        self.norm = nn.RMSNorm(n_embd, norm_eps)
        self.lm_head = Linear(n_embd, vocab_size, bias=False)
        if tie_weights:
            self.lm_head.weight = self.embed_tokens.weight
        initialise(self)

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each token; see `molino.models` for the cache."""
        return self.head(self.hidden(tokens_BT, cache))

    def hidden(self, tokens_BT: Tensor, cache: KVCache | None = None, beside_BTC: Tensor | None = None) -> Tensor:
        """What the head reads, (B, T, C).

        Args:
            beside_BTC: is added to the embeddings of the tokens.
        """
        turning = self.rotary(token_positions(tokens_BT, cache, self.block_size))
        x_BTC = self.embed_tokens(tokens_BT)
        if self.ngrams is not None:
            x_BTC = x_BTC + self.ngrams(tokens_BT, cache)
        if beside_BTC is not None:
            x_BTC = x_BTC + beside_BTC
        x_BTC = self.dropout(x_BTC)
        for block in self.layers:
            x_BTC = block(x_BTC, turning, cache)
        if cache is not None:
            cache.advance(tokens_BT.shape[1])
        return self.norm(x_BTC)

    def head(self, hidden_BTC: Tensor) -> Tensor:
        """Logits (B, T, V) of what `hidden` returns."""
        return self.lm_head(hidden_BTC)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats over the targets that are not IGNORE_INDEX."""
        return head_loss(self.hidden(tokens_BT), self.lm_head.weight, targets_BT)


def default_inner(n_embd: int) -> int:
    """Return 8/3 * n_embd, rounded up to a multiple of 64: three matrices as large as the two of a 4 * n_embd MLP."""
    return -(-8 * n_embd // (3 * INNER_MULTIPLE)) * INNER_MULTIPLE


def initialise(model: Llama) -> None:
    """Sets every parameter, from torch's global random state.

    weight                                          value
    embed_tokens, lm_head, qkv_proj, gate_up_proj   normal, std 0.02
    o_proj, down_proj                               normal, std 0.02 / sqrt(2 * n_layer)
    ngrams                                          0
    norms                                           1
    biases                                          0

    The factor keeps the variance of the residual stream independent of depth (Radford et al. 2019).
    """
    residual_std = 0.02 / math.sqrt(2 * len(model.layers))
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or name.startswith("ngrams."):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 1:
            nn.init.ones_(parameter)
        else:
            residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            nn.init.normal_(parameter, std=residual_std if residual else 0.02)
