"""A network that stands on counting: it learns what an n-gram model does not know.

Its logits are f(x) + a(x) log p(. | x), where p is the distribution of modified Kneser-Ney smoothing, f the network,
which begins at zero, and a one number a position, which begins at one: at step 0 the loss is that of counting. (Li et
al. 2022, "N-gram is back: residual learning of neural text generation with n-gram language model", without a(x).)

In training, counts must not know the answer: each part of the text is looked up in counts of the other parts.

Shape suffixes: B batch, T time (tokens), R tokens before a window, C channels, V vocabulary.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molino.models import compute_dtype, next_token_loss
from molino.models.cache import KVCache
from molino.models.capabilities import capabilities_of, tensor_of
from molino.models.head import LARGE_VOCABULARY, head_loss, rows_of_a_piece
from molino.models.tables import Tables

UNKNOWN = -30.0  # of tokens that a model has to spare: no text has them
SMALL = 0.1  # makes log-probabilities about as large as what an embedding holds


class Trust(nn.Module):
    """What the log-probabilities of counting are multiplied by, which begins at one: (B, T, C) -> (B, T, 1).

    Args:
        width: C; None for one number that is the same everywhere.
    """

    def __init__(self, width: int | None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width)) if width else None
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden_BTC: Tensor | None = None) -> Tensor:
        if self.weight is None:
            return 1 + self.bias
        # Not a product of matrices, of which autocast would leave three digits.
        return 1 + self.bias + (hidden_BTC * self.weight).sum(-1, keepdim=True)


class Told(nn.Module):
    """What counting says of each token, as something beside its embedding: (B, T, V) -> (B, T, C). It begins at zero.

    Of a small vocabulary all log-probabilities are read by a matrix (V, C); of a large one, in which that would be most
    of the network, the mean of the embeddings that are expected, by one of (C, C).

    Args:
        vocab_size, width: V and C.
    """

    def __init__(self, vocab_size: int, width: int):
        super().__init__()
        self.all_tokens = vocab_size < LARGE_VOCABULARY
        self.matrix = nn.Linear(vocab_size if self.all_tokens else width, width, bias=False)
        nn.init.zeros_(self.matrix.weight)

    def forward(self, log_p_BTV: Tensor, table_VC: Tensor) -> Tensor:
        if self.all_tokens:
            return self.matrix((log_p_BTV * SMALL).to(self.matrix.weight.dtype))
        # The table is read here, and learnt where tokens are.
        dtype, table_VC = compute_dtype(table_VC), table_VC.detach()
        pieces = log_p_BTV.flatten(0, 1).split(rows_of_a_piece(log_p_BTV.device.type, log_p_BTV.shape[-1]))
        expected_NC = torch.cat([log_p_RV.exp().to(dtype) @ table_VC.to(dtype) for log_p_RV in pieces])
        expected_BTC = expected_NC.view(*log_p_BTV.shape[:-1], -1).to(self.matrix.weight.dtype)
        return self.matrix(F.rms_norm(expected_BTC, expected_BTC.shape[-1:]))


class OnCounts(nn.Module):
    """A model, and what counting says beside it.

    Of a model with hidden states a matrix that begins at zero stands before the head, and a(x) is learnt from them; if
    it takes something beside the embeddings of tokens, it is told what counting says, see `Told`. Of another the logits
    are taken as they are, and a is one number for all positions.

    Args:
        model: see `molino.models`.

    Attributes:
        tables: of the whole training split; whoever trains or loads the network gives it them.
        parts: in training, those of all but one part of it each.
        order: of the n-grams; None for the best one on the last tenth of the training split.
    """

    tables: Tables | None = None
    parts: Tables | None = None
    order: int | None = None

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.vocab_size, self.block_size = model, model.vocab_size, model.block_size
        can = capabilities_of(model)

        def inside(name: str) -> str:
            return f"model.{name}"

        self.capabilities = replace(
            can,
            counts=True,
            hidden=None,
            head=None,
            tied=can.tied and tuple(map(inside, can.tied)),
            embedding=can.embedding and inside(can.embedding),
            bigrams=None,
            positions={inside(name): what for name, what in can.positions.items()},
            layers=(),
            formats=(),
        )
        width = None if can.bigrams else can.hidden  # rows of logits are added to as they are
        self.turn = nn.Linear(width, width, bias=False) if width else None
        self.told = Told(self.vocab_size, width) if can.beside and can.embedding else None
        self.table, self.head_weight = can.embedding, can.head
        self.trust = Trust(width)
        if self.turn is not None:
            nn.init.zeros_(self.turn.weight)

    def forward(self, tokens_BT: Tensor, cache: KVCache | None = None, before_BR: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each token."""
        self.tables = self.tables.to(tokens_BT.device)
        log_p_BTV = self._padded(self.tables.read(tokens_BT, cache, before_BR))
        return self._add(tokens_BT, log_p_BTV, cache)

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor, contexts_BT: Tensor) -> Tensor:
        """Mean cross entropy in nats over the targets that are not IGNORE_INDEX.

        Args:
            contexts_BT: of each token, in the numbering of `parts`.
        """
        self.parts = self.parts.to(tokens_BT.device)
        log_p_BTV = self._padded(self.parts.log_probabilities(contexts_BT))
        if self.turn is None or self.head_weight is None:
            return next_token_loss(self._add(tokens_BT, log_p_BTV), targets_BT)
        hidden_BTC = self._hidden(tokens_BT, log_p_BTV)
        weight_VC, scale_BT1 = tensor_of(self.model, self.head_weight), self.trust(hidden_BTC)
        return head_loss(self.turn(hidden_BTC), weight_VC, targets_BT, scale_BT1, log_p_BTV)

    def _padded(self, log_p_BTV: Tensor) -> Tensor:
        spare = self.vocab_size - log_p_BTV.shape[-1]
        return F.pad(log_p_BTV, (0, spare), value=UNKNOWN) if spare > 0 else log_p_BTV

    def _add(self, tokens_BT: Tensor, log_p_BTV: Tensor, cache: KVCache | None = None) -> Tensor:
        if self.turn is None:
            kept = {} if cache is None else {"cache": cache}
            return self.model(tokens_BT, **kept) + self.trust() * log_p_BTV
        hidden_BTC = self._hidden(tokens_BT, log_p_BTV, cache)
        return self.model.head(self.turn(hidden_BTC)) + self.trust(hidden_BTC) * log_p_BTV

    def _hidden(self, tokens_BT: Tensor, log_p_BTV: Tensor, cache: KVCache | None = None) -> Tensor:
        kept = {} if cache is None else {"cache": cache}
        beside = {} if self.told is None else {"beside_BTC": self.told(log_p_BTV, tensor_of(self.model, self.table))}
        return self.model.hidden(tokens_BT, **kept, **beside)
