"""Positions relative to each other: what is added to the score of two tokens (Raffel et al. 2020).

Shape suffixes: B batch, H heads, T places of queries, S places of keys, N distances.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molino.base.errors import ConfigError


class RelativePositions(nn.Module):
    """What is added to the score of two tokens of a text, by head and distance: (T,), (S,) -> (1, H, T, S).

    Distances are put into buckets, see `bucket_of`, each of which has a row in the table.

    Args:
        buckets: rows of the table.
        max_distance: from here on all distances are one.
        both_ways: whether tokens see those behind them.

    Raises ConfigError unless there are buckets for both directions, and distances beyond those that have one each.
    """

    def __init__(self, n_head: int, buckets: int, max_distance: int, both_ways: bool):
        super().__init__()
        if buckets < 4:
            raise ConfigError(f"model.buckets={buckets} is too small: choose 4 or more")
        if max_distance <= buckets // 2:
            raise ConfigError(f"model.max_distance={max_distance} is too small: choose more than model.buckets / 2")
        self.max_distance, self.both_ways = max_distance, both_ways
        self.weight = nn.Parameter(torch.empty(buckets, n_head))

    def forward(self, places_T: Tensor, places_S: Tensor, visible: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The bias of tokens at some places to those at others; (B, T), (S,) -> (B, H, T, S).

        Args:
            visible: what is seen, as it broadcasts to the result, which elsewhere is -inf; None if all is.
            dtype: of the result.
        """
        distances_TS = places_S - places_T[..., None]
        buckets_TS = bucket_of(distances_TS, len(self.weight), self.max_distance, self.both_ways)
        bias_HTS = F.embedding(buckets_TS, self.weight.to(dtype)).movedim(-1, -3).contiguous()
        bias_BHTS = bias_HTS[None] if bias_HTS.dim() == 3 else bias_HTS
        return bias_BHTS if visible is None else bias_BHTS.masked_fill(~visible, -torch.inf)

    def by_distance(self, longest: int) -> tuple[Tensor, Tensor]:
        """The distances that there are, (N,), how far a key stands behind the query, and what is added at each, (H, N).

        Args:
            longest: the largest there is, either way.
        """
        last = longest if self.both_ways else 0
        distances_N = torch.arange(-longest, last + 1, device=self.weight.device)
        (bias_H1N,) = self(torch.zeros_like(distances_N[:1]), distances_N, None, self.weight.dtype)
        return distances_N, bias_H1N[:, 0]


def bucket_of(distances: Tensor, buckets: int, max_distance: int, both_ways: bool) -> Tensor:
    """Return the bucket of each distance, how far a key stands behind the query (Raffel et al. 2020, section 2.1).

    Half of the buckets are for one distance each, from 0 on; the others for ranges that grow logarithmically up to
    `max_distance`, the last one also for all beyond. Where tokens see both ways, keys behind the query have buckets of
    their own, half of them; else there are none.
    """
    first: Tensor | int = 0
    if both_ways:
        buckets //= 2
        first, away = (distances > 0) * buckets, distances.abs()
    else:
        away = (-distances).clamp(min=0)
    exact = buckets // 2
    # The same operations in float32 as those of `transformers`: rounding decides at the borders.
    share = (away.clamp(min=exact).float() / exact).log() / math.log(max_distance / exact)
    ranged = (exact + (share * (buckets - exact)).long()).clamp(max=buckets - 1)
    return first + torch.where(away < exact, away, ranged)
