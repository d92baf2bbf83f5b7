"""The floors together, and their cache."""

import json
import math

import numpy as np
import pytest

from molino.evaluation import floors as module
from molino.evaluation.floors import cached_floors, floors
from molino.evaluation.ngrams import bigram_loss, bigram_optimum, interpolated_losses, unigram_loss


@pytest.fixture
def streams():
    rng = np.random.default_rng(0)
    tokens = np.minimum(rng.geometric(0.3, 3000), 20).astype(np.uint16)
    return tokens[:2700], tokens[2700:], 21


def test_floors_are_the_best_of_each_kind_as_plain_numbers(streams):
    train, heldout, vocab_size = streams
    found = floors(train, heldout, vocab_size)
    losses = interpolated_losses(train, heldout, vocab_size)
    assert found == {
        "floor/unigram": unigram_loss(train, heldout, vocab_size),
        "floor/bigram": min(bigram_loss(train, heldout, vocab_size, alpha) for alpha in (0.01, 0.03, 0.1, 0.3, 1.0)),
        "floor/bigram_train": bigram_optimum(train),
        "floor/ngram": min(losses.values()),
        "floor/ngram_order": min(losses, key=losses.get),
    }
    assert {type(value) for value in found.values()} == {float, int}


def test_tiny_shakespeare_floors(mirror):
    text = (mirror / "raw/tinyshakespeare/input.txt").read_bytes()  # ASCII, so that bytes are characters
    tokens = np.unique(np.frombuffer(text, np.uint8), return_inverse=True)[1].astype(np.uint16)
    split = int(0.9 * len(tokens))
    found = floors(tokens[:split], tokens[split:], 65)
    assert found["floor/ngram_order"] == 5
    assert found["floor/ngram"] == pytest.approx(1.692, abs=1e-3)
    assert found["floor/ngram"] < found["floor/bigram"] < found["floor/unigram"] < math.log(65)


def test_the_cache_is_written_once_and_read_after(streams, tmp_path, monkeypatch):
    path = tmp_path / "deep" / "floors.json"
    first = cached_floors(path, *streams)
    assert first == floors(*streams)
    assert json.loads(path.read_text()) == first
    monkeypatch.setattr(module, "floors", lambda *streams: pytest.fail("counted again"))
    assert cached_floors(path, *streams) == first
    assert [file.name for file in path.parent.iterdir()] == ["floors.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b'{"floor/unigram": 1.0}', b"null", b"NAN", b"STRING"]
)
def test_a_damaged_cache_is_counted_again(content, streams, tmp_path):
    path = tmp_path / "floors.json"
    expected = floors(*streams)
    if content in (b"NAN", b"STRING"):
        content = json.dumps(expected | {"floor/ngram": math.nan if content == b"NAN" else "low"}).encode()
    path.write_bytes(content)
    assert cached_floors(path, *streams) == expected
    assert json.loads(path.read_text()) == expected
