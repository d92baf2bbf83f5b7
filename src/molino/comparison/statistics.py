"""What several seeds say together: mean, spread, interval, whether means differ, and what could have been seen at all.

Nothing is assumed equal: rows may have spreads of their own, and unlike numbers of seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
SIGNIFICANT = 1 - CONFIDENCE
POWER = 0.8  # a difference counts as one that can be seen if a test tells it so often
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Sample:
    """A metric over the runs of a row, in its own unit.

    Attributes:
        values: one a run.
        mean: None of no values.
        sd: standard deviation with n - 1 below; None of fewer than two values or where one is infinite.
        low, high: ends of the 95 % interval of the mean by Student's t; None where there is no sd.
    """

    values: tuple[float, ...]
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None

    @property
    def n(self) -> int:
        return len(self.values)


def describe(values: Sequence[float]) -> Sample:
    """Return mean, sd and interval of `values`."""
    values, n = tuple(values), len(values)
    if n == 0:
        return Sample(values, None, None, None, None)
    if not all(map(math.isfinite, values)):
        return Sample(values, math.inf, None, None, None)
    mean = math.fsum(values) / n
    if n == 1:
        return Sample(values, mean, None, None, None)
    from scipy.special import stdtrit

    # Equal values have no spread; their mean, rounded, may have some.
    squares = math.fsum((value - mean) ** 2 for value in values) if len(set(values)) > 1 else 0.0
    sd = math.sqrt(squares / (n - 1))
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(n)
    return Sample(values, mean, sd, mean - half, mean + half)


def welch(one: Sample, other: Sample) -> float | None:
    """Return the two-sided p of Welch's t-test (1947) that two means are the same; None without two sds.

    Without any spread on either side it is 1 for equal means and 0, the limit, for others.
    """
    if one.sd is None or other.sd is None:
        return None
    a, b = one.sd**2 / one.n, other.sd**2 / other.n
    if a + b == 0:
        return float(one.mean == other.mean)
    from scipy.special import stdtr

    t = (one.mean - other.mean) / math.sqrt(a + b)
    # The degrees of freedom of Welch and Satterthwaite, by shares, so that tiny variances do not underflow.
    share = a / (a + b)
    freedom = 1 / (share**2 / (one.n - 1) + (1 - share) ** 2 / (other.n - 1))
    return float(2 * stdtr(freedom, -abs(t)))


def paired(differences: Sample) -> float | None:
    """Return the two-sided p of Student's t-test that the mean of differences is 0; None without an sd.

    Without any spread it is 1 for no difference and 0, the limit, for others.
    """
    if differences.sd is None:
        return None
    if differences.sd == 0:
        return float(differences.mean == 0)
    from scipy.special import stdtr

    t = differences.mean / (differences.sd / math.sqrt(differences.n))
    return float(2 * stdtr(differences.n - 1, -abs(t)))


def holm(ps: Sequence[float], of: int | None = None) -> list[float]:
    """Return p values corrected for how many tests there are (Holm 1979): of twenty tables without any difference one
    has a value below 0.05.

    Args:
        of: how many tests there could have been, of which these are looked at; None for no more. Whoever compares with
            what came out best has looked at all pairs.
    """
    of, least = len(ps) if of is None else of, 0.0
    corrected = [0.0] * len(ps)
    for rank, number in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min((of - rank) * ps[number], 1.0))
        corrected[number] = least
    return corrected


def hedges(one: Sample, other: Sample) -> float | None:
    """Return the difference of two means in standard deviations, corrected for few values (Hedges 1981); None without
    any spread."""
    if one.sd is None or other.sd is None or one.sd == other.sd == 0:
        return None
    freedom = one.n + other.n - 2
    pooled = math.sqrt(((one.n - 1) * one.sd**2 + (other.n - 1) * other.sd**2) / freedom)
    return (one.mean - other.mean) / pooled * (1 - 3 / (4 * freedom - 1))


def power(difference: float, sd: float, n: int, level: float = SIGNIFICANT, pairs: bool = False) -> float:
    """Return how often Student's t-test of two samples of n values each tells that their means differ.

    Args:
        difference: of the means.
        sd: of the values; of pairs that of the differences.
        level: below which a p is significant.
        pairs: whether each value has one of the other sample beside it.
    """
    from scipy.special import nctdtr, stdtrit

    freedom = n - 1 if pairs else 2 * (n - 1)
    shift = abs(difference) / (sd * math.sqrt((1 if pairs else 2) / n))
    critical = float(stdtrit(freedom, 1 - level / 2))
    if shift > critical + 30:  # beyond what nctdtr computes
        return 1.0
    return float(1 - nctdtr(freedom, shift, critical) + nctdtr(freedom, shift, -critical))


def detectable(sd: float, n: int, level: float = SIGNIFICANT, pairs: bool = False) -> float:
    """Return the least difference of two means that is told with a power of POWER; as `power`."""
    low, high = 0.0, sd
    while power(high, sd, n, level, pairs) < POWER:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, sd, n, level, pairs) >= POWER else (middle, high)
    return high


def seeds_needed(difference: float, sd: float, level: float = SIGNIFICANT, pairs: bool = False) -> int | None:
    """Return how many values each of two samples needs for a difference to be told; None for more than MOST_SEEDS."""
    low, high = 1, 2
    while power(difference, sd, high, level, pairs) < POWER:
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, sd, middle, level, pairs) >= POWER else (middle, high)
    return high
