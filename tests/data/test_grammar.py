"""The exact entropy rate, held against sampling, enumeration and parsing; and the property it rests on."""

import itertools
import math
import random
import statistics

import pytest

from molino.base.errors import ConfigError
from molino.data.corpora import chivalry
from molino.data.corpora.grammar import Grammar
from molino.data.corpora.rules import Choice, Measure

# No two alternatives of a choice agree on more characters than this.
LOOK_AHEAD = 24


def texts(node):
    """Every text of a small rule with its probability, one entry a derivation."""
    if isinstance(node, str):
        return [(node, 1.0)]
    if isinstance(node, tuple):
        derivations = itertools.product(*map(texts, node))
        return [("".join(text for text, _ in one), math.prod(p for _, p in one)) for one in derivations]
    alternatives = zip(node.probabilities, node.alternatives, strict=True)
    return [(text, chance * p) for chance, alternative in alternatives for text, p in texts(alternative)]


def surprisal_and_length(node, generator):
    """-ln p (nats) and characters of one derivation, drawn here and not by the code under test."""
    if isinstance(node, str):
        return 0.0, len(node)
    if isinstance(node, tuple):
        parts = [surprisal_and_length(part, generator) for part in node]
        return sum(nats for nats, _ in parts), sum(length for _, length in parts)
    (index,) = generator.choices(range(len(node.alternatives)), node.probabilities)
    nats, length = surprisal_and_length(node.alternatives[index], generator)
    return nats - math.log(node.probabilities[index]), length


def beginnings(node, length):
    """The first `length` characters of every text of a rule; shorter texts whole."""
    if isinstance(node, str):
        return {node[:length]}
    if isinstance(node, Choice):
        return set().union(*(beginnings(alternative, length) for alternative in node.alternatives))
    found = {""}
    for part in node:
        if all(len(text) == length for text in found):
            break
        found = {
            text + more
            for text in found
            for more in ([""] if len(text) == length else beginnings(part, length - len(text)))
        }
    return found


def choices(node, seen):
    """Add every choice below `node` to `seen`."""
    if isinstance(node, str) or node in seen:
        return
    if isinstance(node, Choice):
        seen.add(node)
    for part in node.alternatives if isinstance(node, Choice) else node:
        choices(part, seen)


def parses(node, text, start):
    """Every (nats, end) in which a derivation of `node` reads `text` from `start`."""
    if isinstance(node, str):
        return [(0.0, start + len(node))] if text.startswith(node, start) else []
    if isinstance(node, Choice):
        alternatives = zip(node.probabilities, node.alternatives, strict=True)
        return [(nats - math.log(p), end) for p, one in alternatives for nats, end in parses(one, text, start)]
    found = [(0.0, start)]
    for part in node:
        found = [(nats + more, end) for nats, middle in found for more, end in parses(part, text, middle)]
    return found


@pytest.fixture(scope="module")
def grammar():
    return Grammar()


@pytest.fixture(scope="module")
def text(grammar):
    splits = grammar.read()
    return splits["train"][0] + splits["val"][0]


def test_small_rules_agree_with_full_enumeration():
    rules = [chivalry.foe(), chivalry.deed(1), chivalry.state(1, 1), chivalry.journey("Oriana", "Gaula")]
    for rule in rules:
        listed = texts(rule)
        measure = Measure(rule)
        assert len({text for text, _ in listed}) == len(listed)
        assert math.fsum(p for _, p in listed) == pytest.approx(1, abs=1e-12)
        assert measure.entropy == pytest.approx(-math.fsum(p * math.log(p) for _, p in listed), abs=1e-12)
        assert measure.length == pytest.approx(math.fsum(p * len(text) for text, p in listed), rel=1e-12)


def test_entropy_rate_agrees_with_sampling(grammar):
    generator = random.Random(1)
    nats, lengths = zip(*(surprisal_and_length(grammar.root, generator) for _ in range(8_000)), strict=True)
    error = math.sqrt(len(nats))
    assert abs(statistics.mean(nats) - grammar.measure.entropy) < 4 * statistics.stdev(nats) / error
    assert abs(statistics.mean(lengths) - grammar.measure.length) < 4 * statistics.stdev(lengths) / error
    rate = grammar.entropy_per_character
    residuals = [a - rate * n for a, n in zip(nats, lengths, strict=True)]
    assert abs(statistics.mean(residuals)) < 4 * statistics.stdev(residuals) / error


def test_no_text_of_an_alternative_begins_a_text_of_another(grammar):
    found = set()
    choices(grammar.root, found)
    assert len(found) > 50
    for choice in found:
        sets = [beginnings(alternative, LOOK_AHEAD) for alternative in choice.alternatives]
        for one, other in itertools.combinations(sets, 2):
            clashes = [(a, b) for a in one for b in other if a.startswith(b) or b.startswith(a)]
            assert not clashes


def test_every_sentence_has_one_derivation_and_the_text_meets_the_rate(grammar, text):
    nats, start = 0.0, 0
    for sentence in text[:120_000].splitlines(keepends=True)[:-1]:
        ((more, end),) = parses(grammar.root, text, start)
        assert end == start + len(sentence)
        nats, start = nats + more, end
    assert nats / start == pytest.approx(grammar.entropy_per_character, rel=0.02)


def test_text_is_reproducible_and_differs_by_seed(grammar, text):
    short = Grammar(seed=0, characters=5_000).read()
    assert text.startswith(short["train"][0] + short["val"][0])
    assert Grammar(seed=1, characters=5_000).read() != short
    assert text.startswith("En aquella sazón don Belianís, herido de amor, desafió a los dragones soberbios,")


def test_fingerprint_follows_the_text(grammar):
    assert grammar.fingerprint() == Grammar().fingerprint()
    others = [Grammar(seed=1), Grammar(characters=999_999), Grammar(train_fraction=0.8)]
    assert len({corpus.fingerprint() for corpus in [grammar, *others]}) == 4
    assert Measure("a").sha256 != Measure("b").sha256
    assert Measure(("ab", "c")).sha256 != Measure(("a", "bc")).sha256


def test_default_text(grammar, text):
    assert len(text) == 1_000_000
    assert grammar.documents is False
    lengths = [len(line) + 1 for line in text.splitlines()[:-1]]
    assert statistics.mean(lengths) == pytest.approx(grammar.measure.length, rel=0.01)
    assert min(lengths) >= 60 and max(lengths) <= 200


def test_the_end_names_the_hero_of_the_beginning(text):
    for line in text.splitlines()[:1000]:
        heroes = [hero for hero in chivalry.HEROES if hero in line]
        assert heroes and all(line.count(hero) == 2 for hero in heroes)


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match=r"train_fraction=1\.5"):
        Grammar(train_fraction=1.5)
    with pytest.raises(ConfigError, match="characters=0"):
        Grammar(characters=0)
