import math

import pytest
import torch

from molino.base.errors import ConfigError
from molino.models.attention import CausalSelfAttention


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def attention(C=12, H=3, dropout=0.0, bias=True):
    return CausalSelfAttention(n_embd=C, n_head=H, dropout=dropout, bias=bias)


def test_matches_torch_multihead_attention():
    ours, theirs = attention(), torch.nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.c_attn.weight,
            "in_proj_bias": ours.c_attn.bias,
            "out_proj.weight": ours.c_proj.weight,
            "out_proj.bias": ours.c_proj.bias,
        }
    )
    x_BTC = torch.randn(2, 7, 12)
    mask_TT = torch.ones(7, 7).triu(1).bool()
    expected_BTC, _ = theirs(x_BTC, x_BTC, x_BTC, attn_mask=mask_TT, need_weights=False)
    torch.testing.assert_close(ours(x_BTC), expected_BTC, atol=1e-6, rtol=1e-5)


def test_matches_a_loop_over_heads_and_positions():
    model = attention(C=6, H=2, bias=False).double()
    x_TC = torch.randn(4, 6, dtype=torch.float64)
    q_TC, k_TC, v_TC = (x_TC @ model.c_attn.weight.T).split(6, dim=1)
    y_TC = torch.zeros(4, 6, dtype=torch.float64)
    for head in (slice(0, 3), slice(3, 6)):
        for t in range(4):
            scores_T = torch.stack([q_TC[t, head] @ k_TC[s, head] for s in range(t + 1)]) / math.sqrt(3)
            y_TC[t, head] = scores_T.softmax(0) @ v_TC[: t + 1, head]
    torch.testing.assert_close(model(x_TC[None])[0], y_TC @ model.c_proj.weight.T)


def test_sees_the_past_and_not_the_future():
    model = attention()
    x_BTC = torch.randn(1, 8, 12)
    changed_BTC = x_BTC.clone()
    changed_BTC[:, 5] += 1
    difference_T = (model(x_BTC) - model(changed_BTC)).abs().amax(dim=(0, 2))
    assert difference_T[:5].max() < 1e-6
    assert difference_T[5:].min() > 1e-4


def test_dropout_acts_on_attention_weights_and_output_in_training_only():
    model = attention(dropout=0.5)
    x_BTC = torch.randn(2, 8, 12)
    model.eval()
    assert torch.equal(model(x_BTC), model(x_BTC))
    model.train()
    assert (model(x_BTC) == 0).float().mean() > 0.3
    model.resid_dropout.p = 0.0
    assert not torch.equal(model(x_BTC), model(x_BTC))


def test_bias_false_has_none():
    assert [name for name, _ in attention(bias=False).named_parameters()] == ["c_attn.weight", "c_proj.weight"]


def test_heads_must_divide_channels():
    with pytest.raises(ConfigError) as error:
        attention(C=130, H=4)
    assert str(error.value) == "model.n_embd=130 is not divisible by model.n_head=4: choose a multiple"
