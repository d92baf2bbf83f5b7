"""The transformer of Vaswani et al. 2017: an encoder reads a source, a decoder writes a target and looks at it.

What is notable:
- parameters carry the names of molino's GPT where they are the same (wte, attn.c_attn, mlp.c_fc, lm_head); those of the
  encoder begin with `encoder.`, those of the decoder with `decoder.`
- what the decoder's cross-attention reads of a source, its keys and values, is computed once (`remember`)
- post-norm blocks (2017), or pre-norm blocks with a norm behind each stack
- sinusoidal or learned positions, of the source and of the target
- one token table for sources and targets, or two where their vocabularies differ; the head is the table of the targets
  transposed where weights are tied

Shape suffixes: B batch, S time (tokens of the source), T time (tokens of the target), C channels (n_embd), H heads,
D head size, V vocabulary.
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
from molino.models.attention import CausalSelfAttention, CrossAttention, divide
from molino.models.bert import INITIAL_STD, NORMS, Block, SelfAttention
from molino.models.cache import CacheShape, KVCache
from molino.models.capabilities import Capabilities
from molino.models.dropout import Dropout
from molino.models.gpt import ACTIVATIONS, MLP, SinusoidalPositions
from molino.models.head import head_losses
from molino.models.linear import Linear
from molino.models.memory import Memory

POSITIONS = {
    "sinusoidal": SinusoidalPositions,
    "sinusoidal_halves": partial(SinusoidalPositions, halves=True),
    "learned": nn.Embedding,
}


class DecoderBlock(nn.Module):
    """Attention to what is written, attention to the source, then MLP: each sum is normed (post-norm), or what each
    reads (pre-norm): (B, T, C) -> (B, T, C)."""

    def __init__(self, attn: CausalSelfAttention, cross: CrossAttention, mlp: MLP, new_norm: partial, pre_norm: bool):
        super().__init__()
        self.attn, self.cross, self.mlp, self.pre_norm = attn, cross, mlp, pre_norm
        self.ln_1, self.ln_2, self.ln_3 = new_norm(), new_norm(), new_norm()

    def forward(self, x_BTC: Tensor, memory: Memory, cache: KVCache | None = None) -> Tensor:
        if self.pre_norm:
            x_BTC = x_BTC + self.attn(self.ln_1(x_BTC), cache)
            x_BTC = x_BTC + self.cross(self.ln_2(x_BTC), memory)
            return x_BTC + self.mlp(self.ln_3(x_BTC))
        x_BTC = self.ln_1(x_BTC + self.attn(x_BTC, cache))
        x_BTC = self.ln_2(x_BTC + self.cross(x_BTC, memory))
        return self.ln_3(x_BTC + self.mlp(x_BTC))


class Transformer(nn.Module):
    """An encoder and a decoder.

    Args:
        vocab_size: V, of the targets.
        block_size: the longest source, and the longest target, in tokens.
        n_layer: number of blocks of the encoder, and of the decoder.
        n_head: attention heads a block; must divide n_embd.
        n_embd: C, the width of the residual streams.
        n_inner: width inside the MLPs; None is 4 * n_embd.
        dropout: probability of dropping, after the embeddings, of attention weights, and at the end of each branch.
        positions: "sinusoidal" (2017), "sinusoidal_halves", which has all sines before all cosines (Marian, Pegasus),
            or "learned".
        norm: "post" (2017) or "pre".
        activation: "relu" (2017), "gelu", "gelu_tanh" or "silu".
        tie_weights: one table for the tokens of targets and the head.
        share_tables: one table for the tokens of sources and of targets.
        scale_embeddings: multiply token embeddings by sqrt(n_embd), as in 2017.
        norm_eps: added to a norm's variance.
        source_vocab_size: of the sources, where they have a vocabulary of their own.
        head_bias: whether the head has one.

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
        positions: str = "sinusoidal",
        norm: str = "post",
        activation: str = "relu",
        tie_weights: bool = True,
        share_tables: bool = True,
        scale_embeddings: bool = True,
        norm_eps: float = 1e-5,
        source_vocab_size: int | None = None,
        head_bias: bool = False,
    ):
        super().__init__()
        n_inner = 4 * n_embd if n_inner is None else n_inner
        require_positive({"vocab_size": vocab_size, "data.block_size": block_size})
        require_layers(n_layer)
        require_positive({"model.n_head": n_head, "model.n_embd": n_embd, "model.n_inner": n_inner})
        require_dropout(dropout)
        require_norm_eps(norm_eps)
        head_size = divide("model.n_embd", n_embd, "model.n_head", n_head)
        # Sinusoids are the same for sources and targets.
        tables = ("encoder.wpe.weight", "decoder.wpe.weight") if positions == "learned" else ("decoder.wpe.table",)
        new_positions = choose("model.positions", positions, POSITIONS)
        pre_norm = choose("model.norm", norm, NORMS)
        new_activation = choose("model.activation", activation, ACTIVATIONS)
        if source_vocab_size is not None and share_tables:
            raise ConfigError("sources have a vocabulary of their own: add model.share_tables=false")
        self.vocab_size, self.block_size = vocab_size, block_size
        self.capabilities = Capabilities(
            next_token=False,
            source=True,
            cache=CacheShape(n_layer, n_head, head_size),
            attention=True,
            hidden=n_embd,
            head=None if head_bias else "lm_head.weight",
            tied=("lm_head.weight", "decoder.wte.weight") if tie_weights else None,
            embedding="decoder.wte.weight",
            positions={name: f"{positions} positions ({name})" for name in tables},
            layers=(
                ("encoder.wte", "encoder.wpe"),
                *((f"encoder.h.{number}",) for number in range(n_layer)),
                ("decoder.wte", "decoder.wpe"),
                *((f"decoder.h.{number}",) for number in range(n_layer)),
            ),
            formats=("marian", "pegasus"),
        )
        new_norm = partial(nn.LayerNorm, n_embd, eps=norm_eps)
        scale = math.sqrt(n_embd) if scale_embeddings else 1.0

        def stack(size: int, blocks: list[nn.Module]) -> Stack:
            last = new_norm() if pre_norm else nn.Identity()
            return Stack(nn.Embedding(size, n_embd), new_positions(block_size, n_embd), scale, dropout, blocks, last)

        def new_mlp() -> MLP:
            return MLP(n_embd, n_inner, dropout, True, new_activation())

        def encoder_block() -> Block:
            return Block(SelfAttention(n_embd, n_head, dropout, None), new_mlp(), new_norm, pre_norm)

        def decoder_block(layer: int) -> DecoderBlock:
            attn = CausalSelfAttention(n_embd, n_head, dropout, True, layer)
            return DecoderBlock(attn, CrossAttention(n_embd, n_head, dropout, layer), new_mlp(), new_norm, pre_norm)

        self.encoder = stack(source_vocab_size or vocab_size, [encoder_block() for _ in range(n_layer)])
        self.decoder = stack(vocab_size, [decoder_block(layer) for layer in range(n_layer)])
        self.lm_head = Linear(n_embd, vocab_size, bias=head_bias)
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
        positions_S = token_positions(source_BS, None, self.block_size)
        x_BSC = self.encoder.embed(source_BS, positions_S)
        for block in self.encoder.h:
            x_BSC = block(x_BSC, seen_BS)
        return self.encoder.ln_f(x_BSC)

    def remember(self, source_BSC: Tensor, seen_BS: Tensor | None = None) -> Memory:
        """Keys and values of what `encode` returns, for each layer of the decoder."""
        pairs = [block.cross.remember(source_BSC) for block in self.decoder.h]
        return Memory(*zip(*pairs, strict=True), seen_BS)

    def decode(self, tokens_BT: Tensor, memory: Memory, cache: KVCache | None = None) -> Tensor:
        """What the head reads of the targets, (B, T, C)."""
        positions_T = token_positions(tokens_BT, cache, self.block_size)
        x_BTC = self.decoder.embed(tokens_BT, positions_T)
        for block in self.decoder.h:
            x_BTC = block(x_BTC, memory, cache)
        if cache is not None:
            cache.advance(tokens_BT.shape[1])
        return self.decoder.ln_f(x_BTC)

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
        weight_VC = self.lm_head.weight
        if self.lm_head.bias is not None:
            # A bias is the weight of a channel that is always 1.
            hidden_BTC = torch.cat([hidden_BTC, hidden_BTC.new_ones(*tokens_BT.shape, 1)], dim=-1)
            weight_VC = torch.cat([weight_VC, self.lm_head.bias[:, None]], dim=-1)
        return head_losses(hidden_BTC, weight_VC, targets_BT, smoothing)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor, source_BS: Tensor, seen_BS: Tensor | None = None) -> Tensor:
        """Mean cross entropy in nats over the targets that are not IGNORE_INDEX."""
        return self.losses(tokens_BT, targets_BT, source_BS, seen_BS)[0]


class Stack(nn.Module):
    """A table of tokens, positions, blocks and a last norm: half of a transformer."""

    def __init__(
        self, wte: nn.Embedding, wpe: nn.Module, scale: float, dropout: float, blocks: list[nn.Module], ln_f: nn.Module
    ):
        super().__init__()
        self.wte, self.wpe, self.scale, self.drop = wte, wpe, scale, Dropout(dropout)
        self.h, self.ln_f = nn.ModuleList(blocks), ln_f

    def embed(self, tokens_BT: Tensor, positions_T: Tensor) -> Tensor:
        """What the first block reads, (B, T, C)."""
        return self.drop(self.wte(tokens_BT) * self.scale + self.wpe(positions_T))


def initialise(model: Transformer) -> None:
    """Sets every parameter, from torch's global random state.

    Matrices are uniform in +-sqrt(6 / (rows + columns)) (Glorot and Bengio 2010), fused ones as one matrix; tables are
    N(0, 1/C) where embeddings are scaled, which makes them as large as sinusoids are, else N(0, 0.02^2), as learned
    positions always are; biases are 0, weights of norms 1, and a head of its own is N(0, 1/C).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not model.lm_head:
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for stack in (model.encoder, model.decoder):
        nn.init.normal_(stack.wte.weight, std=1 / stack.scale if stack.scale != 1 else INITIAL_STD)
        if isinstance(stack.wpe, nn.Embedding):
            nn.init.normal_(stack.wpe.weight, std=INITIAL_STD)
    if model.lm_head.bias is not None:
        nn.init.zeros_(model.lm_head.bias)
    if model.lm_head.weight is not model.decoder.wte.weight:
        nn.init.normal_(model.lm_head.weight, std=model.lm_head.in_features**-0.5)
