"""The held-out loss against sums in plain float64, and its units against closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch

from molino.data.batches import EvaluationWindows
from molino.data.tokens import Split
from molino.evaluation.loss import exact_loss, loss_units, nll_sum, perplexity
from molino.models import IGNORE_INDEX
from molino.models.bigram import Bigram

CPU = torch.device("cpu")


def bigram(vocab_size: int = 7) -> Bigram:
    model = Bigram(vocab_size, 8)
    torch.nn.init.normal_(model.table.weight, generator=torch.Generator().manual_seed(0))
    return model


def nll_by_hand(model: Bigram, pairs) -> float:
    """The summed negative log likelihood of (token, next token) pairs, in Python's floats."""
    table = model.table.weight.detach().double().tolist()
    log_sums = [math.log(sum(map(math.exp, row))) for row in table]
    return math.fsum(log_sums[token] - table[token][target] for token, target in pairs)


def split(tokens, characters: int = 1, size: int = 1, marks=None) -> Split:
    marks = [0, len(tokens) - 1] if marks is None else marks
    return Split("val", np.asarray(tokens, np.uint16), np.array(marks), characters, size, 0)


@pytest.mark.parametrize(("block_size", "stride", "batch_size"), [(8, 8, 4), (8, 3, 5), (1, 1, 64), (500, 500, 1)])
def test_every_token_of_the_split_counts_once(block_size, stride, batch_size):
    tokens = np.random.default_rng(0).integers(0, 7, 403).tolist()
    model = bigram()
    loss, count = exact_loss(model, EvaluationWindows(split(tokens), block_size, stride, batch_size), CPU)
    assert count == 402
    assert loss == pytest.approx(nll_by_hand(model, itertools.pairwise(tokens)) / 402, rel=1e-6)


def test_it_is_no_mean_of_batch_means():
    model, tokens = bigram(), np.random.default_rng(1).integers(0, 7, 12).tolist()
    batches = list(EvaluationWindows(split(tokens), 8, 8, 1))
    pairs = [list(itertools.pairwise(tokens))[:8], list(itertools.pairwise(tokens))[8:]]
    sums = [nll_by_hand(model, part) for part in pairs]
    mean_of_means = (sums[0] / 8 + sums[1] / 3) / 2
    loss, _ = exact_loss(model, batches, CPU)
    assert loss == pytest.approx(sum(sums) / 11, rel=1e-6)
    assert abs(loss - mean_of_means) > 0.01


def test_ignored_targets_count_nowhere():
    model, ignore = bigram(), IGNORE_INDEX
    inputs, targets = torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.tensor([[1, ignore, 3], [ignore, ignore, 6]])
    nll, count = nll_sum(model, inputs, targets)
    assert (nll.dtype, count) == (torch.float64, 3)
    assert nll.item() == pytest.approx(nll_by_hand(model, [(0, 1), (2, 3), (5, 6)]), rel=1e-6)
    padding = (inputs, torch.full_like(targets, ignore))
    assert exact_loss(model, [padding, (inputs, targets)], CPU) == pytest.approx((nll.item() / 3, 3))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_large_sum_loses_nothing(batch_size):
    model = Bigram(2, 1)
    with torch.no_grad():
        model.table.weight[0, 1] = -(2.0**24)
    # 0 -> 1 costs 2**24 nats and 1 -> 0 costs ln 2; in float32 their sum would be 2**24.
    loss, count = exact_loss(model, EvaluationWindows(split([0, 1, 0]), 1, 1, batch_size), CPU)
    assert count == 2 and 2 * loss == pytest.approx(2**24 + math.log(2), abs=1e-6)


def test_the_model_is_left_as_it_was():
    class Dropped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bigram, self.dropout = bigram(), torch.nn.Dropout(0.5)

        def forward(self, tokens_BT):
            return self.dropout(self.bigram(tokens_BT))

    batches = EvaluationWindows(split([0, 1, 2, 3, 4, 5, 6]), 4, 4, 2)
    model = Dropped().train()
    state = torch.get_rng_state()
    loss, _ = exact_loss(model, batches, CPU)
    assert loss == exact_loss(model.bigram, batches, CPU)[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.dropout.training
    assert exact_loss(model.eval(), batches, CPU)[0] == loss and not model.training


def test_units_of_a_text_of_characters():
    text = "ñandú, ñandú"
    units = loss_units(split(range(len(text)), len(text), len(text.encode())))
    # A uniform guess among 8 characters is 3 bits, for all of the 12 but the first; 16 bytes hold them.
    assert math.log(8) * units["bits_per_character"] == pytest.approx(3 * 11 / 12)
    assert math.log(8) * units["bits_per_byte"] == pytest.approx(3 * 11 / 16)


def test_units_do_not_depend_on_how_a_text_is_cut():
    # The same total of 100 bits, spread over 20 predicted tokens or over 5.
    many, few = split(range(21), 40, 50), split(range(6), 40, 50)
    for part, tokens in ((many, 20), (few, 5)):
        loss = 100 * math.log(2) / tokens
        assert loss * loss_units(part)["bits_per_character"] == pytest.approx(100 / 40)
        assert loss * loss_units(part)["bits_per_byte"] == pytest.approx(100 / 50)


@pytest.mark.parametrize(("loss", "value"), [(0.0, 1.0), (math.log(65), 65.0), (699.0, math.exp(699)), (1e6, math.inf)])
def test_perplexity_never_overflows(loss, value):
    assert perplexity(loss) == pytest.approx(value)
