"""The bigram model: the next token depends on the present one and on nothing else.

Its optimum can be had by counting, which makes it the model to test a harness with: the exact loss is known.

Shape suffixes: B batch, T time (tokens), V vocabulary.
"""

from torch import Tensor, nn

from molino.models import next_token_loss, require_positive
from molino.models.cache import CacheShape, KVCache
from molino.models.capabilities import Capabilities


class Bigram(nn.Module):
    """A V x V table of logits: row i holds the scores of the tokens that may follow token i.

    Args:
        vocab_size: V.
        block_size: length of the training blocks. The model itself takes sequences of any length.

    Raises ConfigError for a size below 1.
    """

    def __init__(self, vocab_size: int, block_size: int):
        super().__init__()
        require_positive({"vocab_size": vocab_size, "data.block_size": block_size})
        self.vocab_size = vocab_size
        self.block_size = block_size
        self.capabilities = Capabilities(
            cache=CacheShape(0, 0, 0),  # it remembers nothing
            hidden=vocab_size,
            bigrams="table.weight",
            layers=(("table",),),
        )
        self.table = nn.Embedding(vocab_size, vocab_size)
        initialise(self)

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each token."""
        return self.head(self.hidden(tokens_BT, cache))

    def hidden(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """The row of each token, (B, T, V): for other heads a bag of embeddings."""
        if cache is not None:
            cache.advance(tokens_BT.shape[1])
        return self.table(tokens_BT)

    def head(self, hidden_BTV: Tensor) -> Tensor:
        """Logits (B, T, V): the rows as they are."""
        return hidden_BTV

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats over the targets that are not IGNORE_INDEX."""
        return next_token_loss(self(tokens_BT), targets_BT)


def initialise(model: Bigram) -> None:
    """Sets every weight; the same for every seed.

    weight         value
    table.weight   0

    Zeros are the uniform distribution: the first loss is exactly ln V, and a token never seen in training keeps a
    uniform row. There is no symmetry to break, since each row is a convex problem of its own; random logits (the
    default of an embedding table) would only be noise to unlearn.
    """
    nn.init.zeros_(model.table.weight)
