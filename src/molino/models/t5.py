"""T5 (Raffel et al. 2020): an encoder and a decoder that know where tokens stand by how far apart they are.

What is notable:
- nothing is added to the embeddings: to the score of each pair of tokens a number is added that depends on the head and
  on the distance, looked up in one table a stack, which all its blocks share; attention to the source has none
- scores are not divided by sqrt(D): the initial queries are small instead
- RMSNorm before each branch and behind each stack, no biases anywhere
- an MLP of two layers (T5 1.0), or one gated by a further product (1.1; Shazeer 2020)
- where the head is the token table transposed, what it reads is divided by sqrt(C) (1.0)
- dropout where T5 has it: after the embeddings, on attention weights, inside the MLP, at the end of each branch, and
  behind each stack
- parameters carry the names of molino's Transformer where they are the same

Shape suffixes: B batch, S time (tokens of the source, or all tokens so far), T time (tokens of the target), C channels
(n_embd), H heads, D head size, V vocabulary.
"""

from functools import partial

import torch
from torch import Tensor, nn

from molino.models import (
    choose,
    compute_dtype,
    require_dropout,
    require_layers,
    require_norm_eps,
    require_positive,
    token_positions,
)
from molino.models.attention import CrossAttention, attend
from molino.models.cache import CacheShape, KVCache, see
from molino.models.capabilities import Capabilities
from molino.models.dropout import Dropout
from molino.models.gpt import ACTIVATIONS
from molino.models.head import head_losses
from molino.models.linear import Linear
from molino.models.llama import default_inner
from molino.models.memory import Memory
from molino.models.relative import RelativePositions


class SelfAttention(nn.Module):
    """Multi-head attention of a text to itself, without biases and scale: (B, T, C) -> (B, T, C).

    The rows of `c_attn` are queries, keys and values of H heads of size D. What is seen is said by the bias alone.
    """

    def __init__(self, n_embd: int, n_head: int, head_size: int, dropout: float, layer: int):
        super().__init__()
        self.layer, self.n_head, self.head_size = layer, n_head, head_size
        self.attn_dropout, self.attn_path = dropout, "auto"
        self.c_attn = Linear(n_embd, 3 * n_head * head_size, bias=False)
        self.c_proj = Linear(n_head * head_size, n_embd, bias=False)
        self.resid_dropout = Dropout(dropout)

    def forward(self, x_BTC: Tensor, bias_BHTS: Tensor, cache: KVCache | None = None) -> Tensor:
        B, T, _ = x_BTC.shape
        qkv_BT3HD = self.c_attn(x_BTC).view(B, T, 3, self.n_head, self.head_size)
        q_BHTD, k_BHTD, v_BHTD = qkv_BT3HD.permute(2, 0, 3, 1, 4).unbind(0)
        told = {"dropout": self.attn_dropout if self.training else 0.0, "path": self.attn_path}
        y_BHTD = attend(q_BHTD, k_BHTD, v_BHTD, cache, self.layer, **told, bias_BHTS=bias_BHTS, scale=1.0)
        return self.resid_dropout(self.c_proj(y_BHTD.transpose(1, 2).reshape(B, T, -1)))


class FeedForward(nn.Module):
    """Two linear layers with an activation between them: (B, T, C) -> (B, T, C).

    Where it is gated, `gate_up_proj` is in place of the first: half of its rows goes through the activation and
    multiplies the other.
    """

    def __init__(self, n_embd: int, n_inner: int, gated: bool, activation: nn.Module, dropout: float):
        super().__init__()
        self.gated, self.activation = gated, activation
        if gated:
            self.gate_up_proj = Linear(n_embd, 2 * n_inner, bias=False)
        else:
            self.c_fc = Linear(n_embd, n_inner, bias=False)
        self.inner_dropout = Dropout(dropout)
        self.c_proj = Linear(n_inner, n_embd, bias=False)
        self.resid_dropout = Dropout(dropout)

    def forward(self, x_BTC: Tensor) -> Tensor:
        if self.gated:
            gate, up = self.gate_up_proj(x_BTC).chunk(2, dim=-1)
            inner = self.activation(gate) * up
        else:
            inner = self.activation(self.c_fc(x_BTC))
        return self.resid_dropout(self.c_proj(self.inner_dropout(inner)))


class EncoderBlock(nn.Module):
    """Attention, then MLP, each reading a normed copy of the residual stream: (B, S, C) -> (B, S, C)."""

    def __init__(self, attn: SelfAttention, mlp: FeedForward, new_norm: partial):
        super().__init__()
        self.attn, self.mlp, self.ln_1, self.ln_2 = attn, mlp, new_norm(), new_norm()

    def forward(self, x_BSC: Tensor, bias_BHSS: Tensor) -> Tensor:
        x_BSC = x_BSC + self.attn(self.ln_1(x_BSC), bias_BHSS)
        return x_BSC + self.mlp(self.ln_2(x_BSC))


class DecoderBlock(nn.Module):
    """Attention to what is written, attention to the source, then MLP, each reading a normed copy of the residual
    stream: (B, T, C) -> (B, T, C)."""

    def __init__(self, attn: SelfAttention, cross: CrossAttention, mlp: FeedForward, new_norm: partial):
        super().__init__()
        self.attn, self.cross, self.mlp = attn, cross, mlp
        self.ln_1, self.ln_2, self.ln_3 = new_norm(), new_norm(), new_norm()

    def forward(self, x_BTC: Tensor, bias_BHTS: Tensor, memory: Memory, cache: KVCache | None = None) -> Tensor:
        x_BTC = x_BTC + self.attn(self.ln_1(x_BTC), bias_BHTS, cache)
        x_BTC = x_BTC + self.cross(self.ln_2(x_BTC), memory)
        return x_BTC + self.mlp(self.ln_3(x_BTC))


class Stack(nn.Module):
    """A table of tokens, one of distances, blocks and a last norm: half of a T5."""

    def __init__(
        self, wte: nn.Embedding, relative: RelativePositions, dropout: float, blocks: list[nn.Module], ln_f: nn.Module
    ):
        super().__init__()
        self.wte, self.relative, self.drop = wte, relative, Dropout(dropout)
        self.h, self.ln_f = nn.ModuleList(blocks), ln_f


class T5(nn.Module):
    """An encoder and a decoder with relative positions.

    Args:
        vocab_size: V, of sources and targets.
        block_size: the longest source, and the longest target, in tokens.
        n_layer: number of blocks of the encoder, and of the decoder.
        n_head: H, attention heads a block.
        n_embd: C, the width of the residual streams.
        head_size: D; None is n_embd // n_head. H times D need not be C.
        n_inner: width inside the MLPs; None is 4 * n_embd, or where they are gated 8/3 * n_embd, rounded up to a
            multiple of 64.
        dropout: one probability for all the places named at the top of this file.
        activation: "gelu_tanh" (1.1), "relu" (1.0), "gelu" or "silu".
        gated: whether the MLPs are (1.1).
        tie_weights: one table for the tokens of targets and the head (1.0).
        share_tables: one table for the tokens of sources and of targets.
        buckets: rows of a table of distances.
        max_distance: from here on all distances are one.
        norm_eps: added to a norm's mean square.
        scale_head: divide what the head reads by sqrt(n_embd); None where weights are tied (1.0).

    Raises ConfigError for a setting out of range, with its name and what to choose.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        head_size: int | None = None,
        n_inner: int | None = None,
        dropout: float = 0.0,
        activation: str = "gelu_tanh",
        gated: bool = True,
        tie_weights: bool = True,
        share_tables: bool = True,
        buckets: int = 32,
        max_distance: int = 128,
        norm_eps: float = 1e-6,
        scale_head: bool | None = None,
    ):
        super().__init__()
        require_positive({"vocab_size": vocab_size, "data.block_size": block_size})
        require_layers(n_layer)
        require_positive({"model.n_head": n_head, "model.n_embd": n_embd})
        head_size = n_embd // n_head if head_size is None else head_size
        if n_inner is None:
            n_inner = default_inner(n_embd) if gated else 4 * n_embd
        require_positive({"model.head_size": head_size, "model.n_inner": n_inner})
        require_dropout(dropout)
        require_norm_eps(norm_eps)
        new_activation = choose("model.activation", activation, ACTIVATIONS)
        self.vocab_size, self.block_size = vocab_size, block_size
        self.head_scale = n_embd**-0.5 if (tie_weights if scale_head is None else scale_head) else 1.0
        self.capabilities = Capabilities(
            next_token=False,
            source=True,
            cache=CacheShape(n_layer, n_head, head_size),
            attention=True,
            hidden=n_embd,
            head="lm_head.weight",
            tied=("lm_head.weight", "decoder.wte.weight") if tie_weights else None,
            embedding="decoder.wte.weight",
            relative={f"{name}.relative": name for name in ("encoder", "decoder")},
            layers=tuple(
                group
                for name in ("encoder", "decoder")
                for group in ((f"{name}.wte", f"{name}.relative"), *((f"{name}.h.{at}",) for at in range(n_layer)))
            ),
            formats=("t5",),
        )
        new_norm = partial(nn.RMSNorm, n_embd, norm_eps)

        def block(layer: int, decodes: bool) -> nn.Module:
            attn = SelfAttention(n_embd, n_head, head_size, dropout, layer)
            mlp = FeedForward(n_embd, n_inner, gated, new_activation(), dropout)
            if not decodes:
                return EncoderBlock(attn, mlp, new_norm)
            cross = CrossAttention(n_embd, n_head, dropout, layer, head_size, bias=False, scale=1.0)
            return DecoderBlock(attn, cross, mlp, new_norm)

        def stack(decodes: bool) -> Stack:
            relative = RelativePositions(n_head, buckets, max_distance, both_ways=not decodes)
            blocks = [block(layer, decodes) for layer in range(n_layer)]
            return Stack(nn.Embedding(vocab_size, n_embd), relative, dropout, blocks, new_norm())

        self.encoder, self.decoder = stack(False), stack(True)
        self.lm_head = Linear(n_embd, vocab_size, bias=False)
        if share_tables:
            self.encoder.wte.weight = self.decoder.wte.weight
        if tie_weights:
            self.lm_head.weight = self.decoder.wte.weight
        initialise(self)

    def forward(self, tokens_BT: Tensor, source_BS: Tensor, seen_BS: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each token of the targets.

        Args:
            seen_BS: which tokens of the sources there are, padding aside; None if all of them.
        """
        return self.head(self.decode(tokens_BT, self.remember(self.encode(source_BS, seen_BS), seen_BS)))

    def encode(self, source_BS: Tensor, seen_BS: Tensor | None = None) -> Tensor:
        """What the decoder looks at of sources, (B, S, C)."""
        stack, places_S = self.encoder, token_positions(source_BS, None, self.block_size)
        x_BSC = stack.drop(stack.wte(source_BS))
        visible = None if seen_BS is None else seen_BS[:, None, None]
        bias_BHSS = stack.relative(places_S, places_S, visible, compute_dtype(x_BSC))
        for block in stack.h:
            x_BSC = block(x_BSC, bias_BHSS)
        return stack.drop(stack.ln_f(x_BSC))

    def remember(self, source_BSC: Tensor, seen_BS: Tensor | None = None) -> Memory:
        """Keys and values of what `encode` returns, for each layer of the decoder."""
        pairs = [block.cross.remember(source_BSC) for block in self.decoder.h]
        return Memory(*zip(*pairs, strict=True), seen_BS)

    def decode(self, tokens_BT: Tensor, memory: Memory, cache: KVCache | None = None) -> Tensor:
        """What the head reads of the targets, (B, T, C): already divided by sqrt(C) where weights are tied."""
        stack, T = self.decoder, tokens_BT.shape[1]
        places_T = token_positions(tokens_BT, cache, self.block_size)
        x_BTC = stack.drop(stack.wte(tokens_BT))
        if cache is None:
            places_S, visible = places_T, see(places_T[:, None], places_T, None)
        else:
            places_S, visible = torch.arange(cache.length + T, device=x_BTC.device), cache.visible(T, None)
        bias_BHTS = stack.relative(places_T, places_S, visible, compute_dtype(x_BTC))
        for block in stack.h:
            x_BTC = block(x_BTC, bias_BHTS, memory, cache)
        if cache is not None:
            cache.advance(T)
        return stack.drop(stack.ln_f(x_BTC)) * self.head_scale

    def hidden(self, tokens_BT: Tensor, seen_BT: Tensor | None = None) -> Tensor:
        """What further heads read of texts that the encoder reads and the decoder repeats (Lewis et al. 2020), (B, T,
        C)."""
        return self.decode(tokens_BT, self.remember(self.encode(tokens_BT, seen_BT), seen_BT))

    def head(self, hidden_BTC: Tensor) -> Tensor:
        """Logits (B, T, V) of what `decode` returns."""
        return self.lm_head(hidden_BTC)

    def losses(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        source_BS: Tensor,
        seen_BS: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """The smoothed loss and the loss itself, see `molino.models.head.head_losses`."""
        hidden_BTC = self.decode(tokens_BT, self.remember(self.encode(source_BS, seen_BS), seen_BS))
        return head_losses(hidden_BTC, self.lm_head.weight, targets_BT, smoothing)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor, source_BS: Tensor, seen_BS: Tensor | None = None) -> Tensor:
        """Mean cross entropy in nats over the targets that are not IGNORE_INDEX."""
        return self.losses(tokens_BT, targets_BT, source_BS, seen_BS)[0]


def initialise(model: T5) -> None:
    """Sets every parameter, from torch's global random state.

    weight                              value
    tables of tokens                    normal, std 1
    tables of distances                 normal, std C^-0.5
    queries                             normal, std (C D)^-0.5
    keys, values, first of an MLP       normal, std C^-0.5
    last of attention and of an MLP     normal, std (its columns)^-0.5
    norms                               1
    a head of its own                   normal, std C^-0.5

    It is that of T5 (and of `transformers`), but for the head of its own: there its std is 1, which makes the first
    logits sqrt(C) times as large, a loss of tens of nats that a small model would spend its first steps on.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("wte.weight"):
            nn.init.normal_(parameter)
        elif name.endswith("relative.weight"):
            nn.init.normal_(parameter, std=model.lm_head.in_features**-0.5)
        elif parameter.dim() == 1:
            nn.init.ones_(parameter)
        else:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    for module in model.modules():
        if isinstance(module, SelfAttention):
            queries = module.n_head * module.head_size
            nn.init.normal_(module.c_attn.weight[:queries], std=(module.c_attn.in_features * module.head_size) ** -0.5)
        elif isinstance(module, CrossAttention):
            nn.init.normal_(module.c_q.weight, std=(module.c_q.in_features * module.head_size) ** -0.5)
