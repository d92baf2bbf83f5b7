"""Attention shared by the transformer families.

Shape suffixes: B batch, T time (new tokens), S time (all tokens so far), C channels (n_embd), H heads of queries,
G heads of keys and values (H, or a divisor of it), D head size.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.models import compute_dtype
from molino.models.cache import KVCache, see
from molino.models.dropout import Dropout, drop
from molino.models.linear import Linear
from molino.models.memory import Memory

# How training computes attention: by torch's fused kernel, or by products of whole matrices.
PATHS = ("auto", "fused", "products")
# Up to so many tokens, products in bfloat16 are two to three times as fast as the fused kernel on CPUs.
LONGEST_FOR_PRODUCTS = 512


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
        self.attn_dropout, self.attn_path = dropout, "auto"
        self.c_attn = Linear(n_embd, 3 * n_embd, bias=bias)
        self.c_proj = Linear(n_embd, n_embd, bias=bias)
        self.resid_dropout = Dropout(dropout)

    def forward(self, x_BTC: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        B, T, C = x_BTC.shape
        qkv_BT3HD = self.c_attn(x_BTC).view(B, T, 3, self.n_head, self.head_size)
        q_BHTD, k_BHTD, v_BHTD = qkv_BT3HD.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.attn_dropout if self.training else 0.0
        y_BHTD = attend(q_BHTD, k_BHTD, v_BHTD, cache, self.layer, dropout=dropout, path=self.attn_path)
        y_BTC = y_BHTD.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y_BTC))


class CrossAttention(nn.Module):
    """Multi-head attention of what is written to a source: (B, T, C) -> (B, T, C).

    The rows of `c_kv` are keys and values; its input is what an encoder makes of the source. Several rows that follow
    each other may be about one source.

    Args:
        layer: number of the block, which is its place in a memory.
        head_size: D; None is C / H.
        bias: whether the projections have biases.
        scale: what scores are multiplied by; None is D^-0.5.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        dropout: float,
        layer: int,
        head_size: int | None = None,
        bias: bool = True,
        scale: float | None = None,
    ):
        super().__init__()
        self.layer, self.n_head, self.scale = layer, n_head, scale
        self.head_size = n_embd // n_head if head_size is None else head_size
        self.attn_dropout, self.attn_path = dropout, "auto"
        inner = n_head * self.head_size
        self.c_q = Linear(n_embd, inner, bias=bias)
        self.c_kv = Linear(n_embd, 2 * inner, bias=bias)
        self.c_proj = Linear(inner, n_embd, bias=bias)
        self.resid_dropout = Dropout(dropout)

    def remember(self, source_BSC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a source, each (B, H, S, D)."""
        B, S, _ = source_BSC.shape
        kv_BS2HD = self.c_kv(source_BSC).view(B, S, 2, self.n_head, self.head_size)
        return kv_BS2HD.permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x_BTC: Tensor, memory: Memory) -> Tensor:
        B, T, _ = x_BTC.shape
        # Where rows share a source their queries are more queries of one row, and no key is copied.
        N = len(memory.keys[self.layer])
        q_BHTD = self.c_q(x_BTC).view(N, -1, self.n_head, self.head_size).transpose(1, 2)
        k_BHSD, v_BHSD = memory.keys[self.layer], memory.values[self.layer]
        dropout = self.attn_dropout if self.training else 0.0
        y_BHTD = look(q_BHTD, k_BHSD, v_BHSD, memory.seen_BS, dropout, path=self.attn_path, scale=self.scale)
        return self.resid_dropout(self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, -1)))


def attend(
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    cache: KVCache | None,
    layer: int,
    window: int | None = None,
    dropout: float = 0.0,
    path: str = "auto",
    bias_BHTS: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Scaled dot-product attention of new tokens to themselves and to those in the cache: y_BHTD.

    It is causal, unless a bias says what is seen.

    Head h of the queries reads head h // (H / G) of keys and values (grouped-query attention, Ainslie et al. 2023).

    Args:
        cache: holds the tokens before these and takes up these; None if there are none before.
        layer: whose keys and values of the cache.
        window: how far back a token sees, itself included; None for all the way.
        dropout: probability of dropping a weight.
        path: one of PATHS; see `faster_path`. Without gradients it is always the fused kernel.
        bias_BHTS: is added to the scores, as it broadcasts to (B, H, T, S), and is -inf where nothing is seen: neither
            causality nor `window` count beside it, so that who makes it for all layers hides once for all. None for no
            bias.
        scale: what scores are multiplied by; None is D^-0.5.
    """
    B, H, T, D = q_BHTD.shape
    G, visible = k_BGTD.shape[1], bias_BHTS
    if cache is not None:
        k_BGTD, v_BGTD = cache.extend(layer, k_BGTD, v_BGTD)
        if bias_BHTS is None and (visible := cache.visible(T, window)) is None:
            # One new token that sees all: the heads that share a key stand in as its queries, nothing is copied.
            q_BGRD, told = q_BHTD.reshape(B, G, H // G, D), {"dropout_p": dropout, "scale": scale}
            return F.scaled_dot_product_attention(q_BGRD, k_BGTD, v_BGTD, **told).reshape(B, H, 1, D)
    elif bias_BHTS is None and window is not None and window < T:
        places_T = torch.arange(T, device=q_BHTD.device)
        visible = see(places_T[:, None], places_T, window)
    if q_BHTD.requires_grad and cache is None:
        path = faster_path(q_BHTD.device, compute_dtype(q_BHTD), T, dropout) if path == "auto" else path
        if path == "products":
            if bias_BHTS is not None:
                return _products(q_BHTD, k_BGTD, v_BGTD, None, dropout, bias_BHTS, scale)
            if visible is None:
                visible = torch.ones(T, T, dtype=torch.bool, device=q_BHTD.device).tril()
            return _products(q_BHTD, k_BGTD, v_BGTD, ~visible.repeat(H // G, 1), dropout, scale=scale)
    return F.scaled_dot_product_attention(
        q_BHTD,
        k_BGTD,
        v_BGTD,
        attn_mask=visible,
        dropout_p=dropout,
        is_causal=visible is None,
        scale=scale,
        enable_gqa=H != G,
    )


def look(
    q_BHTD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    seen_BS: Tensor | None,
    dropout: float = 0.0,
    path: str = "auto",
    scale: float | None = None,
) -> Tensor:
    """Scaled dot-product attention to all that is seen, before and after: y_BHTD.

    Args:
        seen_BS: which keys there are, padding aside; None if all of them.
        dropout: probability of dropping a weight.
        path: one of PATHS, as in `attend`.
        scale: what scores are multiplied by; None is D^-0.5.
    """
    if q_BHTD.requires_grad:
        longest = max(q_BHTD.shape[2], k_BHSD.shape[2])
        path = faster_path(q_BHTD.device, compute_dtype(q_BHTD), longest, dropout) if path == "auto" else path
        if path == "products":
            hidden = None if seen_BS is None else ~seen_BS[:, None].repeat_interleave(q_BHTD.shape[1], 0)
            return _products(q_BHTD, k_BHSD, v_BHSD, hidden, dropout, scale=scale)
    visible = None if seen_BS is None else seen_BS[:, None, None]
    return F.scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, attn_mask=visible, dropout_p=dropout, scale=scale)


def faster_path(device: torch.device, dtype: torch.dtype, tokens: int, dropout: float) -> str:
    """Return the faster of PATHS to train with, as measured (docs/speed.md).

    On CPUs the fused kernel knows no dropout (with some torch computes products, of float32, anyhow), and its backward
    pass in bfloat16 takes up to ten times that of float32. Elsewhere it is the faster one throughout.
    """
    if device.type != "cpu":
        return "fused"
    short_and_low = dtype == torch.bfloat16 and tokens <= LONGEST_FOR_PRODUCTS
    return "products" if dropout or short_and_low else "fused"


def choose_path(model: nn.Module, path: str) -> None:
    """Have all attention of `model` trained by one of PATHS."""
    for module in model.modules():
        if hasattr(module, "attn_path"):
            module.attn_path = path


def _products(
    q_BHTD: Tensor,
    k_BGSD: Tensor,
    v_BGSD: Tensor,
    hidden_MRS: Tensor | None,
    dropout: float,
    bias_BHTS: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Attention by products: the scores of all pairs of tokens, their softmax, and weighted sums: y_BHTD.

    Heads that share a key are rows of one matrix, so that no key is copied.

    Args:
        hidden_MRS: what is not seen, as it broadcasts to (B * G, H / G * T, S); None if all is, or a bias says it.
        bias_BHTS, scale: as in `attend`.
    """
    B, H, T, D = q_BHTD.shape
    G, dtype = k_BGSD.shape[1], compute_dtype(q_BHTD)
    scale = D**-0.5 if scale is None else scale
    q, k, v = (x.to(dtype).reshape(B * G, -1, D) for x in (q_BHTD, k_BGSD, v_BGSD))
    if hidden_MRS is not None:
        below = torch.zeros(hidden_MRS.shape, dtype=dtype, device=q.device).masked_fill(hidden_MRS, -torch.inf)
        scores = torch.baddbmm(below, q, k.transpose(1, 2), alpha=scale)
    else:
        scores = torch.bmm(q if scale == 1 else q * scale, k.transpose(1, 2))
    if bias_BHTS is not None:
        scores = scores.view(B, H, T, -1).add_(bias_BHTS).view(scores.shape)
    weights = drop(torch.softmax(scores, dim=-1).to(dtype), dropout)
    return torch.bmm(weights, v).view(B, H, T, D)


def divide(name: str, value: int, by_name: str, by: int) -> int:
    """Return value / by, or raise a ConfigError that names the settings if there is a remainder."""
    if value % by:
        raise ConfigError(f"{name}={value} is not divisible by {by_name}={by}: choose a multiple")
    return value // by
