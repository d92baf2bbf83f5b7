"""The floors together."""

import math

import numpy as np
import pytest

from molino.evaluation.floors import floors
from molino.evaluation.ngrams import bigram_loss, bigram_optimum, unigram_loss
from molino.models.counting import count, stream_of
from molino.models.smoothing import losses


@pytest.fixture
def streams():
    rng = np.random.default_rng(0)
    tokens = np.minimum(rng.geometric(0.3, 3000), 20).astype(np.uint16)
    return [stream_of(part, np.array([0, len(part) - 1]), 21) for part in (tokens[:2700], tokens[2700:])]


@pytest.mark.parametrize("order", [None, 1, 3])
def test_floors_are_the_best_of_each_kind_as_plain_numbers(streams, order):
    train, heldout = streams
    found = floors(train, heldout, 21, order)
    wanted = {
        "unigram": unigram_loss(train, heldout, 21),
        "bigram": min(bigram_loss(train, heldout, 21, [alpha]) for alpha in (0.01, 0.03, 0.1, 0.3, 1.0)),
        "bigram_train": bigram_optimum(train, 21),
    }
    if order:
        wanted["kneser_ney"] = losses(count(train, 21, order), heldout)[order]
    assert found == wanted and {type(value) for value in found.values()} == {float}
    assert max(found.values()) < math.log(21)
