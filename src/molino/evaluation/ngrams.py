"""The exact losses of the simplest models that count: unigrams and bigrams.

All losses are mean nats per predicted token: tokens 1..N-1 of the held-out stream, each given what came before it.

Shapes: P predicted tokens, G distinct pairs, V vocabulary.
"""

from collections.abc import Sequence

import numpy as np

from molino.models.counting import Stream, find


def unigram_loss(train: Stream, heldout: Stream, vocab_size: int, alpha: float = 1.0) -> float:
    """Loss of P(w) = (c(w) + alpha) / (N + alpha V) on `heldout`.

    Args:
        alpha: pseudo-count of every token, above 0.
    """
    count_P = np.bincount(train.tokens, minlength=vocab_size)[heldout.tokens[1:]]
    return add_alpha_loss(count_P, np.full(len(count_P), len(train.tokens)), vocab_size, alpha)


def bigram_loss(train: Stream, heldout: Stream, vocab_size: int, alphas: Sequence[float]) -> float:
    """Loss of P(w|v) = (c(vw) + alpha) / (c(v.) + alpha V) on `heldout`, the lowest of several alphas.

    Args:
        alphas: pseudo-counts, each above 0.
    """
    pair_G, count_G = np.unique(_pairs(train, vocab_size), return_counts=True)
    place_P = find(pair_G, _pairs(heldout, vocab_size))
    count_P = np.where(place_P >= 0, count_G[place_P], 0)
    followed_P = np.bincount(train.tokens[:-1], minlength=vocab_size)[heldout.tokens[:-1]]
    return min(add_alpha_loss(count_P, followed_P, vocab_size, alpha) for alpha in alphas)


def bigram_optimum(train: Stream, vocab_size: int) -> float:
    """The lowest cross-entropy that any bigram table reaches on `train`: the conditional entropy of its pairs."""
    pair_G, count_G = np.unique(_pairs(train, vocab_size), return_counts=True)
    followed_V = np.bincount(train.tokens[:-1], minlength=vocab_size)
    # Every pair costs log c(v.) - log c(vw), and there are c(vw) of it.
    return float(count_G @ (np.log(followed_V[pair_G // vocab_size]) - np.log(count_G)) / count_G.sum())


def add_alpha_loss(count_P: np.ndarray, total_P: np.ndarray, vocab_size: int, alpha: float) -> float:
    """Mean of -log((count + alpha) / (total + alpha V)), in nats."""
    return float(np.mean(np.log(total_P + alpha * vocab_size) - np.log(count_P + alpha)))


def _pairs(stream: Stream, vocab_size: int) -> np.ndarray:
    tokens = stream.tokens.astype(np.int64)
    return tokens[:-1] * vocab_size + tokens[1:]
