"""What guesses are worth, against scikit-learn, scipy and torchmetrics."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from molino.tasks import scores

EXACTLY = {"rel": 1e-9, "abs": 1e-9}


def guesses(classes: int, seed: int, count: int = 500):
    """Logits, and wanted classes that they tell more often than chance."""
    generator = np.random.default_rng(seed)
    wanted = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes)) * 2
    logits[np.arange(count), wanted] += generator.integers(0, 3, count)
    return logits, wanted


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_scores_of_classes_are_those_of_scikit_learn(classes, seed):
    metrics = pytest.importorskip("sklearn.metrics")
    logits, wanted = guesses(classes, seed)
    guessed = logits.argmax(axis=1)
    table = scores.confusion(wanted, guessed, classes)
    assert (table == metrics.confusion_matrix(wanted, guessed)).all()
    assert scores.accuracy(table) == pytest.approx(metrics.accuracy_score(wanted, guessed), **EXACTLY)
    assert scores.f1(table) == pytest.approx(metrics.f1_score(wanted, guessed, average=None), **EXACTLY)
    assert scores.macro_f1(table) == pytest.approx(metrics.f1_score(wanted, guessed, average="macro"), **EXACTLY)
    assert scores.matthews(table) == pytest.approx(metrics.matthews_corrcoef(wanted, guessed), **EXACTLY)
    p = special.softmax(logits, axis=1)
    assert np.exp(scores.log_softmax(logits)) == pytest.approx(p, rel=1e-12)
    assert scores.cross_entropy(logits, wanted) == pytest.approx(metrics.log_loss(wanted, p), **EXACTLY)


def test_the_matthews_correlation_of_many_examples_overflows_nowhere():
    table = np.array([[3_000_000_000, 1_000_000_000], [2_000_000_000, 4_000_000_000]])
    assert scores.matthews(table) == pytest.approx(scores.matthews(table // 10**9), rel=1e-12)
    # By hand, for the small one: (3 * 4 - 1 * 2) / sqrt(4 * 6 * 5 * 5).
    assert scores.matthews(table) == pytest.approx(10 / 600**0.5, rel=1e-12)


@pytest.mark.filterwarnings("ignore:A single label was found")  # scikit-learn's, which is asked of one on purpose
@pytest.mark.parametrize(
    ("wanted", "guessed"), [([0, 0, 0], [0, 0, 0]), ([0, 1, 1], [1, 1, 1]), ([1, 1, 1], [0, 1, 0]), ([0, 1], [1, 0])]
)
def test_classes_that_are_never_wanted_or_guessed(wanted, guessed):
    metrics = pytest.importorskip("sklearn.metrics")
    table = scores.confusion(np.array(wanted), np.array(guessed), 3)
    assert table.sum() == len(wanted)
    each = metrics.f1_score(wanted, guessed, labels=[0, 1, 2], average=None, zero_division=0)
    assert scores.f1(table) == pytest.approx(each, **EXACTLY)
    # The mean is over the classes that occur, as scikit-learn's is.
    macro = metrics.f1_score(wanted, guessed, average="macro", zero_division=0)
    assert scores.macro_f1(table) == pytest.approx(macro, **EXACTLY)
    assert scores.matthews(table) == pytest.approx(metrics.matthews_corrcoef(wanted, guessed), **EXACTLY)


def test_a_loss_is_finite_wherever_probabilities_are_not():
    logits = np.array([[1000.0, 0.0], [0.0, 1000.0]])
    assert scores.cross_entropy(logits, np.array([0, 0])) == 500.0
    assert (scores.log_softmax(logits + 1e6) == scores.log_softmax(logits)).all()


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_calibration_error_is_that_of_torchmetrics(classes):
    calibration_error = pytest.importorskip("torchmetrics.functional.classification").multiclass_calibration_error
    logits, wanted = guesses(classes, 7, 2000)
    p = special.softmax(logits, axis=1)
    bins = scores.calibration(p, wanted)
    theirs = calibration_error(torch.from_numpy(p), torch.from_numpy(wanted), classes, n_bins=scores.BINS, norm="l1")
    # Theirs holds its bins in float32; the sums over what is in each differ by no more than that.
    assert scores.calibration_error(bins) == pytest.approx(theirs.item(), abs=1e-6)
    naive = 0.0
    for low in range(scores.BINS):
        inside = [i for i in range(len(p)) if low / scores.BINS < max(p[i]) <= (low + 1) / scores.BINS]
        assert bins[low, 0] == len(inside)
        naive += abs(sum(max(p[i]) - (np.argmax(p[i]) == wanted[i]) for i in inside))
    assert scores.calibration_error(bins) == pytest.approx(naive / len(p), **EXACTLY)


def test_who_is_sure_is_calibrated_only_where_right():
    sure = np.eye(2)[[0, 0, 1, 1]]
    assert scores.calibration_error(scores.calibration(sure, np.array([0, 0, 1, 1]))) == 0
    assert scores.calibration_error(scores.calibration(sure, np.array([1, 0, 1, 1]))) == 0.25
    half = np.full((4, 2), 0.5)
    assert scores.calibration_error(scores.calibration(half, np.array([0, 1, 0, 1]))) == 0


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_correlations_are_those_of_scipy(ties, scale):
    generator = np.random.default_rng(3)
    one = generator.normal(size=300)
    other = np.exp(one) + generator.normal(size=300)
    if ties:
        one, other = np.round(one), np.round(other)
    one = one * scale + 5
    assert scores.pearson(one, other) == pytest.approx(stats.pearsonr(one, other)[0], **EXACTLY)
    assert scores.spearman(one, other) == pytest.approx(stats.spearmanr(one, other)[0], **EXACTLY)
    assert abs(scores.pearson(one, other) - scores.spearman(one, other)) > 0.01


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, -2.7, 1e9 + 0.1])
@pytest.mark.parametrize("count", [1, 3, 10, 1379])
def test_constants_correlate_with_nothing(value, count):
    """Whose mean, rounded, may be another number than they are."""
    constant, other = np.full(count, value), np.random.default_rng(0).normal(size=count)
    for correlate in (scores.pearson, scores.spearman):
        assert correlate(constant, other) == correlate(other, constant) == correlate(constant, constant) == 0
