"""What several seeds say together: mean, spread, interval, and whether two means differ. Nothing is assumed equal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


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
