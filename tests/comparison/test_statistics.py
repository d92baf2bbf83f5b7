"""Statistics against scipy.stats, which computes them its own way, and against sums made by hand."""

import math
import random

import numpy as np
import pytest
from scipy import stats

from molino.comparison.statistics import describe, detectable, hedges, holm, paired, power, seeds_needed, welch


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


def test_holm_by_hand():
    # The example of Holm's rule: 0.01 x 4, then 0.013 x 3 (no less than before), 0.03 x 2, 0.05 x 1 (no less).
    assert holm([0.03, 0.01, 0.05, 0.013]) == pytest.approx([0.06, 0.04, 0.06, 0.04])
    assert holm([]) == [] and holm([0.2]) == [0.2] and holm([0.9, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize("n", [2, 3, 8])
def test_pairs_against_scipy(n):
    draw = random.Random(n)
    one = [1.4 + draw.gauss(0, 1) for _ in range(n)]
    other = [value + draw.gauss(0.2, 0.1) for value in one]
    differences = describe([a - b for a, b in zip(one, other, strict=True)])
    assert paired(differences) == pytest.approx(stats.ttest_rel(one, other).pvalue, rel=1e-6)
    assert paired(describe([0.25] * n)) == 0.0 and paired(describe([0.0] * n)) == 1.0
    assert paired(describe([1.0])) is None


def test_effect_sizes_by_hand():
    """Means 2 and 5, both with an sd of 1: three, less what so few values exaggerate, 1 - 3 / 15."""
    assert hedges(describe([1, 2, 3]), describe([4, 5, 6])) == pytest.approx(-3 * (1 - 3 / 15))
    assert hedges(describe([1, 1]), describe([2, 2])) is None and hedges(describe([1]), describe([2, 3])) is None


@pytest.mark.parametrize(("n", "difference", "wanted"), [(20, 0.5, 0.3377), (64, 0.5, 0.8015), (3, 3.0, 0.7895)])
def test_power_is_that_of_printed_tables(n, difference, wanted):
    """Cohen 1988: 64 values each tell half a standard deviation four times in five."""
    assert power(difference, 1.0, n) == pytest.approx(wanted, abs=0.015)


def test_what_can_be_seen_and_how_many_seeds_it_takes():
    least = detectable(0.01, 3)
    assert power(least, 0.01, 3) == pytest.approx(0.8, abs=1e-6)
    assert seeds_needed(0.5, 1.0) == 64 and seeds_needed(least, 0.01) == 3 and seeds_needed(1e-9, 1.0) is None
    assert power(1e6, 1.0, 3) == 1.0
    # By drawing: so often a test really tells it.
    draw = np.random.default_rng(0)
    one, other = draw.normal(0, 0.01, (4000, 3)), draw.normal(least, 0.01, (4000, 3))
    assert np.mean(stats.ttest_ind(one, other, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)
