"""Modified Kneser-Ney smoothing: what counts say of how a text goes on.

An n-gram model that takes a discount from each count and gives what is saved to the model one token shorter (Chen and
Goodman 1998, section 3): three discounts a length, for counts of one, two and more, which follow from how many n-grams
have been counted once, twice, three and four times; below the longest length an n-gram counts as often as there are
different tokens before it; at the bottom all tokens of the vocabulary are equally likely. It is interpolated: the model
one token shorter has its share in what has been counted, too.

`losses` needs the probability of what came alone; `molino.models.tables` gives whole distributions. Shapes as in
counting.py.
"""

from collections.abc import Iterable

import numpy as np

from molino.models.counting import Level, Ngrams, Stream, find, find_contexts

NEAREST = 0.05  # to nothing, and to the whole count, that a discount comes


def discounted(count_G: np.ndarray, level: Level) -> tuple[np.ndarray, np.ndarray]:
    """Return what n-grams have for themselves of their contexts, and what each context has left, share_G and left_C.

    Args:
        count_G: how often each n-gram of a level counts; one with 0 is not known.
    """
    have = np.bincount(np.minimum(count_G, 5), minlength=6)[1:5].astype(float)  # of once, twice, three, four times
    saved = have[0] / max(have[0] + 2 * have[1], 1)
    computed = (i - (i + 1) * saved * have[i] / max(have[i - 1], 1) for i in (1, 2, 3))
    # Where n-grams are few, they may come out negative, or beyond the count.
    discounts = np.array([0.0, *(min(max(d, NEAREST), i - NEAREST) for i, d in enumerate(computed, start=1))])
    discount_G, contexts = discounts[np.minimum(count_G, 3)], len(level.key_C)
    total_C = np.bincount(level.context_G, count_G, contexts)
    left_C = np.bincount(level.context_G, discount_G, contexts)
    share_G = (count_G - discount_G) / np.maximum(total_C, 1)[level.context_G]
    return share_G, np.divide(left_C, total_C, out=np.ones(contexts), where=total_C > 0)


def smoothed(ngrams: Ngrams, count_G: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return share_G and left_C of each level, for counts of the longest n-grams."""
    found = [discounted(count_G, ngrams.levels[-1])]
    for shorter, level in zip(ngrams.levels[-2::-1], ngrams.levels[::-1], strict=False):
        count_G = np.bincount(level.lower_G[count_G > 0], minlength=len(shorter.token_G))
        found.append(discounted(count_G, shorter))
    return found[::-1]


def losses(ngrams: Ngrams, stream: Stream) -> dict[int, float]:
    """Return what each order comes to on a stream, in mean nats a predicted token."""
    V, came_P, found = ngrams.vocab_size, np.asarray(stream.tokens[1:]).astype(np.int64), {}
    contexts, counts = find_contexts(ngrams, stream.digits(V), len(came_P)), _counts(ngrams)
    lower_P = np.full(len(came_P), 1 / V)
    for order, (level, context_P, (longest_G, shorter_G)) in enumerate(
        zip(ngrams.levels, contexts, counts, strict=True), start=1
    ):
        gram_P = find(level.context_G.astype(np.int64) * V + level.token_G, context_P * V + came_P)
        places = level, context_P, np.where(context_P >= 0, gram_P, -1)
        found[order] = -float(np.log(_interpolated(longest_G, lower_P, *places)).mean())
        lower_P = _interpolated(shorter_G, lower_P, *places)
    return found


def _counts(ngrams: Ngrams) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Return how often the n-grams of each level count: where they are the longest, and where there are longer ones."""
    longest_G = np.bincount(ngrams.gram_P)
    found = [(longest_G, longest_G)]
    for level, shorter in zip(ngrams.levels[:0:-1], ngrams.levels[-2::-1], strict=True):
        grams = len(shorter.token_G)
        longest_G = np.bincount(level.lower_G, longest_G, grams).astype(np.int64)
        found.append((longest_G, np.bincount(level.lower_G, minlength=grams)))
    return found[::-1]


def _interpolated(
    count_G: np.ndarray, lower_P: np.ndarray, level: Level, context_P: np.ndarray, gram_P: np.ndarray
) -> np.ndarray:
    share_G, left_C = discounted(count_G, level)
    return np.where(gram_P >= 0, share_G[gram_P], 0) + np.where(context_P >= 0, left_C[context_P], 1) * lower_P
