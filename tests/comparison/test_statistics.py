"""Statistics against scipy.stats, which computes them its own way, and against sums made by hand."""

import math
import random

import pytest
from scipy import stats

from molino.comparison.statistics import describe, welch


def test_by_hand():
    sample = describe([1.0, 2.0, 6.0])
    assert (sample.n, sample.mean) == (3, 3.0)
    assert sample.sd == math.sqrt((4 + 1 + 9) / 2)
    # The quantile of two degrees of freedom, from printed tables.
    assert (sample.high - sample.low) / 2 == pytest.approx(4.302653 * sample.sd / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
def test_against_scipy(n, scale):
    draw = random.Random(n)
    one = [1.4 + scale * draw.gauss(0, 1) for _ in range(n)]
    other = [1.4 + scale * draw.gauss(0.7, 3) for _ in range(n + 2)]
    sample = describe(one)
    low, high = stats.t.interval(0.95, n - 1, loc=sum(one) / n, scale=stats.sem(one))
    assert (sample.low, sample.high) == pytest.approx((low, high), rel=1e-9)
    assert welch(sample, describe(other)) == pytest.approx(
        stats.ttest_ind(one, other, equal_var=False).pvalue, rel=1e-6
    )


def test_too_few_values():
    assert describe([]).mean is None
    one = describe([1.5])
    assert (one.n, one.mean, one.sd, one.low, one.high) == (1, 1.5, None, None, None)
    assert welch(one, describe([1.0, 2.0])) is None and welch(describe([1.0, 2.0]), one) is None


@pytest.mark.filterwarnings("ignore:Precision loss")  # of scipy's, which is the point
def test_without_spread():
    """0.1 three times has a mean that is not 0.1, yet nothing has varied."""
    same, other = describe([0.1] * 3), describe([0.2] * 3)
    assert same.sd == 0 and same.low == same.high == same.mean
    assert welch(same, describe([0.1] * 3)) == 1.0 and welch(same, other) == 0.0
    spread = describe([0.1, 0.2, 0.4])
    assert welch(same, spread) == pytest.approx(stats.ttest_ind([0.1] * 3, [0.1, 0.2, 0.4], equal_var=False).pvalue)


def test_infinite_perplexities():
    sample = describe([3.0, math.inf])
    assert (sample.n, sample.mean, sample.sd) == (2, math.inf, None)
    assert welch(sample, describe([1.0, 2.0])) is None
