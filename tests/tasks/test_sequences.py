"""Sequences of examples against lists put together by hand, and orders of batches against what they promise."""

import random

import numpy as np
import pytest
import torch

from molino.base.errors import ConfigError, DataError
from molino.data import batches
from molino.data.tokenizers import train_char
from molino.data.tokens import Split
from molino.models import IGNORE_INDEX
from molino.tasks import sequences
from molino.tasks.sequences import (
    BOTH_ORDERS,
    DELIMITER,
    EXTRACT,
    ONE,
    START,
    TWO,
    ExampleBatches,
    Marks,
    Sequences,
    choices,
    marks_of,
    next_tokens,
    sequences_of,
)

MARKS = Marks((90,), (91,), (92,), 0)
BARE = Marks((), (91,), (), 0)


def flat(examples):
    """The tokens of all texts in a row, with something between them, and where each begins and ends."""
    tokens, bounds = [77], []
    for texts in examples:
        bounds.append([])
        for text in texts:
            bounds[-1].append([len(tokens), len(tokens) + len(text)])
            tokens += [*text, 77]
    return np.array(tokens, np.uint16), np.array(bounds)


def made(examples, layout, block_size=100, marks=MARKS):
    return Sequences(*flat(examples), layout, marks, block_size)


def lists(found: Sequences, numbers=None):
    """Sequences without their padding, which must be padding."""
    tokens, lengths, _ = found.take(np.arange(len(found)) if numbers is None else np.array(numbers))
    assert tokens.shape[2] == lengths.max()
    padded = np.arange(tokens.shape[2]) >= lengths[..., None]
    assert (tokens[padded] == found.marks.padding).all()
    return [
        [row[:size].tolist() for row, size in zip(*pair, strict=True)] for pair in zip(tokens, lengths, strict=True)
    ]


@pytest.mark.parametrize(
    ("layout", "texts", "wanted"),
    [
        (ONE, [[1, 2, 3]], [[90, 1, 2, 3, 92]]),
        (ONE, [[]], [[90, 92]]),
        (TWO, [[1, 2], [3]], [[90, 1, 2, 91, 3, 92]]),
        (TWO, [[], [3]], [[90, 91, 3, 92]]),
        (BOTH_ORDERS, [[1, 2], [3]], [[90, 1, 2, 91, 3, 92], [90, 3, 91, 1, 2, 92]]),
        (choices(3), [[1], [2], [3, 4], []], [[90, 1, 91, 2, 92], [90, 1, 91, 3, 4, 92], [90, 1, 91, 92]]),
    ],
)
def test_layouts(layout, texts, wanted):
    # A neighbour of other lengths changes nothing.
    other = [[5] * (4 - number) for number in range(len(texts))]
    found = made([texts, other, texts], layout)
    assert lists(found)[0] == lists(found)[2] == lists(found, [0])[0] == wanted
    assert not found.cut_N.any() and found.lengths_NK[0].tolist() == list(map(len, wanted))


@pytest.mark.parametrize(
    ("layout", "texts", "wanted"),
    [
        (ONE, [[1, 2]], [[1, 2]]),
        (ONE, [[]], [[0]]),  # a sequence is never empty
        (TWO, [[1, 2], [3]], [[1, 2, 91, 3]]),
    ],
)
def test_layouts_without_marks_around(layout, texts, wanted):
    assert lists(made([texts], layout, marks=BARE))[0] == wanted


def test_where_second_texts_begin():
    _, lengths, seconds = made([[[1, 2], [3]], [[], [3]]], BOTH_ORDERS).take(np.arange(2))
    assert seconds.tolist() == [[4, 3], [2, 3]]  # behind <start> a b <delimiter>
    _, lengths, seconds = made([[[1, 2]], [[3]]], ONE).take(np.arange(2))
    assert (seconds == lengths).all()


@pytest.mark.parametrize(
    ("layout", "texts", "room", "wanted"),
    [
        (ONE, [[1, 2, 3, 4]], 3, [[1, 2, 3]]),
        (TWO, [[1, 2, 3, 4], [5, 6]], 4, [[1, 2, 91, 5, 6]]),
        (TWO, [[1, 2, 3, 4], [5, 6]], 2, [[91, 5, 6]]),
        (TWO, [[1, 2, 3, 4], [5, 6, 7]], 2, [[91, 5, 6]]),
        (choices(2), [[1, 2, 3], [4], [5, 6]], 3, [[1, 2, 91, 4], [1, 91, 5, 6]]),
        # Two that are too long get half each; what a short one leaves the other may have.
        (BOTH_ORDERS, [[1, 2, 3, 4], [5, 6, 7, 8]], 4, [[1, 2, 91, 5, 6], [5, 6, 91, 1, 2]]),
        (BOTH_ORDERS, [[1, 2, 3, 4], [5]], 4, [[1, 2, 3, 91, 5], [5, 91, 1, 2, 3]]),
        (BOTH_ORDERS, [[1], [5, 6, 7, 8]], 4, [[1, 91, 5, 6, 7], [5, 6, 7, 91, 1]]),
        (BOTH_ORDERS, [[1, 2, 3], [5, 6, 7]], 5, [[1, 2, 91, 5, 6, 7], [5, 6, 91, 1, 2, 3]]),
    ],
)
def test_what_is_too_long_is_cut(layout, texts, room, wanted):
    pieces = len(layout.sequences[0])
    found = made([texts, [[1]] * len(texts)], layout, room + pieces - 1, BARE)
    assert [[id for id in row if id] for row in lists(found)[0]] == [[id for id in row if id] for row in wanted]
    assert found.cut_N.tolist() == [True, False]
    marked = made([texts], layout, room + pieces + 1)
    assert lists(marked)[0] == [[90, *row, 92] for row in wanted]


@pytest.mark.parametrize("layout", [ONE, TWO, BOTH_ORDERS, choices(3)], ids=["one", "two", "both", "choices"])
@pytest.mark.parametrize("block_size", [4, 5, 9, 16])
def test_no_sequence_is_longer_than_the_context_and_no_room_is_left_unused(layout, block_size):
    chance = random.Random(block_size)
    texts = 1 + max(number for row in layout.sequences for number in row)
    examples = [
        [[chance.randrange(1, 70) for _ in range(chance.randrange(14))] for _ in range(texts)] for _ in range(99)
    ]
    found = made(examples, layout, block_size)
    around = 2 + len(layout.sequences[0]) - 1
    for example, rows, cut in zip(examples, lists(found), found.cut_N, strict=True):
        lost = False
        for order, row in zip(layout.sequences, rows, strict=True):
            whole = sum(len(example[number]) for number in order)
            assert len(row) == min(whole + around, block_size)
            kept = " ".join(map(str, row[1:-1])).split("91")
            pieces = [[int(each) for each in piece.split()] for piece in kept]
            # What is kept of a text is its beginning.
            assert all(piece == example[n][: len(piece)] for piece, n in zip(pieces, order, strict=True))
            if len(order) == 2 and not layout.symmetric:
                assert len(pieces[1]) == min(len(example[order[1]]), block_size - around)
            lost |= whole + around > block_size
        assert cut == lost


@pytest.mark.parametrize(
    ("layout", "marks", "least"), [(ONE, MARKS, 3), (TWO, MARKS, 4), (ONE, BARE, 1), (TWO, BARE, 2)]
)
def test_a_context_without_room_is_refused(layout, marks, least):
    texts = [[[1, 2, 3]] * len(layout.sequences[0])]
    assert made(texts, layout, least, marks).lengths_NK.tolist() == [[least]]
    with pytest.raises(
        ConfigError, match=rf"data\.block_size={least - 1} has no room for a text beside {least - 1} marks"
    ):
        made(texts, layout, least - 1, marks)


def test_sequences_of_a_split_are_its_texts_by_twos():
    tokens, bounds = flat([[[1, 2], [3]], [[4], [5, 6]]])
    split = Split("val", tokens, np.array([0]), 0, 0, 0, bounds.reshape(-1, 2))
    assert lists(sequences_of(split, 2, TWO, BARE, 9)) == [[[1, 2, 91, 3]], [[4, 91, 5, 6]]]


def test_marks_are_those_of_the_tokenizer():
    tokenizer = train_char(["abc"]).extended([START, DELIMITER, EXTRACT])
    start, delimiter, extract = (tokenizer.backend.token_to_id(name) for name in (START, DELIMITER, EXTRACT))
    assert marks_of(tokenizer, "extract") == ((start,), (delimiter,), (extract,), tokenizer.padding_id)
    assert marks_of(tokenizer, "last") == ((), (delimiter,), (), tokenizer.padding_id)


def test_next_tokens_are_those_behind():
    found = made([[[1, 2, 3]], [[4]]], ONE)
    tokens, lengths, _ = found.take(np.arange(2))
    ignore = IGNORE_INDEX
    assert next_tokens(tokens, lengths).tolist() == [[[1, 2, 3, 92, ignore]], [[4, 92, ignore, ignore, ignore]]]


# Evaluation


def evaluated(found, numbers, vocab_size=None, world_size=1, **fields):
    parts = [ExampleBatches(found, numbers, fields, vocab_size, rank, world_size) for rank in range(world_size)]
    assert all(len(list(part)) == len(part) for part in parts)
    return [batch for part in parts for batch in part]


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("vocab_size", [None, 95, 2**19])
def test_every_example_is_measured_once(world_size, vocab_size, monkeypatch):
    monkeypatch.setattr(sequences, "EVALUATION_TOKENS", 60)
    chance = random.Random(0)
    examples = [[[chance.randrange(1, 70) for _ in range(chance.randrange(1, 20))], [7, i]] for i in range(40)]
    found, numbers, wanted = made(examples, BOTH_ORDERS, 16), np.arange(0, 40, 2), np.arange(40) * 10
    seen = []
    for batch in evaluated(found, numbers, vocab_size, world_size, wanted=wanted):
        own = batch["numbers"].numpy()
        tokens, lengths, _ = found.take(own)
        assert (batch["tokens"].numpy() == tokens).all() and (batch["ends"].numpy() == lengths - 1).all()
        assert (np.take_along_axis(tokens, lengths[..., None] - 1, axis=2) == 92).all()
        assert batch["wanted"].tolist() == (own * 10).tolist()
        assert ("targets" in batch) == (vocab_size is not None)
        if vocab_size is not None:
            assert torch.equal(batch["targets"], torch.from_numpy(next_tokens(tokens, lengths)))
        room = 60 if vocab_size is None else min(batches.EVALUATION_LOGITS // vocab_size, 60)
        assert batch["tokens"].numel() <= room or len(own) == 1
        seen += own.tolist()
    assert sorted(seen) == numbers.tolist()


def test_it_says_how_many_examples_there_are_and_how_many_are_cut():
    found = made([[[1] * 20], [[1]], [[1] * 30]], ONE, 10)
    assert ExampleBatches(found, np.array([0, 1]), {}, None).describe() == {
        "examples": "2 of up to 10 tokens, 1 of them cut"
    }
    assert ExampleBatches(found, np.array([1]), {}, None).count == 1
    with pytest.raises(DataError, match="2 examples are too few for 3 processes"):
        ExampleBatches(found, np.array([0, 1]), {}, None, 0, 3)
