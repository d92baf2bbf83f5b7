"""Modified Kneser-Ney smoothing as Chen and Goodman write it down, with dictionaries: slow, sharing nothing with ours.

A gram is a tuple; before a document stands None, as often as it takes.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable


def grams_of(documents: Iterable[list[int]], order: int) -> list[tuple]:
    """Return the gram that ends with each token but the first of each document."""
    padded = [[None] * order + document for document in documents]
    return [tuple(tokens[end - order : end]) for tokens in padded for end in range(order + 2, len(tokens) + 1)]


def model(grams: list[tuple], vocab_size: int) -> Callable[[tuple, int], float]:
    """Return p(context, token) of counts of grams that are all equally long; contexts are as long as those of grams."""
    order = len(grams[0])
    counts = {order: Counter(grams)}
    for length in range(order - 1, 0, -1):
        counts[length] = Counter(longer[1:] for longer in counts[length + 1])
    followers: dict[int, dict[tuple, dict[int, int]]] = {}
    discounts = {}
    for length, counter in counts.items():
        followers[length] = defaultdict(dict)
        for gram, count in counter.items():
            followers[length][gram[:-1]][gram[-1]] = count
        n = Counter(counter.values())
        y = n[1] / max(n[1] + 2 * n[2], 1)
        discounts[length] = {}
        for i in (1, 2, 3):
            d = i - (i + 1) * y * n[i + 1] / max(n[i], 1)
            discounts[length][i] = min(max(d, 0.05), i - 0.05)

    def probability(context: tuple, token: int) -> float:
        length = len(context) + 1
        lower = probability(context[1:], token) if context else 1 / vocab_size
        seen = followers[length].get(context)
        if not seen:
            return lower
        total, discount = sum(seen.values()), discounts[length]
        left = sum(discount[min(count, 3)] for count in seen.values()) / total
        own = seen.get(token, 0)
        return (own - (discount[min(own, 3)] if own else 0)) / total + left * lower

    return probability
