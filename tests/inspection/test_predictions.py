"""Probabilities against a direct softmax, and how tokens are shown."""

import math
import string

import pytest
import torch
from families import make, random_tokens

from molino.data.tokenizers import train_bpe, train_char
from molino.inspection.predictions import label, percent, predict, read_counts, table, table_beside


def test_probabilities_are_those_of_a_softmax():
    model, ids = make("gpt", 12), random_tokens(9).tolist()
    with torch.no_grad():
        logits_TV = model(torch.tensor([ids]))[0]
    found = list(predict(ids, logits_TV, 4))
    assert [prediction.token for prediction in found] == ids
    assert found[0].probability is None
    for place, prediction in enumerate(found):
        exps = [math.exp(score) for score in logits_TV[place].double().tolist()]
        ranked = sorted(((value / sum(exps), token) for token, value in enumerate(exps)), reverse=True)[:4]
        assert [token for token, _ in prediction.likeliest] == [token for _, token in ranked]
        assert [value for _, value in prediction.likeliest] == pytest.approx([value for value, _ in ranked], abs=1e-6)
        if place + 1 < len(ids):
            assert found[place + 1].probability == pytest.approx(exps[ids[place + 1]] / sum(exps), abs=1e-6)


def test_a_small_vocabulary_is_shown_whole():
    (prediction,) = predict([0], torch.zeros(1, 3), 10)
    assert len(prediction.likeliest) == 3
    assert sum(value for _, value in prediction.likeliest) == pytest.approx(1)


def test_a_row_a_token():
    tokenizer = train_char(["ab[red]"])
    ids = tokenizer.encode("a[").tolist()
    header, rows = table(list(predict(ids, torch.zeros(2, tokenizer.size), 2)), tokenizer)
    assert [row[:3] for row in rows] == [["0", "'a'", ""], ["1", "'['", f"{1 / tokenizer.size:.1%}"]]
    assert all(len(row) == len(header) == 5 for row in rows)


def test_labels_stay_on_one_line():
    tokenizer = train_char(["a\n\t'ñ"])
    shown = [label(tokenizer, token) for token in range(tokenizer.size)]
    assert {r"'\n'", r"'\t'", "'ñ'", "'<unk>'"} <= set(shown)
    assert len(set(shown)) == tokenizer.size
    assert not any(mark in text for text in shown for mark in "\n\t")
    assert label(tokenizer, tokenizer.size) == f"<row {tokenizer.size}>"


def test_half_a_character_is_shown_as_the_vocabulary_has_it():
    tokenizer = train_bpe(["a"], 259)
    first, second = tokenizer.encode("ñ").tolist()
    assert label(tokenizer, first) == repr(tokenizer.token(first)) != label(tokenizer, second)


@pytest.mark.parametrize("value, text", [(0.0, "0.0%"), (1.0, "100.0%"), (0.1234, "12.3%"), (0.00001, "1e-05")])
def test_percent(value, text):
    assert percent(value) == text


def test_what_the_network_adds_to_counting_is_told_beside_it():
    network, ids = make("gpt on counts", 12), random_tokens(6).tolist()
    counted_TV = read_counts(network, ids)
    assert torch.equal(counted_TV, network.tables.read(torch.tensor([ids]))[0])
    assert read_counts(make("gpt", 12), ids) is None
    with torch.inference_mode():
        predictions = [list(predict(ids, each_TV, 1)) for each_TV in (network(torch.tensor([ids]))[0], counted_TV)]
    header, rows = table_beside(*predictions, train_char([string.ascii_letters]))
    assert header[2:5] == ["by counting", "by the network", "gained"] and rows[0][2:5] == ["", "", ""]
    for row, one, other in zip(rows[1:], *(each[1:] for each in predictions), strict=True):
        assert float(row[4].split()[0]) == pytest.approx(math.log(one.probability / other.probability), abs=0.006)
