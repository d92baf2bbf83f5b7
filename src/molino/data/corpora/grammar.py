"""Text drawn from a probabilistic grammar, whose entropy rate is known exactly.

A measured loss can be compared with the truth: no model's expected loss is below `entropy_per_character`, and the
distance to it is what the model has yet to learn.

The rate is H(derivation of a sentence) / E[characters of a sentence]. It is exact because the sentences are drawn
independently, a text has only one derivation and a sentence shows where it ends; the last two follow because, at every
choice, no text of one alternative begins a text of another (Cover and Thomas, Elements of Information Theory, 5.1).
"""

import random

from molino.base.errors import ConfigError
from molino.data.corpora.chivalry import tale
from molino.data.corpora.rules import Measure, draw
from molino.data.corpus import check_train_fraction, digest, split_fraction


class Grammar:
    """Independent sentences of the tale of chivalry, one a line.

    Args:
        seed: decides the text; the same seed gives the same text on every machine.
        characters: length of the text; its last sentence is cut there.
        train_fraction: share of the characters, from the start, to train on.
    """

    licence = "CC0-1.0"
    documents = False

    def __init__(self, seed: int = 0, characters: int = 1_000_000, train_fraction: float = 0.9, name: str = "grammar"):
        check_train_fraction(train_fraction)
        if characters < 2:
            raise ConfigError(f"data.corpus.characters={characters} must be at least 2")
        self.name, self.seed, self.characters, self.train_fraction = name, seed, characters, train_fraction
        self.root = tale()
        self.measure = Measure(self.root)
        self.entropy_per_character = self.measure.entropy / self.measure.length

    def fingerprint(self) -> str:
        return digest(self.measure.sha256, self.seed, self.characters, self.train_fraction)

    def read(self) -> dict[str, list[str]]:
        generator = random.Random(self.seed)
        sentences, length = [], 0
        while length < self.characters:
            sentences.append(draw(self.root, generator))
            length += len(sentences[-1])
        return split_fraction("".join(sentences)[: self.characters], self.train_fraction)
