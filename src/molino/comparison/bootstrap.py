"""Runs compared on the same text, piece by piece: how sure a difference is that single runs show.

The pieces (documents or windows) are drawn anew with replacement, many times, the same ones for all runs (Efron 1979):
so what makes a piece hard for everybody makes no difference. It tells whether another text of this kind would say the
same; of other seeds it knows nothing.

Shapes: R runs, P pieces, N draws.
"""

from dataclasses import dataclass

import numpy as np

from molino.comparison.statistics import CONFIDENCE, holm

DRAWS = 10_000
AT_ONCE = 200


@dataclass(frozen=True)
class Resampled:
    """A run among others.

    Attributes:
        loss: over all pieces, a unit.
        low, high: ends of its 95 % interval.
        difference: of its loss to that of the best run; None of that.
        difference_low, difference_high: ends of the interval of that.
        p: two-sided, that there is no difference, corrected for all pairs of runs (Holm).
        better: share of the pieces in which it is better than the best run.
    """

    loss: float
    low: float
    high: float
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p: float | None = None
    better: float | None = None


def resample(sums_RP: np.ndarray, units_P: np.ndarray, seed: int = 0) -> list[Resampled]:
    """Return each run beside the best one.

    Args:
        sums_RP: losses, added up over each piece.
        units_P: how many units (tokens) each piece has.
        seed: of the draws.
    """
    losses_R = sums_RP.sum(axis=1) / units_P.sum()
    drawn_RN = _draw(sums_RP, units_P, seed)
    best, count = int(np.argmin(losses_R)), len(losses_R)
    others = [run for run in range(count) if run != best]
    gaps = {run: drawn_RN[run] - drawn_RN[best] for run in others}
    corrected = holm([_p(gaps[run]) for run in others], count * (count - 1) // 2)
    found = []
    for run in range(count):
        own = float(losses_R[run]), *_interval(drawn_RN[run])
        if run == best:
            found.append(Resampled(*own))
            continue
        better = float(np.mean(sums_RP[run] < sums_RP[best]))
        gap = float(losses_R[run] - losses_R[best])
        found.append(Resampled(*own, gap, *_interval(gaps[run]), corrected[others.index(run)], better))
    return found


def _draw(sums_RP: np.ndarray, units_P: np.ndarray, seed: int) -> np.ndarray:
    """Return the loss of each run on each draw of pieces, (R, N)."""
    generator, P = np.random.default_rng(seed), len(units_P)
    drawn = []
    for first in range(0, DRAWS, AT_ONCE):
        size = min(AT_ONCE, DRAWS - first)
        times_NP = np.zeros((size, P), np.float64)
        chosen = generator.integers(0, P, (size, P))
        np.add.at(times_NP, (np.arange(size)[:, None], chosen), 1)
        drawn.append((times_NP @ sums_RP.T / (times_NP @ units_P)[:, None]).T)
    return np.concatenate(drawn, axis=1)


def _interval(drawn_N: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(drawn_N, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _p(gaps_N: np.ndarray) -> float:
    """Return how rarely a difference lies on the other side of nothing, on both sides; never 0 of so many draws."""
    beyond = min(np.count_nonzero(gaps_N <= 0), np.count_nonzero(gaps_N >= 0))
    return min(2 * (beyond + 1) / (len(gaps_N) + 1), 1.0)
