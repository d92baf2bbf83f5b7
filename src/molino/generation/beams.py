"""Beam search, as `generate` of transformers searches with its usual settings.

Of each source K beginnings are followed. A step looks at the 2 K likeliest ways to go on with them. Those of the first
K that end there are candidates for the result, by their score: the sum of logarithms divided by a power of the length.
The best K of the others go on. A source is done when it has K results and its likeliest beginning, were it to end now,
would be no better than the worst of them; it then leaves the batch.

Shape suffixes: N sources, K beams, M ways to go on (2 K), T time (tokens), V vocabulary.
"""

import torch
from torch import Tensor

from molino.base.errors import ConfigError
from molino.generation.sources import Place
from molino.generation.targets import Vocabulary, Writing, Written, log_probabilities, restrict, without_end

NOWHERE = -1.0e9  # the score of what is not there


class _Results:
    """The best K targets of each source so far."""

    def __init__(self, count: int, beams: int, room: int, end: int, device: torch.device):
        self.tokens_NKT = torch.full((count, beams, room), end, device=device)
        self.scores_NK = torch.full((count, beams), NOWHERE, device=device)
        self.lengths_NK = torch.zeros((count, beams), dtype=torch.long, device=device)

    def add(self, which_N: Tensor, tokens_NMT: Tensor, scores_NM: Tensor) -> None:
        """Take up further targets of some sources, those with a score above NOWHERE, which are all equally long."""
        K, length = self.scores_NK.shape[1], tokens_NMT.shape[2]
        best = torch.cat([self.scores_NK[which_N], scores_NM], dim=1).topk(K)
        new_NMT = self.tokens_NKT.new_zeros(*tokens_NMT.shape[:2], self.tokens_NKT.shape[2])
        new_NMT[..., :length] = tokens_NMT
        all_NXT = torch.cat([self.tokens_NKT[which_N], new_NMT], dim=1)
        lengths_NX = torch.cat([self.lengths_NK[which_N], torch.full_like(scores_NM, length, dtype=torch.long)], dim=1)
        self.scores_NK[which_N] = best.values
        self.tokens_NKT[which_N] = _take(all_NXT, best.indices)
        self.lengths_NK[which_N] = lengths_NX.gather(1, best.indices)

    def told(self, count: int, end: int) -> list[list[Written]]:
        """Return the best of each source."""
        found = []
        rows = (each.tolist() for each in (self.tokens_NKT, self.lengths_NK, self.scores_NK))
        for tokens, lengths, scores in zip(*rows, strict=True):
            few = zip(tokens[:count], lengths[:count], scores[:count], strict=True)
            found.append([Written(without_end(row[:length], end), score) for row, length, score in few if length])
        return found


def search(
    place: Place, count: int, room: int, writing: Writing, vocabulary: Vocabulary, device: torch.device
) -> list[list[Written]]:
    """Return the best targets of `count` sources, of each `writing.n_best`, the best first.

    Args:
        room: the longest target, in tokens.
    """
    K, end, power = writing.beams, vocabulary.end, writing.length_penalty
    which_N = torch.arange(count, device=device)
    tokens_NKT = torch.full((count, 1, 1), vocabulary.start, device=device)
    running_NK = torch.zeros(count, 1, device=device)
    results = _Results(count, K, room, end, device)
    first_M = torch.arange(2 * K, device=device) < K
    for length in range(1, room + 1):
        logits_BV = place.logits(tokens_NKT[:, :, -1].flatten())
        if (V := logits_BV.shape[-1]) < 2 * K:
            raise ConfigError(f"writing.beams={K} needs a vocabulary of {2 * K} tokens or more, and this has {V}")
        logp_BV = restrict(log_probabilities(logits_BV), tokens_NKT.flatten(0, 1), writing, vocabulary)
        N = len(which_N)
        ways = (logp_BV.view(N, -1, V) + running_NK[..., None]).flatten(1).topk(2 * K)
        beams_NM, next_NM, scores_NM = ways.indices // V, ways.indices % V, ways.values
        longer_NMT = torch.cat([_take(tokens_NKT, beams_NM), next_NM[..., None]], dim=2)
        ends_NM = (next_NM == end) | (length == room)
        final_NM = torch.where(ends_NM & first_M, scores_NM / length**power, NOWHERE)
        results.add(which_N, longer_NMT[..., 1:], final_NM)
        if length == room:
            break
        running_NK, chosen_NK = scores_NM.masked_fill(ends_NM, NOWHERE).topk(K)
        tokens_NKT, beams_NK = _take(longer_NMT, chosen_NK), beams_NM.gather(1, chosen_NK)
        going = (running_NK[:, 0] / length**power > results.scores_NK[which_N].amin(1)).nonzero()[:, 0]
        if len(going) == 0:
            break
        rows_NK = beams_NK + torch.arange(N, device=device)[:, None] * (len(logp_BV) // N)
        place.select(rows_NK[going].flatten(), going if len(going) < N else None)
        tokens_NKT, running_NK, which_N = tokens_NKT[going], running_NK[going], which_N[going]
    return results.told(writing.n_best, end)


def _take(each_NXT: Tensor, which_NM: Tensor) -> Tensor:
    """Return some beams of each source."""
    return each_NXT.gather(1, which_NM[..., None].expand(-1, -1, each_NXT.shape[2]))
