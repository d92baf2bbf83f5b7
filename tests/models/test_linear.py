"""One token through all threads is the same product."""

import pytest
import torch
from torch.nn import functional as F

from molino.models.linear import Linear


@pytest.mark.parametrize("out_features", [1, 7, 16, 40, 1152])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1,), (), (2, 3), (5,)])
def test_equals_the_plain_product(out_features, bias, shape):
    torch.manual_seed(0)
    layer, x = Linear(48, out_features, bias=bias), torch.randn(*shape, 48)
    expected = F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), expected)
        torch.testing.assert_close(layer.bfloat16()(x.bfloat16()).float(), expected, atol=0.1, rtol=0.1)


def test_one_token_is_cut_into_pieces_and_others_are_not(monkeypatch):
    calls = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "bmm", lambda *args: calls.append(args[0].shape) or bmm(*args))
    layer = Linear(8, 48)
    layer(torch.randn(1, 8))  # gradients are wanted
    with torch.no_grad():
        layer(torch.randn(2, 8))
        assert not calls
        layer(torch.randn(1, 1, 8))
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
        layer(torch.randn(1, 1, 8))
    assert calls == [(16, 1, 8)]


def test_gradients_flow_through_a_single_token():
    torch.manual_seed(0)
    layer, plain = Linear(8, 48), torch.nn.Linear(8, 48)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 8)
    for module in (layer, plain):
        module(x).square().sum().backward()
    for ours, theirs in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_an_odd_layer_is_not_cut(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "bmm", lambda *args: pytest.fail("7 rows cannot be cut into equal pieces"))
    layer, x = Linear(8, 7), torch.randn(1, 8)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)


@pytest.mark.parametrize("bias", [True, False])
def test_the_gradient_of_a_single_token(bias):
    layer, x, upstream = Linear(8, 48, bias=bias), torch.randn(1, 8, requires_grad=True), torch.randn(1, 48)
    layer(x).backward(upstream)
    torch.testing.assert_close(x.grad, upstream @ layer.weight)
    torch.testing.assert_close(layer.weight.grad, upstream.T @ x)
