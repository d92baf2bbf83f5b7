"""What a language model tells without having been trained to, against one text at a time and brute force."""

import numpy as np
import pytest
import torch
from torch import nn

from molino.base.errors import ConfigError, DataError
from molino.data.examples import Example
from molino.data.tokenizers import train_char
from molino.models.gpt import GPT
from molino.tasks import zero_shot
from molino.tasks.zero_shot import (
    Probe,
    Reader,
    best_threshold,
    measure_probe,
    probe_of,
    question,
    reader_of,
    weigh,
)

TOKENIZER = train_char(["abcdefghijklmnopqrstuvwxyz ._"])
BLOCK_SIZE = 16


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(0)
    model = GPT(TOKENIZER.size, BLOCK_SIZE, 2, 2, 16).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return Reader(model, TOKENIZER, (TOKENIZER.end_of_text_id,))


@torch.no_grad()
def by_hand(reader, before, after):
    """One text, and one token after the other, in float64."""
    given = [*reader.start, *TOKENIZER.encode(before).tolist()]
    weighed = TOKENIZER.encode(after).tolist()[: BLOCK_SIZE - 1]
    ids, total = given + weighed, 0.0
    ids = ids[max(len(ids) - 1 - BLOCK_SIZE, 0) :]
    for place in range(len(ids) - len(weighed), len(ids)):
        logits = reader.model(torch.tensor([ids[:place]]))[0, -1].double()
        total += float(logits.log_softmax(0)[ids[place]])
    return total / max(len(weighed), 1)


PAIRS = [
    ("", "a"), ("", "one text"), ("some", " text"), ("what is", " it"), ("a" * 30, "bc"), ("a" * 12, " abc"),
    ("abc", "d" * 40), ("x" * 14, "y"), ("x" * 13 + "z", "yy"), ("same", " text"), ("text", ""), ("", ""), ("ñ", "ñ"),
]  # fmt: skip


@pytest.mark.parametrize("room", [1, 40, zero_shot.EVALUATION_TOKENS])
def test_texts_are_weighed_as_one_at_a_time(reader, room, monkeypatch):
    monkeypatch.setattr(zero_shot, "EVALUATION_TOKENS", room)
    found = weigh(reader, PAIRS)
    assert found.dtype == np.float64
    assert found == pytest.approx(np.array([by_hand(reader, *pair) for pair in PAIRS]), abs=2e-6)
    assert np.ptp(found[:10]) > 0.3


def test_a_reader_begins_with_the_tokenizers_prefix_or_the_start():
    assert reader_of(None, TOKENIZER, 5, ()).start == (5,) and reader_of(None, TOKENIZER, 5, (7, 8)).start == (7, 8)


@pytest.mark.parametrize(
    ("text", "choice", "wanted"),
    [
        ("what is red?", "blood", ("what is red?", " blood")),
        ("the _ is red.", "blood", ("the blood", " is red.")),
        ("_ is red.", "blood", ("blood", " is red.")),
        ("the _ and the _ are", "sea", ("the sea", " and the _ are")),
    ],
)
def test_a_choice_is_weighed_or_what_follows_its_gap(text, choice, wanted):
    assert question(Example(text, choices=("x", choice)), choice) == wanted


@pytest.mark.parametrize("text", ["what is red? _", "what is red? _ "])
def test_with_nothing_behind_the_gap_the_choice_is_weighed(text):
    """Else all choices would weigh the same: nothing."""
    assert question(Example(text, choices=("x", "y")), "blood") == ("what is red?", " blood")


class Cheat(nn.Module):
    """Knows which character follows which: logits of 9 for it, and of 0 for all others."""

    def __init__(self, follows: dict[str, str]):
        super().__init__()
        self.block_size, self.vocab_size = 64, TOKENIZER.size
        table = torch.zeros(TOKENIZER.size, TOKENIZER.size)
        for one, other in follows.items():
            table[TOKENIZER.encode(one)[0], TOKENIZER.encode(other)[0]] = 9.0
        self.table = nn.Parameter(table)

    def forward(self, tokens_BT):
        return self.table[tokens_BT]


def cheating(**follows):
    return Reader(Cheat(follows | {each: follows["_"] for each in " " if "_" in follows}), TOKENIZER, (2,))


def test_who_knows_the_word_that_follows_is_always_right():
    # After a text that ends with x comes a word with y, and so on.
    reader = cheating(x="y", z="w", _="y")
    examples = [Example("it is x", label="yes"), Example("it is z", label="no"), Example("no label")] * 3
    probe = probe_of(examples, "{text}{label}", {"yes": "y", "no": "w"})
    told = measure_probe(reader, probe, examples, [], {"yes": "y", "no": "w"})
    assert told == {"accuracy": 1.0, "chance": 0.5, "examples": 6}
    # With the words exchanged it is always wrong.
    assert measure_probe(reader, probe, examples, [], {"yes": "w", "no": "y"})["accuracy"] == 0.0


def test_who_knows_the_answer_is_always_right():
    reader = cheating(a="b", b="c", _="a")
    rows = [("acc", "abc", "cba"), ("abc", "cab", "bac"), ("bca", "bcb", "abc")]
    examples = [Example("q", choices=row, answer=row.index("abc")) for row in rows] + [Example("q", choices=rows[0])]
    told = measure_probe(reader, probe_of(examples, None), examples, [], {})
    assert told == {"accuracy": 1.0, "chance": 1 / 3, "examples": 3}
    gaps = [Example("_xyz", choices=("a", "w"), answer=1), Example("_xyz", choices=("w", "a"), answer=0)]
    assert measure_probe(cheating(w="x", x="y", y="z"), Probe("choices"), gaps, [], {})["accuracy"] == 1.0


def test_acceptable_is_what_is_likelier_than_a_threshold():
    reader = cheating(a="b", b="a")
    train = [Example("abab", label="acceptable"), Example("zzzz", label="unacceptable")] * 3
    scored = [
        Example("baba", label="acceptable"),
        Example("babab", label="acceptable"),
        Example("qxq", label="unacceptable"),
    ]
    probe = probe_of([*train, Example("x")], None)
    assert probe == Probe("acceptable", ("unacceptable", "acceptable"))
    told = measure_probe(reader, probe, scored, train, {})
    assert told == {"matthews": 1.0, "accuracy": 1.0, "chance": 0.0, "majority": 2 / 3, "examples": 3}
    wrong = [each._replace(label="acceptable" if each.label[0] == "u" else "unacceptable") for each in scored]
    assert measure_probe(reader, probe, wrong, train, {})["matthews"] == -1.0


def correlation(one, other):
    """The Matthews correlation of two classes, which is Pearson's of zeros and ones."""
    return 0.0 if np.ptp(one) == 0 or np.ptp(other) == 0 else np.corrcoef(one, other)[0, 1]


@pytest.mark.parametrize("distinct", [3, 8, 10**6])
def test_the_best_threshold_is_that_of_brute_force(distinct):
    """Also where values are equal, which no threshold tells apart."""
    for seed in range(30):
        generator = np.random.default_rng(seed)
        right = generator.integers(0, 2, 24)
        told = generator.integers(0, distinct, 24) / distinct + right * generator.choice([0, 0.3])
        worth = lambda threshold, told=told, right=right: correlation(right, (told > threshold) * 1)  # noqa: E731
        best = max(worth(threshold) for threshold in [-np.inf, *told])
        assert worth(best_threshold(told, right)) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("right", [[0, 0, 0], [1, 1, 1]])
def test_a_threshold_of_one_class_is_any(right):
    assert not np.isnan(best_threshold(np.array([1.0, 2.0, 3.0]), np.array(right)))


def labelled(*labels):
    return [Example("text", label=each) for each in labels]


def test_what_is_asked_of_examples():
    assert probe_of(labelled("positive", None, "negative"), None) == Probe(
        "words", ("negative", "positive"), "{text} very {label}"
    )
    assert probe_of(labelled("b", "a"), "{text}: {label} ").classes == ("a", "b")
    # A template is asked of acceptability where there is one.
    assert probe_of(labelled("acceptable", "unacceptable"), "{text} {label}").how == "words"
    assert probe_of([Example("q", choices=("a", "b"))], None) == Probe("choices")


@pytest.mark.parametrize(
    ("examples", "template", "words", "error", "message"),
    [
        (
            [Example("q", choices=("a", "b"))],
            "{text} {label}",
            None,
            ConfigError,
            "is for classes, and these examples have",
        ),
        (labelled("a", "a", None), None, None, DataError, "neither classes nor choices: there is nothing to ask"),
        (labelled("a", "b"), None, None, ConfigError, "what to ask of a, b is not known: add template, such as"),
        (labelled("a", "b"), "{label} {text}", None, ConfigError, r"must hold \{text\} and end with \{label\}"),
        (labelled("a", "b"), "it is {label}", None, ConfigError, r"must hold \{text\} and end with \{label\}"),
        (labelled("a", "b"), "{text} {label}!", None, ConfigError, r"must hold \{text\} and end with \{label\}"),
        (labelled("a", "b"), "{text} {x} {label}", None, ConfigError, r"\{x\} is none of \{text\}, \{pair\} and"),
        (labelled("a", "b"), "{text} {label}", {"a": "b"}, ConfigError, "say the same of two classes"),
        (labelled("acceptable", "unacceptable"), None, {"acceptable": "x"}, ConfigError, "words are for a template"),
        (labelled("a", "b"), "{text} {label}", {"c": "x"}, ConfigError, r"words\.c is none of the classes a, b"),
    ],
)
def test_what_cannot_be_asked_is_one_line(examples, template, words, error, message):
    with pytest.raises(error, match=message) as raised:
        probe_of(examples, template, words)
    assert "\n" not in str(raised.value)
