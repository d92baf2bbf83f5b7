"""Probabilistic grammars without recursion: literals, sequences and choices, drawn from and measured exactly."""

import itertools
import math
import random
from bisect import bisect
from collections.abc import Sequence
from typing import Union

from molino.data.corpus import digest

# A rule: literal text, a sequence of rules, or a choice among rules.
Node = Union[str, tuple, "Choice"]


class Choice:
    """One of `alternatives`, drawn with the probabilities `weights` (normalised here)."""

    def __init__(self, weights: Sequence[float], alternatives: Sequence[Node]):
        total = math.fsum(weights)
        self.probabilities = tuple(weight / total for weight in weights)
        self.alternatives = tuple(alternatives)
        self.cumulative = tuple(itertools.accumulate(self.probabilities))[:-1]

    @classmethod
    def zipfian(cls, alternatives: Sequence[Node]) -> "Choice":
        """Weights 1, 1/2, 1/3, ..., as words have."""
        return cls([1 / rank for rank in range(1, len(alternatives) + 1)], alternatives)


class Measure:
    """Exact entropy (nats), expected length (characters) and sha256 of every rule below `root`, each computed once."""

    def __init__(self, root: Node):
        self._known: dict[Choice, tuple[float, float, str]] = {}
        self.entropy, self.length, self.sha256 = self._measure(root)

    def _measure(self, node: Node) -> tuple[float, float, str]:
        if isinstance(node, str):
            return 0.0, float(len(node)), digest("text", node)
        if isinstance(node, tuple):
            entropies, lengths, digests = zip(*map(self._measure, node), strict=True)
            return math.fsum(entropies), math.fsum(lengths), digest("sequence", digests)
        if node not in self._known:
            self._known[node] = self._measure_choice(node)
        return self._known[node]

    def _measure_choice(self, node: Choice) -> tuple[float, float, str]:
        entropies, lengths, digests = zip(*map(self._measure, node.alternatives), strict=True)
        chances = node.probabilities
        entropy = math.fsum(p * (h - math.log(p)) for p, h in zip(chances, entropies, strict=True))
        length = math.fsum(p * n for p, n in zip(chances, lengths, strict=True))
        return entropy, length, digest("choice", chances, digests)


def draw(node: Node, generator: random.Random) -> str:
    """Return the text of one random derivation of `node`. It uses nothing of the generator but `random()`."""
    if isinstance(node, str):
        return node
    if isinstance(node, tuple):
        return "".join([draw(part, generator) for part in node])
    return draw(node.alternatives[bisect(node.cumulative, generator.random())], generator)
