"""Embeddings of what a token and those before it are together, so that a first layer need not find out.

Shape suffixes: B batch, T time (new tokens), S time (with those before), C channels (n_embd).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.models import require_positive
from molino.models.cache import KVCache

LONGEST = 16  # beyond it hardly an n-gram occurs twice


def _signed(number: int) -> int:
    """Wrap a number around at 2^64, as arithmetic of torch.long does."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


# An odd number near 2^64 divided by the golden ratio: neighbours are spread over all rows.
SPREAD = _signed(0x9E3779B97F4A7C15)


class NgramEmbedding(nn.Module):
    """Adds up a learned vector for each n-gram, n = 2..order, that ends with a token: (B, T) -> (B, T, C).

    An n-gram is a row of its table: by its number where all of them have room, else by a hash of it, and then some
    share a row. Before the beginning of a text stand zeros. The tables begin as zeros.

    Hashed n-grams are fastText's (Bojanowski et al. 2017); as input of a transformer they are in the modded-nanogpt
    speed runs.

    Args:
        order: the longest n-grams, 2 or more.
        rows: of each table, at most.
        vocab_size, n_embd: of the model.

    Raises ConfigError for a setting out of range.
    """

    def __init__(self, order: int, rows: int, vocab_size: int, n_embd: int):
        super().__init__()
        require_positive({"model.ngram_rows": rows})
        if order > LONGEST:
            raise ConfigError(f"model.ngrams={order} is too large: choose {LONGEST} or less")
        self.vocab_size = vocab_size
        self.tables = nn.ModuleList(nn.Embedding(min(rows, vocab_size**n), n_embd) for n in range(2, order + 1))

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        T, before = tokens_BT.shape[1], len(self.tables)
        tokens_BS = F.pad(tokens_BT, (before, 0)) if cache is None else cache.recall(tokens_BT, before)
        number_BT, total_BTC = tokens_BS[:, before:], 0.0
        for back, table in enumerate(self.tables, start=1):
            # As digits of a number of base V, which wraps around at 2^64.
            number_BT = number_BT + tokens_BS[:, before - back : before - back + T] * _signed(self.vocab_size**back)
            rows = table.num_embeddings
            fits = rows == self.vocab_size ** (back + 1)
            total_BTC = total_BTC + table(number_BT if fits else (number_BT * SPREAD >> 20) % rows)
        return total_BTC
