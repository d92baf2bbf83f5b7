"""A corpus that is made up on the spot."""

import random

from molino.data.corpus import Corpus, digest, split_fraction
from molino.data.text import Text


class Sums(Corpus):
    """Additions, one a line: 17+5=22.

    Args:
        count: how many.
        largest: of the numbers that are added.
        seed: decides which.
        train_fraction: share of the text, from the start, to train on.
    """

    name = "sums"
    licence = "CC0"
    documents = False

    def __init__(self, count: int = 20_000, largest: int = 99, seed: int = 0, train_fraction: float = 0.9):
        self.count, self.largest, self.seed, self.train_fraction = count, largest, seed, train_fraction

    def fingerprint(self) -> str:
        """All that the text follows from. Whoever changes `read` changes the number in front."""
        return digest(1, self.count, self.largest, self.seed, self.train_fraction)

    def read(self) -> dict[str, list[Text]]:
        draw = random.Random(self.seed)
        pairs = ((draw.randint(0, self.largest), draw.randint(0, self.largest)) for _ in range(self.count))
        return split_fraction("".join(f"{one}+{two}={one + two}\n" for one, two in pairs), self.train_fraction)
