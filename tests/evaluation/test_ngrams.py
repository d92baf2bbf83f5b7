"""Counts against published figures, closed forms and a slow dictionary implementation."""

import math
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from molino.base.errors import DataError
from molino.evaluation import ngrams
from molino.evaluation.ngrams import (
    bigram_loss,
    bigram_optimum,
    interpolated_losses,
    interpolated_probabilities,
    unigram_loss,
)

SPECIALS = 3  # the char tokenizer's <unk> <pad> <|endoftext|>


def char_tokens(path: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """First 90 % and rest of a text as uint16 ids, and the vocabulary size; unknown characters are <unk>, id 0."""
    points_N = np.frombuffer(path.read_bytes().decode("utf-8").encode("utf-32-le"), dtype=np.uint32)
    split = int(0.9 * len(points_N))
    alphabet = np.unique(points_N[:split])
    place_N = np.searchsorted(alphabet, points_N).clip(max=len(alphabet) - 1)
    tokens_N = np.where(alphabet[place_N] == points_N, place_N + SPECIALS, 0).astype(np.uint16)
    return tokens_N[:split], tokens_N[split:], len(alphabet) + SPECIALS


def slow_probability(train: list[int], context: list[int], token: int, vocab_size: int, discount: float) -> float:
    """The recursion of the docstring, word for word, with counts taken afresh."""
    followers = Counter(
        train[i] for i in range(len(context), len(train)) if train[i - len(context) : i] == context
    )  # what followed the context in train
    lower = slow_probability(train, context[1:], token, vocab_size, discount) if context else 1 / vocab_size
    total = sum(followers.values())
    if total == 0:
        return lower
    return max(followers[token] - discount, 0) / total + discount * len(followers) / total * lower


def test_tiny_shakespeare_figures(mirror):
    train, heldout, vocab_size = char_tokens(mirror / "raw/tinyshakespeare/input.txt")
    losses = interpolated_losses(train, heldout, vocab_size)
    published = {3: 2.056, 4: 1.790, 5: 1.692, 6: 1.721, 7: 1.787}
    assert {order: losses[order] for order in published} == pytest.approx(published, abs=1e-3)
    assert bigram_optimum(train) == pytest.approx(2.4519, abs=1e-4)
    assert bigram_loss(train, heldout, vocab_size, alpha=1.0) == pytest.approx(2.4819, abs=1e-3)


def test_quijote_figures(mirror):
    train, heldout, vocab_size = char_tokens(mirror / "raw/el_quijote/el_quijote.txt")
    assert len(train) + len(heldout) == 1_038_397
    assert bigram_optimum(train) == pytest.approx(2.2062, abs=1e-4)
    assert bigram_loss(train, heldout, vocab_size, alpha=0.3) == pytest.approx(2.2439, abs=1e-3)


@pytest.mark.parametrize(("vocab_size", "length", "seed"), [(3, 400, 0), (12, 300, 1), (50_000, 200, 2)])
def test_every_order_equals_the_slow_recursion(vocab_size, length, seed):
    rng = np.random.default_rng(seed)
    # The power makes some tokens frequent; the large vocabulary has codes beyond 32 bits and goes the sorted way.
    train = (rng.random(length) ** 3 * vocab_size).astype(np.uint32)
    heldout = (rng.random(60) ** 3 * vocab_size).astype(np.uint32)
    heldout[20:40] = train[50:70]  # so that long contexts are seen as well
    for order, p_P in interpolated_probabilities(train, heldout, vocab_size, max_order=6, discount=0.6):
        for place in range(1, len(heldout)):
            context = heldout[max(0, place - order + 1) : place].tolist()
            expected = slow_probability(train.tolist(), context, int(heldout[place]), vocab_size, 0.6)
            assert p_P[place - 1] == pytest.approx(expected, rel=1e-10), (order, place)


@pytest.mark.parametrize("share", [1, 50, 10**6])
def test_counting_in_shares_is_counting(share, monkeypatch):
    rng = np.random.default_rng(8)
    train, heldout = (np.minimum(rng.geometric(0.4, length), 9).astype(np.uint16) for length in (500, 90))
    pairs, contexts = Counter(pairwise(train)), Counter(train[:-1])
    expected = dict(interpolated_probabilities(train, heldout, 10, 5, 0.75))
    monkeypatch.setattr(ngrams, "SHARE", share)
    for order, p_P in interpolated_probabilities(train, heldout, 10, 5, 0.75):
        assert p_P.tolist() == expected[order].tolist()
    pair_P, followed_P = ngrams.bigram_counts(train, heldout, 10)
    assert pair_P.tolist() == [pairs[pair] for pair in pairwise(heldout)]
    assert followed_P.tolist() == [contexts[token] for token in heldout[:-1]]
    optimum = sum(count * math.log(contexts[pair[0]] / count) for pair, count in pairs.items()) / 499
    assert bigram_optimum(train) == pytest.approx(optimum, rel=1e-12)


def test_losses_are_the_mean_of_minus_log_probabilities():
    rng = np.random.default_rng(3)
    train, heldout = rng.integers(0, 5, 300), rng.integers(0, 5, 100)
    losses = interpolated_losses(train, heldout, 5, max_order=4, discount=0.5)
    assert list(losses) == [2, 3, 4]
    for order, p_P in interpolated_probabilities(train, heldout, 5, 4, 0.5):
        assert len(p_P) == 99
        if order > 1:
            assert losses[order] == pytest.approx(-np.log(p_P).mean(), abs=1e-12)


@pytest.mark.parametrize("context", [[0, 1, 2], [3, 3, 3], [6, 0, 1], [6, 6, 6]])
def test_probabilities_sum_to_one_in_seen_and_unseen_contexts(context):
    vocab_size = 8
    train = np.random.default_rng(4).integers(0, 6, 200)  # 6 and 7 never occur
    total = defaultdict(float)
    for token in range(vocab_size):
        heldout = np.array([*context, token])
        for order, p_P in interpolated_probabilities(train, heldout, vocab_size, max_order=4, discount=0.75):
            total[order] += p_P[-1]
    assert dict(total) == pytest.approx(dict.fromkeys(range(1, 5), 1.0), abs=1e-12)


def test_an_unseen_context_falls_back_to_the_lower_order():
    train, heldout = np.array([0, 1, 0, 1, 0, 1, 2]), np.array([1, 1, 0, 2, 0])
    p = dict(interpolated_probabilities(train, heldout, 4, max_order=4, discount=0.75))
    # (1, 1) never occurs, and the last token of train, 2, is followed by nothing.
    assert p[3][1] == p[2][1]
    assert p[2][3] == p[1][3]
    # The first prediction has one token of context: every order above 2 repeats order 2.
    assert p[4][0] == p[3][0] == p[2][0]


def test_streams_shorter_than_the_order():
    losses = interpolated_losses(np.array([0, 1]), np.array([1, 0]), 2, max_order=7)
    assert len(set(losses.values())) == 1
    assert all(math.isfinite(loss) for loss in losses.values())


def test_add_alpha_closed_forms():
    train, heldout = np.array([0, 0, 1, 0], np.uint16), np.array([2, 0, 1, 1], np.uint16)
    # Unigram counts 3 1 0 of 4, V = 3; the predicted tokens are 0 1 1.
    assert unigram_loss(train, heldout, 3) == pytest.approx(-(math.log(4 / 7) + 2 * math.log(2 / 7)) / 3)
    # Pairs 00 01 10; predicted 2->0 (2 unseen), 0->1, 1->1.
    expected = -(math.log(0.5 / 1.5) + math.log(1.5 / 3.5) + math.log(0.5 / 2.5)) / 3
    assert bigram_loss(train, heldout, 3, alpha=0.5) == pytest.approx(expected)


def test_bigram_optimum_closed_forms():
    assert bigram_optimum(np.tile([0, 1, 2], 50)) == 0.0
    # After 0 comes 0 or 1 with equal counts, after 1 always 0: of 0 0 1 repeated, two thirds of the pairs cost log 2.
    stream = np.array([*([0, 0, 1] * 200), 0])
    assert bigram_optimum(stream) == pytest.approx(math.log(2) * 2 / 3)


def test_bigram_optimum_is_the_limit_of_add_alpha_on_the_training_stream():
    train = np.random.default_rng(5).integers(0, 9, 1000).astype(np.uint16)
    assert bigram_loss(train, train, 9, alpha=1e-9) == pytest.approx(bigram_optimum(train), abs=1e-7)
    assert bigram_loss(train, train, 9, alpha=0.1) > bigram_optimum(train)


def test_memory_mapped_tokens(tmp_path):
    tokens = np.random.default_rng(6).integers(0, 99, 500).astype(np.uint16)
    np.save(tmp_path / "train.npy", tokens)
    mapped = np.load(tmp_path / "train.npy", mmap_mode="r")
    assert interpolated_losses(mapped, mapped, 99) == interpolated_losses(tokens, tokens, 99)


def test_only_the_first_tokens_of_a_long_stream_count(monkeypatch):
    rng = np.random.default_rng(7)
    train, heldout = rng.integers(0, 5, 200), rng.integers(0, 5, 150)
    expected = interpolated_losses(train[:100], heldout[:100], 5), bigram_optimum(train[:100])
    monkeypatch.setattr(ngrams, "LIMIT", 100)
    assert (interpolated_losses(train, heldout, 5), bigram_optimum(train)) == expected


@pytest.mark.parametrize(("heldout", "message"), [([1], "nothing to predict"), ([1, 5], "outside the vocabulary of 5")])
def test_streams_that_cannot_be_scored(heldout, message):
    for loss in (unigram_loss, bigram_loss, interpolated_losses):
        with pytest.raises(DataError, match=message):
            loss(np.array([0, 1, 2]), np.array(heldout), 5)
