"""BERT (Devlin et al. 2019): an encoder, in which every token sees all others.

What is notable:
- parameters carry the names of molino's GPT where they are the same (wte, wpe, h.0.attn.c_attn, h.0.mlp.c_fc)
- post-norm blocks and a norm on the embeddings (BERT), or pre-norm blocks with a final norm
- learned positions up to block_size, or rotary ones
- texts of two parts have a second table, of which each token gets the row of its part
- the head for masked tokens is a layer, an activation and a norm before the token table transposed, with a bias

Shape suffixes: B batch, T time (tokens), C channels (n_embd), H heads, D head size, V vocabulary, M tokens with a
target.
"""

from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molino.models import (
    IGNORE_INDEX,
    choose,
    require_dropout,
    require_layers,
    require_norm_eps,
    require_positive,
    token_positions,
)
from molino.models.attention import divide, look
from molino.models.capabilities import Capabilities
from molino.models.dropout import Dropout
from molino.models.gpt import ACTIVATIONS, MLP
from molino.models.linear import Linear
from molino.models.llama import Rotary, turn

INITIAL_STD = 0.02
SEGMENTS = 2
# The tables that tell positions, as they are declared: all layers share those of rotary ones.
TABLES = {
    "learned": {"wpe.weight": "learned positions (wpe.weight)"},
    "rotary": {
        "h.0.attn.rotary.cos": "rotary positions: cosines (h.0.attn.rotary.cos)",
        "h.0.attn.rotary.sin": "rotary positions: sines (h.0.attn.rotary.sin)",
    },
}
POSITIONS, NORMS = {"learned": False, "rotary": True}, {"post": False, "pre": True}
ROPE_BASE = 10_000.0


class SelfAttention(nn.Module):
    """Multi-head attention in which a token sees all tokens that are there: (B, T, C) -> (B, T, C).

    The rows of `c_attn` are queries, keys and values, as in molino's GPT.
    """

    def __init__(self, n_embd: int, n_head: int, dropout: float, rotary: Rotary | None):
        super().__init__()
        self.n_head, self.head_size = n_head, n_embd // n_head
        self.attn_dropout, self.attn_path, self.rotary = dropout, "auto", rotary
        self.c_attn = Linear(n_embd, 3 * n_embd)
        self.c_proj = Linear(n_embd, n_embd)
        self.resid_dropout = Dropout(dropout)

    def forward(self, x_BTC: Tensor, seen_BT: Tensor | None = None) -> Tensor:
        B, T, C = x_BTC.shape
        qkv_BT3HD = self.c_attn(x_BTC).view(B, T, 3, self.n_head, self.head_size)
        q_BHTD, k_BHTD, v_BHTD = qkv_BT3HD.permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary is not None:
            angles = self.rotary(torch.arange(T, device=x_BTC.device))
            q_BHTD, k_BHTD = turn(q_BHTD, *angles).to(v_BHTD.dtype), turn(k_BHTD, *angles).to(v_BHTD.dtype)
        y_BHTD = look(q_BHTD, k_BHTD, v_BHTD, seen_BT, self.attn_dropout if self.training else 0.0, path=self.attn_path)
        return self.resid_dropout(self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, C)))


class Block(nn.Module):
    """Attention, then MLP: each sum is normed (post-norm), or what each reads (pre-norm): (B, T, C) -> (B, T, C)."""

    def __init__(self, attn: SelfAttention, mlp: MLP, new_norm: partial, pre_norm: bool):
        super().__init__()
        self.attn, self.ln_1, self.mlp, self.ln_2, self.pre_norm = attn, new_norm(), mlp, new_norm(), pre_norm

    def forward(self, x_BTC: Tensor, seen_BT: Tensor | None = None) -> Tensor:
        if self.pre_norm:
            x_BTC = x_BTC + self.attn(self.ln_1(x_BTC), seen_BT)
            return x_BTC + self.mlp(self.ln_2(x_BTC))
        x_BTC = self.ln_1(x_BTC + self.attn(x_BTC, seen_BT))
        return self.ln_2(x_BTC + self.mlp(x_BTC))


class BERT(nn.Module):
    """An encoder-only transformer.

    Args:
        vocab_size: V.
        block_size: the longest sequence, in tokens.
        n_layer: number of blocks.
        n_head: attention heads a block; must divide n_embd.
        n_embd: C, the width of the residual stream.
        n_inner: width inside the MLP; None is 4 * n_embd.
        dropout: probability of dropping, after the embeddings, of attention weights, and at the end of each branch.
        positions: "learned" or "rotary".
        norm: "post" (BERT) or "pre".
        activation: as in molino's GPT; also that of the head.
        norm_eps: added to a norm's variance.
        tie_weights: one table for the tokens and the head.

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
        positions: str = "learned",
        norm: str = "post",
        activation: str = "gelu",
        norm_eps: float = 1e-12,
        tie_weights: bool = True,
    ):
        super().__init__()
        n_inner = 4 * n_embd if n_inner is None else n_inner
        require_positive({"vocab_size": vocab_size, "data.block_size": block_size})
        require_layers(n_layer)
        require_positive({"model.n_head": n_head, "model.n_embd": n_embd, "model.n_inner": n_inner})
        require_dropout(dropout)
        require_norm_eps(norm_eps)
        head_size = divide("model.n_embd", n_embd, "model.n_head", n_head)
        is_rotary = choose("model.positions", positions, POSITIONS)
        pre_norm = choose("model.norm", norm, NORMS)
        new_activation = choose("model.activation", activation, ACTIVATIONS)
        self.vocab_size, self.block_size = vocab_size, block_size
        self.capabilities = Capabilities(
            next_token=False,
            both_ways=True,
            segments=True,
            attention=True,
            hidden=n_embd,
            depth=n_layer,
            beside=True,
            tied=("lm_head.weight", "wte.weight") if tie_weights else None,
            embedding="wte.weight",
            positions=TABLES[positions],
            layers=(("wte", "wpe", "wse", "ln_e"), *((f"h.{number}",) for number in range(n_layer))),
            formats=("bert",),
        )
        new_norm = partial(nn.LayerNorm, n_embd, eps=norm_eps)
        rotary = Rotary(block_size, head_size, ROPE_BASE) if is_rotary else None

        def block() -> Block:
            mlp = MLP(n_embd, n_inner, dropout, True, new_activation())
            return Block(SelfAttention(n_embd, n_head, dropout, rotary), mlp, new_norm, pre_norm)

        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = None if is_rotary else nn.Embedding(block_size, n_embd)
        self.wse = nn.Embedding(SEGMENTS, n_embd)
        self.ln_e = new_norm()
        self.drop = Dropout(dropout)
        self.h = nn.ModuleList(block() for _ in range(n_layer))
        self.ln_f = new_norm() if pre_norm else nn.Identity()
        self.transform = nn.Sequential(Linear(n_embd, n_embd), new_activation(), new_norm())
        self.lm_head = Linear(n_embd, vocab_size)
        if tie_weights:
            self.lm_head.weight = self.wte.weight
        self.apply(_initialise)

    def forward(self, tokens_BT: Tensor, seen_BT: Tensor | None = None, segments_BT: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of the token that stands at each place; see `hidden`."""
        return self.head(self.hidden(tokens_BT, seen_BT, segments_BT))

    def hidden(
        self,
        tokens_BT: Tensor,
        seen_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        depth: int | None = None,
        beside_BTC: Tensor | None = None,
    ) -> Tensor:
        """What the heads read, (B, T, C).

        Args:
            seen_BT: which tokens there are, padding aside; None if all of them.
            segments_BT: which part of its text each token is of, 0 or 1; None for all of the first.
            depth: of how many blocks; None for all.
            beside_BTC: what else is known of each token; None for nothing.
        """
        positions_T = token_positions(tokens_BT, None, self.block_size)
        segments_BT = torch.zeros_like(tokens_BT) if segments_BT is None else segments_BT
        x_BTC = self.wte(tokens_BT) + self.wse(segments_BT)
        if beside_BTC is not None:
            x_BTC = x_BTC + beside_BTC
        if self.wpe is not None:
            x_BTC = x_BTC + self.wpe(positions_T)
        x_BTC = self.drop(self.ln_e(x_BTC))
        for block in islice(self.h, depth):
            x_BTC = block(x_BTC, seen_BT)
        return self.ln_f(x_BTC)

    def head(self, hidden_BTC: Tensor) -> Tensor:
        """Logits (..., V) of what `hidden` returns."""
        return self.lm_head(self.transform(hidden_BTC))

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor, seen_BT: Tensor | None = None) -> Tensor:
        """Mean cross entropy in nats over the targets that are not IGNORE_INDEX, 0 where there is none; the head reads
        these alone."""
        hidden_MC = self.hidden(tokens_BT, seen_BT)[targets_BT != IGNORE_INDEX]
        logits_MV = self.head(hidden_MC)
        dtype = torch.promote_types(logits_MV.dtype, torch.float32)
        total = F.cross_entropy(logits_MV.to(dtype), targets_BT[targets_BT != IGNORE_INDEX], reduction="sum")
        return total / max(len(logits_MV), 1)


def _initialise(module: nn.Module) -> None:
    """N(0, 0.02) for matrices and tables, zeros for biases (Devlin et al. 2019), from torch's global random state."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
