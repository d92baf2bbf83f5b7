"""Runs drawn piece by piece, against scipy's bootstrap and a case without any difference."""

import numpy as np
import pytest
from scipy import stats

from molino.comparison.bootstrap import resample


def test_against_scipy():
    draw = np.random.default_rng(0)
    units = draw.integers(5, 60, 300).astype(float)
    hard = draw.normal(2.0, 0.4, 300)  # for everybody
    sums = np.stack([(hard + draw.normal(shift, 0.05, 300)) * units for shift in (0.01, 0.0, 0.3)])
    found = resample(sums, units)
    best, (near, far) = found[1], (found[0], found[2])

    def loss(sums, units):
        return sums.sum() / units.sum()

    wanted = stats.bootstrap((sums[1], units), loss, paired=True, vectorized=False, method="percentile", rng=1)
    assert best.loss == pytest.approx(loss(sums[1], units)) and best.difference is best.p is None
    assert (best.low, best.high) == pytest.approx(wanted.confidence_interval, abs=0.004)
    gap = stats.bootstrap(
        (sums[0], sums[1], units), lambda a, b, units: loss(a, units) - loss(b, units),
        paired=True, vectorized=False, method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    assert (near.difference_low, near.difference_high) == pytest.approx(gap, abs=0.0008)
    # Beside the spread of the text, 0.4, a difference of 0.01 is seen since the pieces are the same.
    assert near.difference == pytest.approx(near.loss - best.loss) and near.difference_high - near.difference_low < 0.02
    assert far.p == pytest.approx(3 * 2 / 10_001) and far.better < 0.01


def test_without_a_difference_one_in_twenty_is_called_one(monkeypatch):
    monkeypatch.setattr("molino.comparison.bootstrap.DRAWS", 2000)  # enough to tell 5 %
    draw, false = np.random.default_rng(1), 0
    for number in range(200):
        one, other = draw.normal(2.0, 0.4, (2, 80))
        false += any(
            each.p is not None and each.p < 0.05 for each in resample(np.stack([one, other]), np.ones(80), number)
        )
    assert false <= 20


def test_equal_runs_are_unclear():
    sums = np.tile(np.arange(1.0, 50.0), (2, 1))
    found = resample(sums, np.ones(49))
    assert found[1].difference == 0 and found[1].p == 1.0 and found[1].better == 0
