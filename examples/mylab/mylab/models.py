"""Two models: one with no more than it must have, and one with all that molino asks for.

Shape suffixes: B batch, T time (tokens), C channels, V vocabulary.
"""

from torch import Tensor, nn

from molino.models import next_token_loss, token_positions
from molino.models.attention import CausalSelfAttention
from molino.models.cache import CacheShape, KVCache
from molino.models.capabilities import Capabilities


class GRU(nn.Module):
    """Gated recurrent units (Cho et al. 2014): it reads texts of any length, so it names no block_size.

    Args:
        vocab_size: V; molino passes it, it is no setting.
        n_embd: C.
        n_layer: layers of units.
    """

    def __init__(self, vocab_size: int, n_embd: int = 128, n_layer: int = 1):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.rnn = nn.GRU(n_embd, n_embd, n_layer, batch_first=True)
        self.lm_head = nn.Linear(n_embd, vocab_size)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each token."""
        return self.lm_head(self.rnn(self.wte(tokens_BT))[0])

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats over the targets that count."""
        return next_token_loss(self(tokens_BT), targets_BT)


class Parallel(nn.Module):
    """A transformer whose blocks attend and compute side by side, as in GPT-J (Wang and Komatsuzaki 2021).

    It uses molino's attention, and so it can sample with a KV cache and molino explain shows what it looks at.

    Args:
        vocab_size: V; molino passes it.
        block_size: the longest text it reads.
        n_layer, n_head, n_embd: as in molino's GPT.
    """

    def __init__(self, vocab_size: int, block_size: int, n_layer: int = 2, n_head: int = 4, n_embd: int = 128):
        super().__init__()
        self.block_size = block_size
        self.capabilities = Capabilities(
            cache=CacheShape(n_layer, n_head, n_embd // n_head),
            attention=True,
            hidden=n_embd,
            embedding="wte.weight",
            positions={"wpe.weight": "learned positions"},
        )
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.blocks = nn.ModuleList(Block(n_embd, n_head, layer) for layer in range(n_layer))
        self.norm = nn.LayerNorm(n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        for table in (self.wte, self.wpe):
            nn.init.normal_(table.weight, std=0.02)

    def hidden(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """What the head reads, (B, T, C)."""
        x_BTC = self.wte(tokens_BT) + self.wpe(token_positions(tokens_BT, cache, self.block_size))
        for block in self.blocks:
            x_BTC = block(x_BTC, cache)
        if cache is not None:
            cache.advance(tokens_BT.shape[1])
        return self.norm(x_BTC)

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each token."""
        return self.head(self.hidden(tokens_BT, cache))

    def head(self, hidden_BTC: Tensor) -> Tensor:
        """Logits (B, T, V) of what `hidden` returns."""
        return self.lm_head(hidden_BTC)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats over the targets that count."""
        return next_token_loss(self(tokens_BT), targets_BT)


class Block(nn.Module):
    """Attention and MLP of the same normed input, added at once: (B, T, C) -> (B, T, C)."""

    def __init__(self, n_embd: int, n_head: int, layer: int):
        super().__init__()
        self.norm = nn.LayerNorm(n_embd)
        self.attn = CausalSelfAttention(n_embd, n_head, dropout=0.0, bias=True, layer=layer)
        self.mlp = nn.Sequential(nn.Linear(n_embd, 4 * n_embd), nn.GELU(), nn.Linear(4 * n_embd, n_embd))

    def forward(self, x_BTC: Tensor, cache: KVCache | None = None) -> Tensor:
        y_BTC = self.norm(x_BTC)
        return x_BTC + self.attn(y_BTC, cache) + self.mlp(y_BTC)
