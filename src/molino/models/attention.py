"""Attention shared by the transformer families.

Shape suffixes: B batch, T time (new tokens), S time (all tokens so far), C channels (n_embd), H heads of queries,
G heads of keys and values (H, or a divisor of it), D head size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molino.errors import ConfigError
from molino.models.cache import KVCache, see
from molino.models.linear import Linear


class CausalSelfAttention(nn.Module):
    """Multi-head scaled dot-product attention in which a token sees itself and those before it (Vaswani et al. 2017).

    Queries, keys and values come from one fused projection `c_attn`, whose 3C rows are q, k, v in that order (as in
    GPT-2 and in `torch.nn.MultiheadAttention.in_proj_weight`). Sequences padded on the right need no mask: padding
    comes after every real token, and no token looks ahead.

    Args:
        n_embd: C.
        n_head: H, which must divide C (else ConfigError).
        dropout: probability of dropping an attention weight, and an element of the output.
        bias: whether the two projections have biases.
        layer: number of the block, which is its place in a cache.
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float, bias: bool, layer: int = 0):
        super().__init__()
        self.layer, self.n_head = layer, n_head
        self.head_size = divide("model.n_embd", n_embd, "model.n_head", n_head)
        self.attn_dropout = dropout
        self.c_attn = Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = Linear(n_embd, n_embd, bias=bias)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x_BTC: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x_BTC.shape
        qkv_BT3HD = self.c_attn(x_BTC).view(B, T, 3, self.n_head, self.head_size)
        q_BHTD, k_BHTD, v_BHTD = qkv_BT3HD.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.attn_dropout if self.training else 0.0
        y_BHTD = attend(q_BHTD, k_BHTD, v_BHTD, cache, self.layer, dropout=dropout)
        y_BTC = y_BHTD.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y_BTC))


def attend(
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    cache: KVCache | None,
    layer: int,
    window: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Causal scaled dot-product attention of new tokens to themselves and to those in the cache: y_BHTD.

    Head h of the queries reads head h // (H / G) of keys and values (grouped-query attention, Ainslie et al. 2023).

    Args:
        cache: holds the tokens before these and takes up these; None if there are none before.
        layer: whose keys and values of the cache.
        window: how far back a token sees, itself included; None for all the way.
        dropout: probability of dropping a weight.
    """
    B, H, T, D = q_BHTD.shape
    G = k_BGTD.shape[1]
    visible = None
    if cache is not None:
        k_BGTD, v_BGTD = cache.extend(layer, k_BGTD, v_BGTD)
        visible = cache.visible(T, window)
        if visible is None:
            # One new token that sees all: the heads that share a key stand in as its queries, nothing is copied.
            q_BGRD = q_BHTD.reshape(B, G, H // G, D)
            return F.scaled_dot_product_attention(q_BGRD, k_BGTD, v_BGTD, dropout_p=dropout).view(B, H, 1, D)
    elif window is not None and window < T:
        places_T = torch.arange(T, device=q_BHTD.device)
        visible = see(places_T[:, None], places_T, window)
    return F.scaled_dot_product_attention(
        q_BHTD,
        k_BGTD,
        v_BGTD,
        attn_mask=visible,
        dropout_p=dropout,
        is_causal=visible is None,
        enable_gqa=H != G,
    )


def divide(name: str, value: int, by_name: str, by: int) -> int:
    """Return value / by, or raise a ConfigError that names the settings if there is a remainder."""
    if value % by:
        raise ConfigError(f"{name}={value} is not divisible by {by_name}={by}: choose a multiple")
    return value // by
