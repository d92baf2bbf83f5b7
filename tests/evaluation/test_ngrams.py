"""Unigrams and bigrams against published figures, closed forms and counts in dictionaries."""

import math
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from molino.evaluation.ngrams import bigram_loss, bigram_optimum, unigram_loss
from molino.models.counting import Stream, stream_of

SPECIALS = 3  # the char tokenizer's <unk> <pad> <|endoftext|>


def stream(tokens, vocab_size: int) -> Stream:
    tokens = np.asarray(tokens)
    return stream_of(tokens, np.array([0, len(tokens) - 1]), vocab_size)


def char_tokens(path: Path) -> tuple[Stream, Stream, int]:
    """First 90 % and rest of a text as uint16 ids, and the vocabulary size; unknown characters are <unk>, id 0."""
    points_N = np.frombuffer(path.read_bytes().decode("utf-8").encode("utf-32-le"), dtype=np.uint32)
    split = int(0.9 * len(points_N))
    alphabet = np.unique(points_N[:split])
    place_N = np.searchsorted(alphabet, points_N).clip(max=len(alphabet) - 1)
    tokens_N = np.where(alphabet[place_N] == points_N, place_N + SPECIALS, 0).astype(np.uint16)
    V = len(alphabet) + SPECIALS
    return stream(tokens_N[:split], V), stream(tokens_N[split:], V), V


def test_tiny_shakespeare_figures(mirror):
    train, heldout, vocab_size = char_tokens(mirror / "raw/tinyshakespeare/input.txt")
    assert bigram_optimum(train, vocab_size) == pytest.approx(2.4519, abs=1e-4)
    assert bigram_loss(train, heldout, vocab_size, alphas=[1.0]) == pytest.approx(2.4819, abs=1e-3)


def test_quijote_figures(mirror):
    train, heldout, vocab_size = char_tokens(mirror / "raw/el_quijote/el_quijote.txt")
    assert len(train.tokens) + len(heldout.tokens) == 1_038_397
    assert bigram_optimum(train, vocab_size) == pytest.approx(2.2062, abs=1e-4)
    assert bigram_loss(train, heldout, vocab_size, alphas=[0.3]) == pytest.approx(2.2439, abs=1e-3)


@pytest.mark.parametrize("vocab_size", [10, 50_000])
def test_losses_equal_counts_in_dictionaries(vocab_size):
    rng = np.random.default_rng(8)
    train, heldout = (np.minimum(rng.geometric(0.4, length), 9) * (vocab_size // 10) for length in (500, 90))
    singles, pairs, contexts = Counter(train.tolist()), Counter(pairwise(train.tolist())), Counter(train[:-1].tolist())
    streams = [stream(each, vocab_size) for each in (train, heldout)]
    unigram = [-math.log((singles[token] + 0.5) / (500 + 0.5 * vocab_size)) for token in heldout[1:].tolist()]
    assert unigram_loss(*streams, vocab_size, alpha=0.5) == pytest.approx(sum(unigram) / 89, rel=1e-12)
    bigram = [
        -math.log((pairs[pair] + 0.5) / (contexts[pair[0]] + 0.5 * vocab_size)) for pair in pairwise(heldout.tolist())
    ]
    assert bigram_loss(*streams, vocab_size, alphas=[0.5]) == pytest.approx(sum(bigram) / 89, rel=1e-12)
    optimum = sum(count * math.log(contexts[pair[0]] / count) for pair, count in pairs.items()) / 499
    assert bigram_optimum(streams[0], vocab_size) == pytest.approx(optimum, rel=1e-12)


def test_add_alpha_closed_forms():
    train, heldout = stream([0, 0, 1, 0], 3), stream([2, 0, 1, 1], 3)
    # Unigram counts 3 1 0 of 4, V = 3; the predicted tokens are 0 1 1.
    assert unigram_loss(train, heldout, 3) == pytest.approx(-(math.log(4 / 7) + 2 * math.log(2 / 7)) / 3)
    # Pairs 00 01 10; predicted 2->0 (2 unseen), 0->1, 1->1.
    expected = -(math.log(0.5 / 1.5) + math.log(1.5 / 3.5) + math.log(0.5 / 2.5)) / 3
    assert bigram_loss(train, heldout, 3, alphas=[0.5]) == pytest.approx(expected)


def test_bigram_optimum_closed_forms():
    assert bigram_optimum(stream(np.tile([0, 1, 2], 50), 3), 3) == 0.0
    # After 0 comes 0 or 1 with equal counts, after 1 always 0: of 0 0 1 repeated, two thirds of the pairs cost log 2.
    assert bigram_optimum(stream([*([0, 0, 1] * 200), 0], 2), 2) == pytest.approx(math.log(2) * 2 / 3)


def test_bigram_optimum_is_the_limit_of_add_alpha_on_the_training_stream():
    train = stream(np.random.default_rng(5).integers(0, 9, 1000).astype(np.uint16), 9)
    assert bigram_loss(train, train, 9, alphas=[1e-9]) == pytest.approx(bigram_optimum(train, 9), abs=1e-7)
    assert bigram_loss(train, train, 9, alphas=[0.1]) > bigram_optimum(train, 9)


def test_memory_mapped_tokens(tmp_path):
    tokens = np.random.default_rng(6).integers(0, 99, 500).astype(np.uint16)
    np.save(tmp_path / "train.npy", tokens)
    mapped = stream(tokens, 99)._replace(tokens=np.load(tmp_path / "train.npy", mmap_mode="r"))
    assert bigram_loss(mapped, mapped, 99, [1.0]) == bigram_loss(*[stream(tokens, 99)] * 2, 99, [1.0])
