"""Count-based language models: the losses a neural model has to beat, exact and in seconds.

All losses are mean nats per predicted token: tokens 1..N-1 of the held-out stream, each given what came before it.
No V x V table is needed: n-grams are dense ids, and the code of an n-gram is (id of its first n-1 tokens) * V + (its
last token), which stays below the number of tokens times V, whatever the order. Numpy only.

Shapes: N tokens of a stream, P predicted tokens (N - 1), G distinct n-grams, V vocabulary.
"""

from collections.abc import Iterator

import numpy as np

from molino.errors import DataError

# Of a longer stream only the first LIMIT tokens are read: so many take 40 seconds and 2.3 GB to order 7.
LIMIT = 20_000_000


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
    return add_alpha_loss(*bigram_counts(train, heldout, vocab_size), vocab_size, alpha)


def bigram_optimum(train: np.ndarray) -> float:
    """The lowest cross-entropy that any bigram table reaches on `train`: the conditional entropy of its pairs, in nats.

    Exact for streams up to LIMIT tokens; of a longer one it is the optimum of the first LIMIT.
    """
    vocab_size = int(train[:LIMIT].max(initial=0)) + 1
    train_N = _read(train, vocab_size)
    code_P = train_N[:-1] * vocab_size + train_N[1:]
    _, gram_P, _ = _relabel(code_P, code_P[:0])
    pair_P, followed_P = np.bincount(gram_P)[gram_P], np.bincount(train_N[:-1])[train_N[:-1]]
    return float(np.mean(np.log(followed_P) - np.log(pair_P)))


def bigram_counts(train: np.ndarray, heldout: np.ndarray, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """For every predicted token of `heldout`: how often `train` has it after its predecessor, and any token after that.

    Arguments and errors as in `unigram_loss`.
    """
    train_N, heldout_N = _read(train, vocab_size), _read(heldout, vocab_size)
    gram_G, train_gram_N, heldout_gram_N = _relabel(
        train_N[:-1] * vocab_size + train_N[1:], heldout_N[:-1] * vocab_size + heldout_N[1:]
    )
    pair_P = np.bincount(train_gram_N, minlength=len(gram_G))[heldout_gram_N]
    return pair_P, np.bincount(train_N[:-1], minlength=vocab_size)[heldout_N[:-1]]


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
    # The empty context of every token, and one more because an order drops the last: order 1 is then no exception.
    train_context_N, heldout_context_N = np.zeros(len(train_N) + 1, int), np.zeros(len(heldout_N) + 1, int)
    p_N = np.full(len(heldout_N), 1.0 / vocab_size)
    for order in range(1, max_order + 1):
        train_context_N, heldout_context_N = train_context_N[:-1], heldout_context_N[:-1]
        train_code_N = train_context_N * vocab_size + train_N[order - 1 :]
        heldout_code_N = heldout_context_N * vocab_size + heldout_N[order - 1 :]
        gram_G, train_gram_N, heldout_gram_N = _relabel(train_code_N, heldout_code_N)
        count_G = np.bincount(train_gram_N, minlength=len(gram_G))

        context_G = gram_G // vocab_size
        followed = np.bincount(context_G, weights=count_G)[heldout_context_N]
        followers = np.bincount(context_G, weights=count_G > 0)[heldout_context_N]
        lower_N = p_N[order - 1 :]
        share_N = np.maximum(count_G[heldout_gram_N] - discount, 0) + discount * followers * lower_N
        p_N = p_N.copy()
        np.divide(share_N, followed, out=p_N[order - 1 :], where=followed > 0)
        yield order, p_N[1:]
        # An n-gram is a context of the next order.
        train_context_N, heldout_context_N = train_gram_N, heldout_gram_N


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


def _read(stream: np.ndarray, vocab_size: int) -> np.ndarray:
    """The first LIMIT tokens of `stream` as int64, checked."""
    tokens_N = np.asarray(stream[:LIMIT]).astype(np.int64)
    if len(tokens_N) < 2:
        raise DataError(f"a split of {len(tokens_N)} tokens has nothing to predict; counts need two tokens or more")
    if tokens_N.min() < 0 or tokens_N.max() >= vocab_size:
        raise DataError(
            f"a split holds ids outside the vocabulary of {vocab_size}; tokenize it with the run's tokenizer"
        )
    return tokens_N
