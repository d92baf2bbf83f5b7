"""A bag of words and of pairs of words, and logistic regression on it: what can be told without reading in order.

As scikit-learn's TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\\w+|[^\\w\\s]") and
LogisticRegression(C=10) compute it. Of a pair of texts the features are |a - b| and a * b of their rows.

Shapes: N texts, F features, K classes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WORD = re.compile(r"\w+|[^\w\s]")
STRENGTH = 10.0  # C: the weight of the data against the penalty on weights
STEPS = 1000  # of L-BFGS at most
TOLERANCE = 1e-4  # of the largest slope of the mean loss


@dataclass(frozen=True)
class Bag:
    """The words, and pairs of neighbouring words, of some texts.

    Attributes:
        words: number of each word.
        keys_F: which features there are: the number of a word, or of a pair len(words) * (first + 1) + second; sorted.
        idf_F: how rare each is, log((1 + texts) / (1 + texts with it)) + 1.
        pairs: whether there are pairs of words.
        sublinear: whether a count n stands for 1 + log(n).
    """

    words: dict[str, int]
    keys_F: np.ndarray
    idf_F: np.ndarray
    pairs: bool
    sublinear: bool

    def rows(self, texts: Sequence[str]) -> "csr_matrix":
        """Return a row for each text, of length 1: (N, F)."""
        from scipy import sparse

        text_M, key_M = _occurrences(texts, self.words, self.pairs)
        column_M = np.searchsorted(self.keys_F, key_M)
        known_M = self.keys_F[np.minimum(column_M, len(self.keys_F) - 1)] == key_M
        found = sparse.csr_matrix(
            (np.ones(known_M.sum()), (text_M[known_M], column_M[known_M])), (len(texts), len(self.keys_F))
        )
        if self.sublinear:
            found.data = 1 + np.log(found.data)
        found.data *= self.idf_F[found.indices]
        lengths_N = np.sqrt(np.asarray(found.multiply(found).sum(axis=1))[:, 0])
        return sparse.diags(1 / np.where(lengths_N > 0, lengths_N, 1)) @ found


def fill(texts: Sequence[str], pairs: bool = True, sublinear: bool = True) -> Bag:
    """Return the bag of some texts.

    Args:
        pairs: whether pairs of neighbouring words are features too.
        sublinear: whether a count n stands for 1 + log(n).
    """
    words: dict[str, int] = {}
    for text in texts:
        for word in WORD.findall(text.lower()):
            words.setdefault(word, len(words))
    text_M, key_M = _occurrences(texts, words, pairs)
    # Each feature counts once a text. Sorted by hand: numpy's unique takes five times as long for so many.
    in_text = np.sort(key_M * len(texts) + text_M)
    key_M = in_text[np.append(True, in_text[1:] != in_text[:-1])] // len(texts)
    begins = np.flatnonzero(np.append(True, key_M[1:] != key_M[:-1]))
    keys_F, texts_F = key_M[begins], np.diff(np.append(begins, len(key_M)))
    idf_F = np.log((1 + len(texts)) / (1 + texts_F)) + 1
    return Bag(words, keys_F, idf_F, pairs, sublinear)


def compare(one: "csr_matrix", other: "csr_matrix") -> "csr_matrix":
    """Return the features of pairs of texts from the rows of both."""
    from scipy import sparse

    return sparse.hstack([abs(one - other), one.multiply(other)]).tocsr()


@dataclass(frozen=True)
class Regression:
    """A logistic regression: weights (F, K) and biases (K,)."""

    weights_FK: np.ndarray
    bias_K: np.ndarray

    def log_probabilities(self, rows_NF: "csr_matrix") -> np.ndarray:
        """Return those of each class, (N, K)."""
        from scipy.special import log_softmax

        return log_softmax(rows_NF @ self.weights_FK + self.bias_K, axis=1)


def fit(rows_NF: "csr_matrix", wanted_N: np.ndarray, classes: int, strength: float = STRENGTH) -> Regression:
    """Return the regression with the smallest strength * summed loss + half the squared weights; biases are free.

    Of two classes one vector of weights tells them apart, as there is no need for a second.
    """
    from scipy import optimize
    from scipy.special import log_softmax

    N, F = rows_NF.shape
    columns = rows_NF.T.tocsr()
    outputs = 1 if classes == 2 else classes
    places_N = np.arange(N)

    def logits(x: np.ndarray) -> np.ndarray:
        found_NO = rows_NF @ x[: F * outputs].reshape(F, outputs) + x[F * outputs :]
        return np.concatenate([np.zeros((N, 1)), found_NO], axis=1) if classes == 2 else found_NO

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        log_p_NK = log_softmax(logits(x), axis=1)
        slope_NK = np.exp(log_p_NK)
        slope_NK[places_N, wanted_N] -= 1
        slope_NO = strength * slope_NK[:, -outputs:]
        w = x[: F * outputs]
        value = 0.5 * w @ w - strength * log_p_NK[places_N, wanted_N].sum()
        return value, np.concatenate([w + (columns @ slope_NO).ravel(), slope_NO.sum(axis=0)])

    enough = {"maxiter": STEPS, "gtol": TOLERANCE * strength * N, "ftol": 64 * np.finfo(np.float64).eps}
    start = np.zeros((F + 1) * outputs)
    # Its vectors are short: threads that wait for each other at every sum take thirty times as long beside other work.
    with threadpool_limits(1, "blas"):
        x = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=enough).x
    weights, bias = x[: F * outputs].reshape(F, outputs), x[F * outputs :]
    if classes == 2:
        weights, bias = (np.concatenate([np.zeros_like(each), each], axis=-1) for each in (weights, bias))
    return Regression(weights, bias)


def _occurrences(texts: Sequence[str], words: dict[str, int], pairs: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return of each occurrence of a feature the number of its text and its key; words that are unknown have none."""
    found = (WORD.findall(text.lower()) for text in texts)
    ids = [np.fromiter(map(words.get, each, repeat(-1)), np.int64, len(each)) for each in found]
    text_M = np.repeat(np.arange(len(texts)), [len(each) for each in ids])
    id_M = np.concatenate([np.empty(0, np.int64), *ids])
    known = id_M >= 0
    found = [(text_M[known], id_M[known])]
    if pairs:
        both = known[:-1] & known[1:] & (text_M[:-1] == text_M[1:])
        found.append((text_M[:-1][both], len(words) * (id_M[:-1][both] + 1) + id_M[1:][both]))
    return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])
