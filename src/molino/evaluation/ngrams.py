"""Count-based language models: the losses a neural model has to beat, exact and in seconds.

All losses are mean nats per predicted token: tokens 1..N-1 of the held-out stream, each given what came before it.
No V x V table is needed: n-grams are dense ids, and the code of an n-gram is (id of its first n-1 tokens) * V + (its
last token), which stays below the number of tokens times V, whatever the order. Numpy only.

Shapes: N tokens of a stream, P predicted tokens (N - 1), G distinct n-grams, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from molino.base.errors import DataError

# Of a longer stream only the first LIMIT tokens are read.
LIMIT = 10_000_000
SHARE = 1 << 20  # n-grams that are sorted at a time


def unigram_loss(train: np.ndarray, heldout: np.ndarray, vocab_size: int, alpha: float = 1.0) -> float:
    """Loss of P(w) = (c(w) + alpha) / (N + alpha V) on tokens 1..N-1 of `heldout`.

    Args:
        train, heldout: 1-D integer arrays of ids below `vocab_size`, memory-mapped or not; of streams longer than
            LIMIT only the first LIMIT tokens are used.
        alpha: pseudo-count of every token, above 0.

    Raises:
        DataError: a stream has fewer than two tokens or an id outside the vocabulary.
    """
    train_N, heldout_N = _read(train, vocab_size), _read(heldout, vocab_size)
    count_P = np.bincount(train_N, minlength=vocab_size)[heldout_N[1:]]
    return add_alpha_loss(count_P, np.full(len(count_P), len(train_N)), vocab_size, alpha)


def bigram_loss(train: np.ndarray, heldout: np.ndarray, vocab_size: int, alpha: float = 1.0) -> float:
    """Loss of P(w|v) = (c(vw) + alpha) / (c(v.) + alpha V) on `heldout`. Arguments as in `unigram_loss`."""
    return best_bigram_loss(train, heldout, vocab_size, [alpha])


def best_bigram_loss(train: np.ndarray, heldout: np.ndarray, vocab_size: int, alphas: Sequence[float]) -> float:
    """The lowest `bigram_loss` of those of several alphas."""
    pair_P, followed_P = bigram_counts(train, heldout, vocab_size)
    return min(add_alpha_loss(pair_P, followed_P, vocab_size, alpha) for alpha in alphas)


def bigram_optimum(train: np.ndarray) -> float:
    """The lowest cross-entropy that any bigram table reaches on `train`: the conditional entropy of its pairs, in nats.

    Exact for streams up to LIMIT tokens; of a longer one it is the optimum of the first LIMIT.
    """
    vocab_size = int(train[:LIMIT].max(initial=0)) + 1
    train_N = _read(train, vocab_size)
    count_V, total = np.bincount(train_N[:-1]), 0.0
    for share in _shares((train_N[:-1], train_N), (train_N[:0], train_N[:0]), vocab_size):
        # Every pair costs log c(v.) - log c(vw), and there are c(vw) of it.
        pair_G = np.bincount(share.train_gram_S)
        total += float(pair_G @ (np.log(count_V[share.code_G // vocab_size]) - np.log(pair_G)))
    return total / (len(train_N) - 1)


def bigram_counts(train: np.ndarray, heldout: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """For every predicted token of `heldout`: how often `train` has it after its predecessor, and any token after that.

    Arguments and errors as in `unigram_loss`.
    """
    train_N, heldout_N = _read(train, vocab_size), _read(heldout, vocab_size)
    pair_P = np.empty(len(heldout_N) - 1, np.int32)
    for share in _shares((train_N[:-1], train_N), (heldout_N[:-1], heldout_N), vocab_size):
        count_G = np.bincount(share.train_gram_S, minlength=len(share.code_G))
        pair_P[share.heldout_S] = count_G[share.heldout_gram_S]
    return pair_P, np.bincount(train_N[:-1], minlength=vocab_size).astype(np.int32)[heldout_N[:-1]]


def add_alpha_loss(count_P: np.ndarray, total_P: np.ndarray, vocab_size: int, alpha: float) -> float:
    """Mean of -log((count + alpha) / (total + alpha V)), in nats."""
    return float(np.mean(np.log(total_P + alpha * vocab_size) - np.log(count_P + alpha)))


def interpolated_losses(
    train: np.ndarray, heldout: np.ndarray, vocab_size: int, max_order: int = 7, discount: float = 0.75
) -> dict[int, float]:
    """Loss on `heldout` of interpolated absolute discounting for each order from 2 to `max_order`.

    Arguments and errors as in `unigram_loss`; the model is that of `interpolated_probabilities`.
    """
    probabilities = interpolated_probabilities(train, heldout, vocab_size, max_order, discount)
    return {order: float(-np.mean(np.log(p_P))) for order, p_P in probabilities if order >= 2}


def interpolated_probabilities(
    train: np.ndarray, heldout: np.ndarray, vocab_size: int, max_order: int, discount: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (n, P_n of every predicted token of `heldout`) for n = 1..max_order, float64 of shape P.

    P_n(w|h) = max(c(hw) - D, 0) / c(h.) + D N1+(h.) / c(h.) P_{n-1}(w|h'), where h is the n-1 tokens before w, h' is h
    less its oldest token, c counts in `train`, N1+(h.) is the number of different tokens that followed h, and P_0 is
    1/V. Where h was never followed by anything, and where fewer than n-1 tokens precede w, P_n is P_{n-1}. Ney, Essen
    and Kneser (1994), with plain counts at the lower orders.

    `discount` D lies between 0 and 1, both excluded.
    """
    train_N, heldout_N = _read(train, vocab_size), _read(heldout, vocab_size)
    count_V = np.bincount(train_N, minlength=vocab_size)
    mass = discount * np.count_nonzero(count_V) / vocab_size
    p_N = ((np.maximum(count_V - discount, 0) + mass) / len(train_N))[heldout_N]
    yield 1, p_N[1:]
    # Contexts are numbers; those of order 2 are the tokens.
    train_context_N, heldout_context_N = train_N[:-1], heldout_N[:-1]
    for order in range(2, max_order + 1):
        train_gram_N, heldout_gram_N = (
            np.empty(len(context_N), np.int32) for context_N in (train_context_N, heldout_context_N)
        )
        p_N, known = p_N.copy(), 0
        for share in _shares((train_context_N, train_N), (heldout_context_N, heldout_N), vocab_size):
            lower_S = p_N[order - 1 :][share.heldout_S]
            p_N[order - 1 :][share.heldout_S] = _interpolate(share, lower_S, vocab_size, discount)
            train_gram_N[share.train_S] = share.train_gram_S + known
            heldout_gram_N[share.heldout_S] = share.heldout_gram_S + known
            known += len(share.code_G)
        yield order, p_N[1:]
        # An n-gram is a context of the next order; what follows the last is not known.
        train_context_N, heldout_context_N = train_gram_N[:-1], heldout_gram_N[:-1]


def _interpolate(share: "Share", lower_S: np.ndarray, vocab_size: int, discount: float) -> np.ndarray:
    """The probabilities of one order of the held-out tokens of a share, from those of the order below."""
    count_G = np.bincount(share.train_gram_S, minlength=len(share.code_G))
    context_G = _numbered(share.code_G // vocab_size)
    followed_S = np.bincount(context_G, weights=count_G)[context_G][share.heldout_gram_S]
    followers_S = np.bincount(context_G, weights=count_G > 0)[context_G][share.heldout_gram_S]
    mass_S = np.maximum(count_G[share.heldout_gram_S] - discount, 0) + discount * followers_S * lower_S
    return np.divide(mass_S, followed_S, out=lower_S, where=followed_S > 0)


class Share(NamedTuple):
    """All n-grams whose contexts are in one share of the contexts; those of other shares have nothing to do with them.

    `train_S` and `heldout_S` are their places in the streams of contexts, `train_gram_S` and `heldout_gram_S` the place
    of each in `code_G`, the distinct codes of both in rising order.
    """

    train_S: np.ndarray
    heldout_S: np.ndarray
    code_G: np.ndarray
    train_gram_S: np.ndarray
    heldout_gram_S: np.ndarray


def _shares(
    train: tuple[np.ndarray, np.ndarray], heldout: tuple[np.ndarray, np.ndarray], vocab_size: int
) -> Iterator[Share]:
    """Divide n-grams, given as a stream of contexts and one of tokens that ends with what follows the last context.

    To sort them takes 60 bytes for each, too many to do it with all at once.
    """
    count = -(-(len(train[0]) + len(heldout[0])) // SHARE)
    for number in range(count):
        train_S, heldout_S = (np.flatnonzero(contexts % count == number) for contexts, _ in (train, heldout))
        yield Share(
            train_S,
            heldout_S,
            *_relabel(
                *(
                    contexts[places].astype(np.int64) * vocab_size + tokens[len(tokens) - len(contexts) :][places]
                    for (contexts, tokens), places in ((train, train_S), (heldout, heldout_S))
                )
            ),
        )


def _relabel(train_code_N: np.ndarray, heldout_code_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct codes of both arrays in rising order, and the arrays with every code replaced by its place there."""
    code_N = np.concatenate([train_code_N, heldout_code_N])
    span = int(code_N.max(initial=-1)) + 1
    if span <= 4 * len(code_N):  # A table of all possible codes is then several times faster than sorting.
        present = np.zeros(span, bool)
        present[code_N] = True
        code_G, id_N = np.flatnonzero(present), (np.cumsum(present) - 1)[code_N]
    else:
        code_G, id_N = np.unique(code_N, return_inverse=True)
    return code_G, id_N[: len(train_code_N)], id_N[len(train_code_N) :]


def _numbered(rising: np.ndarray) -> np.ndarray:
    """Replace the distinct numbers of a rising array by 0, 1, 2, ..."""
    return np.cumsum(np.diff(rising, prepend=rising[:1]) > 0)


def _read(stream: np.ndarray, vocab_size: int) -> np.ndarray:
    """The first LIMIT tokens of `stream`, checked; where it is memory-mapped, so are they."""
    tokens_N = np.asarray(stream[:LIMIT])
    if len(tokens_N) < 2:
        raise DataError(f"a split of {len(tokens_N)} tokens has nothing to predict; counts need two tokens or more")
    if tokens_N.min() < 0 or tokens_N.max() >= vocab_size:
        raise DataError(
            f"a split holds ids outside the vocabulary of {vocab_size}; tokenize it with the run's tokenizer"
        )
    return tokens_N
