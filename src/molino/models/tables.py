"""What Kneser-Ney smoothing says after any context: distributions over the whole vocabulary, looked up in batches.

A distribution is that after the empty context, times what the longer ones leave to it, and what each of these has for
itself of the few tokens that it has been followed by. So nothing is ever as large as contexts times vocabulary.

Shapes: B batch, T time (tokens), S time (with tokens before), V vocabulary, P places, N contexts of all places; F
tables that share M contexts of all lengths and E n-grams of two tokens and more.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from molino.base.errors import DataError
from molino.models.cache import NOTHING, KVCache
from molino.models.counting import Ngrams
from molino.models.smoothing import smoothed


class Tables:
    """Distributions of what comes after each context: one table of a whole text, or several, each of some of its parts.

    Contexts of all lengths have one numbering, in which the empty one is 0; a context of the second table has the
    number it has in the first and M more, and so on.

    Args:
        key_M: of each context but the empty one, length by length, as in `molino.models.counting.Level`.
        contexts_K: how many contexts of each length there are, from 0.
        begin_M1: where the n-grams of each context begin, and the last end; of the empty one none are kept.
        token_E: the last token of each.
        share_FE, left_FM: what n-grams have for themselves, and what contexts leave to shorter ones.
        base_FV: the distributions after the empty context.
    """

    def __init__(
        self,
        key_M: Tensor,
        contexts_K: Tensor,
        begin_M1: Tensor,
        token_E: Tensor,
        share_FE: Tensor,
        left_FM: Tensor,
        base_FV: Tensor,
    ):
        self.order, self.vocab_size = len(contexts_K), base_FV.shape[-1]
        self.begin_M1, self.token_E = begin_M1, token_E
        self.share_FE, self.left_FM, self.base_FV = share_FE, left_FM, base_FV
        sizes = contexts_K.tolist()
        # Where the contexts of each length begin.
        self.first = np.cumsum([0, *sizes])[:-1].tolist()
        self.keys = list(key_M.split(sizes)[1:])
        above = [key_C // (self.vocab_size + 1) + first for key_C, first in zip(self.keys, self.first, strict=False)]
        self.shorter_M = torch.cat([begin_M1.new_zeros(1), *above])

    @property
    def contexts(self) -> int:
        """M, the contexts of one table."""
        return len(self.shorter_M)

    def read(self, tokens_BT: Tensor, cache: KVCache | None = None, before_BR: Tensor | None = None) -> Tensor:
        """Return the log-probabilities_BTV of what comes after each token.

        Args:
            cache: holds the tokens before these.
            before_BR: in place of it, the tokens before these; NOTHING where there are none.
        """
        tokens_BS = tokens_BT
        if cache is not None:
            tokens_BS = cache.recall(tokens_BT, self.order, beyond=True)
        elif before_BR is not None:
            tokens_BS = torch.cat([before_BR, tokens_BT], dim=1)
        return self.log_probabilities(self.find(tokens_BS, tokens_BT.shape[1]))

    def find(self, tokens_BS: Tensor, count: int) -> Tensor:
        """Return the longest known contexts_BT that end with each of the last `count` tokens."""
        base, T, before = self.vocab_size + 1, count, tokens_BS.shape[1] - count
        tokens_BS = tokens_BS.masked_fill(tokens_BS == NOTHING, self.vocab_size)
        if (lacking := self.order - 2 - before) > 0:
            tokens_BS, before = functional.pad(tokens_BS, (lacking, 0), value=self.vocab_size), before + lacking
        rank_BT = contexts_BT = torch.zeros_like(tokens_BS[:, before:])
        known_BT = torch.ones_like(rank_BT, dtype=torch.bool)
        for back, key_C in enumerate(self.keys):
            wanted_BT = rank_BT * base + tokens_BS[:, before - back : before - back + T]
            rank_BT = torch.searchsorted(key_C, wanted_BT).clamp_(max=len(key_C) - 1)
            known_BT = known_BT & (key_C[rank_BT] == wanted_BT)
            contexts_BT = torch.where(known_BT, rank_BT + self.first[back + 1], contexts_BT)
        return contexts_BT

    def log_probabilities(self, contexts: Tensor) -> Tensor:
        """Return what comes after contexts: (...) -> (..., V), in float32."""
        M, numbers_P = self.contexts, contexts.flatten()
        table_P, context_P = numbers_P // M, numbers_P % M
        weight_P, chain, weights = torch.ones_like(numbers_P, dtype=torch.float32), [], []
        for _ in self.keys:
            chain.append(context_P)
            weights.append(weight_P)
            weight_P = weight_P * self.left_FM.view(-1).index_select(0, table_P * M + context_P)
            context_P = self.shorter_M.index_select(0, context_P)
        p_PV = self.base_FV.index_select(0, table_P).mul_(weight_P[:, None])
        if chain and len(numbers_P):
            self._add(p_PV, table_P.repeat(len(chain)), torch.cat(chain), torch.cat(weights))
        return p_PV.log_().view(*contexts.shape, self.vocab_size)

    def _add(self, p_PV: Tensor, table_N: Tensor, context_N: Tensor, weight_N: Tensor) -> None:
        """Add to each distribution, of which each has N / P contexts, what the n-grams of these have for themselves."""
        (P, V), N, device = p_PV.shape, len(context_N), p_PV.device
        begin_N = self.begin_M1.index_select(0, context_N)
        length_N = self.begin_M1.index_select(0, context_N + 1) - begin_N
        # Of the n-grams of all contexts in one row: whose each is, and its place among all n-grams.
        owner = torch.repeat_interleave(length_N)
        place = torch.arange(len(owner), device=device).add_((begin_N - length_N.cumsum(0) + length_N)[owner])
        row_N = torch.arange(P, device=device).repeat(N // P) * V
        target = row_N.index_select(0, owner).add_(self.token_E.index_select(0, place))
        place.add_((table_N * len(self.token_E)).index_select(0, owner))
        share = self.share_FE.view(-1).index_select(0, place)
        p_PV.view(-1).index_add_(0, target, share.mul_(weight_N.index_select(0, owner)))

    def to(self, device: torch.device) -> "Tables":
        """Return the tables on a device."""
        if self.base_FV.device == device:
            return self
        return Tables(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return what the tables are made of, by the names of the constructor."""
        sizes = [1, *map(len, self.keys)]
        return {
            "key_M": torch.cat([self.shorter_M[:1], *self.keys]),
            "contexts_K": torch.tensor(sizes),
            **{name: getattr(self, name) for name in ("begin_M1", "token_E", "share_FE", "left_FM", "base_FV")},
        }


def make_tables(ngrams: Ngrams, counts: Iterable[np.ndarray], number: int = 1) -> Tables:
    """Return tables of so many counts of the longest n-grams."""
    longer = ngrams.levels[1:]
    lengths = [np.bincount(level.context_G, minlength=len(level.key_C)) for level in longer]
    contexts = sum(len(level.key_C) for level in ngrams.levels)
    # Filled one after the other: of millions of n-grams each table is large.
    share_FE = np.zeros((number, sum(len(level.token_G) for level in longer)), np.float32)
    left_FM, base_FV = np.ones((number, contexts), np.float32), np.zeros((number, ngrams.vocab_size), np.float32)
    for table, count_G in enumerate(counts):
        (share_G, (left,)), *rest = smoothed(ngrams, count_G)
        base_V = np.full(ngrams.vocab_size, left / ngrams.vocab_size)
        base_V[ngrams.levels[0].token_G] += share_G
        base_FV[table] = base_V
        if rest:
            np.concatenate([share_G for share_G, _ in rest], out=share_FE[table], casting="same_kind")
            np.concatenate([left_C for _, left_C in rest], out=left_FM[table, 1:], casting="same_kind")
    return Tables(
        torch.from_numpy(np.concatenate([level.key_C for level in ngrams.levels])),
        torch.tensor([len(level.key_C) for level in ngrams.levels]),
        torch.from_numpy(np.cumsum(np.concatenate([np.zeros(2, np.int64), *lengths]))),
        torch.from_numpy(np.concatenate([np.zeros(0, np.int32), *(level.token_G for level in longer)])),
        *map(torch.from_numpy, (share_FE, left_FM, base_FV)),
    )


def checked_tables(tensors: Mapping[str, Tensor]) -> Tables:
    """Return the tables that `tensors` made, from whomever.

    Raises:
        DataError: they are none.
    """
    try:
        tables = Tables(**tensors)
        begin_M1, M, E = tables.begin_M1, tables.contexts, len(tables.token_E)
        shapes = {"share_FE": (E,), "left_FM": (M,), "base_FV": (tables.vocab_size,)}
        whole = len(begin_M1) == M + 1 and begin_M1[0] == 0 and begin_M1[-1] == E and bool((begin_M1.diff() >= 0).all())
        fits = all(tensors[name].shape[1:] == shape and len(tensors[name]) for name, shape in shapes.items())
        wide = all(tensor.dtype in (torch.int64, torch.int32, torch.float32) for tensor in tensors.values())
        inside = E == 0 or (tables.token_E.min() >= 0 and tables.token_E.max() < tables.vocab_size)
        above = bool((tables.shorter_M < torch.arange(M).clamp(min=1)).all()) and bool((tables.shorter_M >= 0).all())
    except (TypeError, RuntimeError, IndexError, ValueError) as error:
        raise DataError(f"these are no tables of counts ({error})") from error
    if not (whole and fits and wide and inside and above):
        raise DataError("these are no tables of counts")
    return tables
