"""The n-gram model: what comes next depends on the few tokens before, by counts with modified Kneser-Ney smoothing.

It is trained by counting, in a second, and is as good as counting gets: what a network has to be better than. How the
counts are smoothed is in smoothing.py, how they are looked up in tables.py.

Shape suffixes: B batch, T time (tokens), R tokens before a window, V vocabulary.
"""

from torch import Tensor, nn

from molino.base.errors import ConfigError
from molino.models import next_token_loss, require_positive
from molino.models.cache import CacheShape, KVCache
from molino.models.capabilities import Capabilities
from molino.models.counting import LONGEST
from molino.models.tables import Tables


class KneserNey(nn.Module):
    """Distributions that are looked up in `tables`, which whoever trains or loads the model gives it. No parameters.

    Args:
        vocab_size: V.
        block_size: length of the blocks it is evaluated in. The model itself takes sequences of any length, and reads
            order - 1 tokens before a block.
        order: of the longest n-grams, in tokens; None for the best one on the last tenth of the training split.

    Raises ConfigError for a setting out of range.
    """

    tables: Tables | None = None

    def __init__(self, vocab_size: int, block_size: int, order: int | None = None):
        super().__init__()
        require_positive({"vocab_size": vocab_size, "data.block_size": block_size})
        if order is not None:
            require_positive({"model.order": order})
            if order > LONGEST:
                raise ConfigError(f"model.order={order} is too large: choose {LONGEST} or less")
        self.vocab_size, self.block_size, self.order = vocab_size, block_size, order
        self.capabilities = Capabilities(cache=CacheShape(0, 0, 0), counts=True)

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None, before_BR: Tensor | None = None) -> Tensor:
        """Log-probabilities (B, T, V) of the token after each token."""
        self.tables = self.tables.to(tokens_BT.device)
        log_p_BTV = self.tables.read(tokens_BT, cache, before_BR)
        if cache is not None:
            cache.advance(tokens_BT.shape[1])
        return log_p_BTV

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats over the targets that are not IGNORE_INDEX."""
        return next_token_loss(self(tokens_BT), targets_BT)
