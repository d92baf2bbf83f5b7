"""What parity with `transformers` (tests/models/hub) leaves open: rotary tables, initial weights, settings, purity."""

import math

import pytest
import torch
from torch.func import functional_call

from molino.errors import ConfigError
from molino.models.llama import Llama, Rotary, turn

SMALL = {"vocab_size": 17, "block_size": 10, "n_layer": 2, "n_head": 4, "n_embd": 24}
VARIANTS = [{}, {"n_kv_head": 2, "tie_weights": True}, {"n_kv_head": 1, "head_size": 4, "qkv_bias": True, "window": 3}]


def small(**settings):
    torch.manual_seed(0)
    model = Llama(**SMALL | settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def batch(B=3, T=10):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(17, (2, B, T), generator=generator).unbind(0)


def test_rotary_table_matches_a_loop():
    cos_TD, sin_TD = Rotary(20, 6, 100.0)(torch.arange(20))
    for t in range(20):
        for i in range(6):
            angle = t / 100.0 ** (2 * (i % 3) / 6)
            assert cos_TD[t, i].item() == pytest.approx(math.cos(angle), abs=1e-5)
            assert sin_TD[t, i].item() == pytest.approx(math.sin(angle), abs=1e-5)


def test_turned_vectors_keep_length_and_know_only_distances():
    rotary, q_D, k_D = Rotary(30, 8, 50.0), torch.randn(8), torch.randn(8)

    def product(i, j):
        return (turn(q_D, *rotary(torch.tensor([i]))) * turn(k_D, *rotary(torch.tensor([j])))).sum().item()

    assert product(9, 2) == pytest.approx(product(29, 22), abs=1e-4)
    assert product(9, 2) != pytest.approx(product(9, 3), abs=1e-2)
    assert turn(q_D, *rotary(torch.tensor([17]))).norm().item() == pytest.approx(q_D.norm().item(), abs=1e-5)


@pytest.mark.parametrize("settings", VARIANTS)
def test_a_token_changes_its_own_and_later_logits_only(settings):
    model, (tokens_BT, _) = small(**settings), batch(B=1)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 4] = (changed_BT[:, 4] + 1) % 17
    difference_T = (model(tokens_BT) - model(changed_BT)).abs().amax(dim=(0, 2))
    assert difference_T[:4].max() < 1e-6 and difference_T[4] > 1e-4


def test_a_window_sees_so_far_and_no_further():
    model, (tokens_BT, _) = small(n_layer=1, window=3), batch(B=1)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 4] = (changed_BT[:, 4] + 1) % 17
    difference_T = (model(tokens_BT) - model(changed_BT)).abs().amax(dim=(0, 2))
    assert (difference_T > 1e-5).nonzero().flatten().tolist() == [4, 5, 6]


@pytest.mark.parametrize("settings", VARIANTS)
def test_gradients_reach_every_parameter_and_loss_is_pure(settings):
    model, other = small(**settings), small(**settings)
    loss = model.loss(*batch())
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    tokens_BT, _ = batch()
    assert torch.equal(functional_call(model, dict(other.named_parameters()), (tokens_BT,)), other(tokens_BT))
    assert torch.equal(model.loss(*batch()), loss)


@pytest.mark.parametrize("tie_weights", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_parameter_count_matches_the_formula(tie_weights, qkv_bias):
    V, L, C, H, G, D, M = 17, 2, 24, 4, 2, 6, 30
    model = small(n_kv_head=G, head_size=D, n_inner=M, tie_weights=tie_weights, qkv_bias=qkv_bias)
    block = C * (H + 2 * G) * D + qkv_bias * (H + 2 * G) * D + H * D * C + 3 * C * M + 2 * C
    expected = V * C * (1 if tie_weights else 2) + L * block + C
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_initial_weights_are_as_documented():
    torch.manual_seed(0)
    model = Llama(vocab_size=1000, block_size=16, n_layer=3, n_head=4, n_embd=128, qkv_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            std = 0.02 / math.sqrt(6) if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.04), name
    tokens_BT = torch.randint(1000, (8, 16))
    assert model.loss(tokens_BT, tokens_BT.roll(1)).item() == pytest.approx(math.log(1000), abs=0.1)


def test_dropout_acts_in_training_only():
    model, (tokens_BT, _) = small(dropout=0.3), batch()
    assert not torch.equal(model(tokens_BT), model(tokens_BT))
    without = small()
    without.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(tokens_BT), without(tokens_BT))
    assert "rotary.cos" not in model.state_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_kv_head": 3}, "model.n_head=4 is not divisible by model.n_kv_head=3"),
        ({"n_kv_head": 0}, "model.n_kv_head=0 is too small"),
        ({"n_embd": 26}, "model.n_embd=26 is not divisible by model.n_head=4"),
        ({"head_size": 3}, "a head size of 3 is odd"),
        ({"rope_base": 0.0}, "model.rope_base=0.0 is out of range"),
        ({"window": 0}, "model.window=0 is too small"),
        ({"n_inner": 0}, "model.n_inner=0 is too small"),
        ({"n_layer": 1001}, "model.n_layer=1001 is too large"),
        ({"dropout": 1.0}, "model.dropout=1.0 is out of range"),
        ({"block_size": 0}, "data.block_size=0 is too small"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(ConfigError) as error:
        Llama(**SMALL | settings)
    assert message in str(error.value)


def test_a_sequence_longer_than_block_size_is_refused():
    tokens_BT, _ = batch(T=11)
    with pytest.raises(ConfigError, match="11 tokens is longer than the model's block_size=10"):
        small()(tokens_BT)
