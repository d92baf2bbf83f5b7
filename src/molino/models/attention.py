"""Attention shared by the transformer families.

Shape suffixes: B batch, T time (tokens), C channels (n_embd), H heads, D head size (C / H).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from molino.errors import ConfigError


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
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float, bias: bool):
        super().__init__()
        if n_embd % n_head:
            raise ConfigError(f"model.n_embd={n_embd} is not divisible by model.n_head={n_head}: choose a multiple")
        self.n_head = n_head
        self.attn_dropout = dropout
        self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = nn.Linear(n_embd, n_embd, bias=bias)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x_BTC.shape
        qkv_BT3HD = self.c_attn(x_BTC).view(B, T, 3, self.n_head, C // self.n_head)
        q_BHTD, k_BHTD, v_BHTD = qkv_BT3HD.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.attn_dropout if self.training else 0.0
        y_BHTD = F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, dropout_p=dropout, is_causal=True)
        y_BTC = y_BHTD.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y_BTC))
