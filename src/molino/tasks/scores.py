"""What guesses are worth: accuracy, F1, correlations, calibration, of whole splits in float64.

Shapes: N examples, K classes.
"""

import numpy as np

BINS = 15


def log_softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Return log-probabilities (N, K)."""
    shifted_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
    return shifted_NK - np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True))


def cross_entropy(logits_NK: np.ndarray, wanted_N: np.ndarray) -> float:
    """Return the mean negative log-probability of what was wanted, in nats."""
    return -float(np.take_along_axis(log_softmax(logits_NK), wanted_N[:, None], axis=1).mean())


def confusion(wanted_N: np.ndarray, guessed_N: np.ndarray, classes: int) -> np.ndarray:
    """Return how often each class (rows) was taken for each (columns): whole numbers (K, K)."""
    return np.bincount(wanted_N * classes + guessed_N, minlength=classes * classes).reshape(classes, classes)


def accuracy(table_KK: np.ndarray) -> float:
    """Return the share of right guesses."""
    return float(np.trace(table_KK) / table_KK.sum())


def f1(table_KK: np.ndarray) -> np.ndarray:
    """Return the F1 of each class, (K,); 0 of one that was never guessed rightly."""
    right_K, occurred_K = np.diag(table_KK), table_KK.sum(axis=0) + table_KK.sum(axis=1)
    return np.divide(2 * right_K, occurred_K, out=np.zeros(len(table_KK)), where=occurred_K > 0)


def macro_f1(table_KK: np.ndarray) -> float:
    """Return the mean F1 of the classes that were wanted or guessed."""
    return float(f1(table_KK)[table_KK.sum(axis=0) + table_KK.sum(axis=1) > 0].mean())


def matthews(table_KK: np.ndarray) -> float:
    """Return the Matthews correlation (Gorodkin 2004); 0 where one class alone is wanted or guessed."""
    table_KK = table_KK.astype(np.float64)
    total, wanted_K, guessed_K = table_KK.sum(), table_KK.sum(axis=1), table_KK.sum(axis=0)
    spread = (total**2 - wanted_K @ wanted_K) * (total**2 - guessed_K @ guessed_K)
    return float((np.trace(table_KK) * total - wanted_K @ guessed_K) / np.sqrt(spread)) if spread > 0 else 0.0


def calibration(p_NK: np.ndarray, wanted_N: np.ndarray) -> np.ndarray:
    """Return of BINS equal ranges of the largest probability: examples, its sum, and how many were right: (BINS, 3)."""
    top_N, right_N = p_NK.max(axis=1), p_NK.argmax(axis=1) == wanted_N
    bin_N = np.clip(np.ceil(top_N * BINS).astype(np.int64) - 1, 0, BINS - 1)  # a bin holds its upper bound
    return np.stack([np.bincount(bin_N, each, BINS) for each in (np.ones(len(top_N)), top_N, right_N)], axis=1)


def calibration_error(bins_B3: np.ndarray) -> float:
    """Return by how much confidence and accuracy differ, weighed by the examples in each bin (Naeini et al. 2015)."""
    return float(np.abs(bins_B3[:, 1] - bins_B3[:, 2]).sum() / bins_B3[:, 0].sum())


def pearson(one_N: np.ndarray, other_N: np.ndarray) -> float:
    """Return the linear correlation; 0 where one of the two is constant."""
    if any((each_N == each_N[:1]).all() for each_N in (one_N, other_N)):
        return 0.0  # its mean, rounded, may be another number than it is
    a_N, b_N = one_N - one_N.mean(), other_N - other_N.mean()
    spread = np.sqrt((a_N @ a_N) * (b_N @ b_N))
    return float(a_N @ b_N / spread) if spread > 0 else 0.0


def spearman(one_N: np.ndarray, other_N: np.ndarray) -> float:
    """Return the correlation of ranks, ties sharing theirs; 0 where one of the two is constant."""
    from scipy.stats import rankdata

    return pearson(rankdata(one_N), rankdata(other_N))
