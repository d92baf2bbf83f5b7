import math

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.models import IGNORE_INDEX
from molino.models.bigram import Bigram


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_bigram(V=7):
    model = Bigram(vocab_size=V, block_size=5)
    torch.nn.init.normal_(model.table.weight)
    return model


def random_batch(V=7, B=3, T=11):
    tokens_BT, targets_BT = torch.randint(V, (2, B, T)).unbind(0)
    targets_BT[0, -4:] = IGNORE_INDEX
    return tokens_BT, targets_BT


def test_starts_as_the_uniform_distribution():
    model = Bigram(vocab_size=50, block_size=8)
    tokens_BT, targets_BT = random_batch(V=50)
    assert model.block_size == 8 and model.vocab_size == 50
    assert model.loss(tokens_BT, targets_BT).item() == pytest.approx(math.log(50), rel=1e-6)


def test_loss_and_gradient_match_the_closed_form():
    V, model = 7, random_bigram()
    tokens_BT, targets_BT = random_batch()
    loss = model.loss(tokens_BT, targets_BT)
    loss.backward()

    counts_VV = torch.zeros(V, V)
    for token, target in zip(tokens_BT.flatten().tolist(), targets_BT.flatten().tolist(), strict=True):
        if target != IGNORE_INDEX:
            counts_VV[token, target] += 1
    log_p_VV = model.table.weight.detach().log_softmax(1)
    n = counts_VV.sum()
    torch.testing.assert_close(loss.detach(), -(counts_VV * log_p_VV).sum() / n)
    gradient_VV = (counts_VV.sum(1, keepdim=True) * log_p_VV.exp() - counts_VV) / n
    torch.testing.assert_close(model.table.weight.grad, gradient_VV)


def test_forward_is_the_table_row_of_each_token_at_any_length():
    model = random_bigram()
    tokens_BT, _ = random_batch(T=3 * model.block_size)
    logits_BTV = model(tokens_BT)
    assert logits_BTV.shape == (3, 15, 7)
    assert torch.equal(logits_BTV[2, 4], model.table.weight[tokens_BT[2, 4]])


def test_loss_is_a_pure_function_of_its_parameters():
    model, other = random_bigram(), random_bigram()
    batch = random_batch()
    before = model.loss(*batch)
    borrowed = functional_call(LossOf(model), {"model.table.weight": other.table.weight}, batch)
    assert torch.equal(borrowed, other.loss(*batch))
    assert torch.equal(model.loss(*batch), before)


class LossOf(torch.nn.Module):
    """functional_call calls forward; this makes `loss` the forward."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens_BT, targets_BT):
        return self.model.loss(tokens_BT, targets_BT)


def test_loss_is_computed_in_float32_for_bfloat16_weights():
    model = random_bigram().bfloat16()
    tokens_BT, targets_BT = random_batch()
    loss = model.loss(tokens_BT, targets_BT)
    assert loss.dtype == torch.float32
    logits_NV = model(tokens_BT).float().flatten(0, 1)
    torch.testing.assert_close(loss, F.cross_entropy(logits_NV, targets_BT.flatten()))


def test_compiled_in_place_keeps_keys_and_loss():
    model = random_bigram()
    batch = random_batch()
    before = model.loss(*batch)
    model.compile(backend="eager")
    assert list(model.state_dict()) == ["table.weight"]
    torch.testing.assert_close(model.loss(*batch), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 0, "block_size": 5}, "vocab_size=0 is too small: choose 1 or more"),
        ({"vocab_size": 7, "block_size": 0}, "data.block_size=0 is too small: choose 1 or more"),
    ],
)
def test_sizes_below_one_are_refused(settings, message):
    with pytest.raises(ConfigError) as error:
        Bigram(**settings)
    assert str(error.value) == message
