"""Kneser-Ney against a slow implementation, published perplexities, and distributions that sum to one."""

import itertools
import math

import numpy as np
import pytest
import torch
from models.slow_kneser_ney import grams_of, model

from molino.base.errors import DataError
from molino.models.counting import BEFORE, count, find_contexts, stream_of
from molino.models.smoothing import losses
from molino.models.tables import NOTHING, checked_tables, make_tables


def text_of(seed: int, vocab_size: int, lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return documents between marks (token 0), as one array and the places of the marks."""
    rng = np.random.default_rng(seed)
    # Some tokens are frequent, and what follows depends on what precedes.
    pieces = [
        np.cumsum(rng.integers(1, 4, length)) % min(vocab_size - 1, 9) * 7 % (vocab_size - 1) for length in lengths
    ]
    tokens = np.concatenate([[0], *(np.append(piece + 1, 0) for piece in pieces)])
    return tokens.astype(np.uint32), np.cumsum([0, *(length + 1 for length in lengths)])


def documents_of(tokens: np.ndarray, marks: np.ndarray) -> list[list[int]]:
    return [tokens[begin : end + 1].tolist() for begin, end in itertools.pairwise(marks)]


@pytest.mark.parametrize(
    ("vocab_size", "lengths"), [(4, [300]), (12, [40, 1, 0, 70, 33]), (50_000, [200, 90]), (1_000_000, [260])]
)
def test_every_order_equals_a_slow_implementation(vocab_size, lengths):
    train, heldout = text_of(0, vocab_size, lengths), text_of(1, vocab_size, [50, 3])
    streams = [stream_of(*each, vocab_size) for each in (train, heldout)]
    found = losses(count(streams[0], vocab_size, 6), streams[1])
    assert found.keys() == set(range(1, 7))
    for order, loss in found.items():
        slow = model(grams_of(documents_of(*train), order), vocab_size)
        wanted = [-math.log(slow(gram[:-1], gram[-1])) for gram in grams_of(documents_of(*heldout), order)]
        assert loss == pytest.approx(sum(wanted) / len(wanted), rel=1e-10)


@pytest.mark.parametrize(("vocab_size", "lengths", "order"), [(5, [200], 1), (12, [40, 1, 0, 70], 4), (30, [300], 7)])
def test_tables_hold_the_whole_distribution(vocab_size, lengths, order):
    tokens, marks = text_of(2, vocab_size, lengths)
    stream = stream_of(tokens, marks, vocab_size)
    ngrams = count(stream, vocab_size, order)
    tables = make_tables(ngrams, [np.bincount(ngrams.gram_P)])
    slow = model(grams_of(documents_of(tokens, marks), order), vocab_size)
    other, bounds = text_of(3, vocab_size, [30, 2, 9])
    for document in documents_of(other, bounds):
        contexts_BT = tables.find(torch.tensor([document]), len(document))
        for place, p_V in enumerate(tables.log_probabilities(contexts_BT)[0].exp()):
            context = (*[None] * order, *document[: place + 1])[len(document[: place + 1]) + 1 :]
            context = context[len(context) - order + 1 :]
            assert p_V.sum() == pytest.approx(1, abs=1e-6)
            assert p_V.tolist() == pytest.approx([slow(context, token) for token in range(vocab_size)], rel=1e-5)


@pytest.mark.parametrize("tokens", [[1] * 40, [0, 1], list(range(30)), [3, 3, 4] * 20, [0] * 3 + [29] * 3])
@pytest.mark.parametrize("order", [1, 2, 5, 16])
def test_distributions_of_odd_texts_sum_to_one(tokens, order):
    vocab_size = 30
    ngrams = count(stream_of(np.array(tokens), np.array([0, len(tokens) - 1]), vocab_size), vocab_size, order)
    tables = make_tables(ngrams, [np.bincount(ngrams.gram_P)])
    p_MV = tables.log_probabilities(torch.arange(tables.contexts)).exp()
    assert p_MV.min() > 0 and torch.allclose(p_MV.sum(-1), torch.ones(tables.contexts), atol=1e-5)


def test_contexts_are_found_as_they_are_counted():
    tokens, marks = text_of(4, 9, [120, 7, 60])
    stream = stream_of(tokens, marks, 9)
    ngrams = count(stream, 9, 5)
    tables = make_tables(ngrams, [np.bincount(ngrams.gram_P)])
    for begin, end in itertools.pairwise(marks):
        document = torch.from_numpy(tokens[begin : end + 1].astype(np.int64))
        longest = torch.from_numpy(ngrams.context_P[begin:end]) + tables.first[-1]
        assert torch.equal(tables.find(document[None], len(document))[0, :-1], longest.long())
        # What stands before a window may be told beside it.
        for cut in range(len(document)):
            before = torch.full((BEFORE,), NOTHING)
            before[BEFORE - min(cut, BEFORE) :] = document[max(cut - BEFORE, 0) : cut]
            found = tables.read(document[None, cut:], before_BR=before[None])
            assert torch.equal(found, tables.read(document[None])[:, cut:])
    unknown = find_contexts(ngrams, lambda back: np.array([8]), 1)
    assert [each.tolist() for each in unknown][:1] == [[0]]


def test_streams_are_checked():
    with pytest.raises(DataError, match="a split of 1 tokens has nothing to predict"):
        stream_of(np.array([1]), np.array([0, 0]), 5)
    with pytest.raises(DataError, match="outside the vocabulary of 3"):
        stream_of(np.array([1, 3]), np.array([0, 1]), 3)
    cut = stream_of(np.arange(10), np.array([0, 4, 9]), 10, limit=7)
    assert len(cut.tokens) == 7 and cut.marks.tolist() == [0, 4, 6]


def test_tables_of_somebody_else_are_checked():
    ngrams = count(stream_of(np.array([1, 2, 1, 2, 3]), np.array([0, 4]), 5), 5, 3)
    good = make_tables(ngrams, [np.bincount(ngrams.gram_P)]).tensors()
    same = checked_tables(good).tensors()
    assert good.keys() == same.keys() and all(torch.equal(good[name], same[name]) for name in good)
    for name, bad in {
        "token_E": good["token_E"] + 4,
        "begin_M1": good["begin_M1"].flip(0),
        "share_FE": good["share_FE"][:, 1:],
        "key_M": good["key_M"] * 10,
        "contexts_K": good["contexts_K"] + 1,
        "base_FV": good["base_FV"].double(),
    }.items():
        with pytest.raises(DataError, match="no tables of counts"):
            checked_tables(good | {name: bad})
    with pytest.raises(DataError, match="no tables of counts"):
        checked_tables({name: tensor for name, tensor in good.items() if name != "token_E"})


CHARACTERS = {
    "tinyshakespeare/input.txt": {4: 1.7191, 5: 1.5612, 6: 1.5227, 7: 1.5165, 8: 1.5192},
    "el_quijote/el_quijote.txt": {6: 1.3139, 7: 1.2894, 8: 1.2847},
}


@pytest.mark.parametrize("name", CHARACTERS)
def test_losses_of_characters(name, mirror):
    text = (mirror / "raw" / name).read_bytes().decode()
    alphabet, tokens = np.unique(list(text), return_inverse=True)
    train, heldout = np.split(tokens, [int(0.9 * len(tokens))])
    streams = [stream_of(each, np.array([0, len(each) - 1]), len(alphabet)) for each in (train, heldout)]
    found = losses(count(streams[0], len(alphabet), 8), streams[1])
    assert {order: found[order] for order in CHARACTERS[name]} == pytest.approx(CHARACTERS[name], abs=0.002)


WORDS = {
    "ptb/ptb.{}.txt": {3: 148.38, 4: 142.74, 5: 141.05},
    "wikitext-2/{}.txt": {3: 224.39, 4: 219.09, 5: 217.84},
}


@pytest.mark.parametrize("name", WORDS)
def test_perplexities_of_words(name, mirror):
    def words(split: str) -> list[str]:
        return (mirror / "raw" / name.format(split)).read_text("utf-8").replace("\n", " <eos> ").split()

    numbers: dict[str, int] = {}
    train = np.array([numbers.setdefault(word, len(numbers)) for word in words("train")])
    test = np.array([numbers[word] for word in words("test")])
    streams = [stream_of(each, np.array([0, len(each) - 1]), len(numbers)) for each in (train, test)]
    found = {order: math.exp(loss) for order, loss in losses(count(streams[0], len(numbers), 5), streams[1]).items()}
    assert {order: found[order] for order in WORDS[name]} == pytest.approx(WORDS[name], abs=0.5)
