"""The two ways to compute attention in training give the same values and gradients; which one is taken when."""

import pytest
import torch
from families import FAMILIES, LOOKED_UP, ON_COUNTS, make, random_tokens
from torch import nn
from torch.nn import functional as F

from molino.models.attention import LONGEST_FOR_PRODUCTS, attend, choose_path, faster_path, see
from molino.models.cache import CacheShape, KVCache

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TRANSFORMERS = [name for name in FAMILIES if name not in (*LOOKED_UP, *ON_COUNTS)]


def gradients(model: nn.Module, path: str) -> dict[str, torch.Tensor]:
    choose_path(model, path)
    model.zero_grad()
    tokens_BT = random_tokens(3, 12)
    model.loss(tokens_BT, tokens_BT.roll(-1, dims=1)).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_both_paths_give_the_same_gradients(name):
    model = make(name, block_size=12).double().train()
    fused, products = gradients(model, "fused"), gradients(model, "products")
    assert fused.keys() == products.keys()
    for parameter, gradient in fused.items():
        torch.testing.assert_close(products[parameter], gradient, msg=lambda text, p=parameter: f"{p}: {text}")


def test_products_keep_to_the_window_and_share_keys():
    torch.manual_seed(0)
    q = torch.randn(2, 6, 9, 4, dtype=torch.float64, requires_grad=True)
    k, v = torch.randn(2, 2, 2, 9, 4, dtype=torch.float64)
    ours = attend(q, k, v, None, 0, window=3, path="products")
    places = torch.arange(9)
    mask = see(places[:, None], places, 3)
    theirs = F.scaled_dot_product_attention(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), attn_mask=mask)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_bias_is_added_by_both_paths_and_says_what_is_seen(rows):
    torch.manual_seed(0)
    q = torch.randn(2, 6, 9, 4, dtype=torch.float64, requires_grad=True)
    k, v = torch.randn(2, 2, 2, 9, 4, dtype=torch.float64)
    bias = torch.randn(rows, 6, 9, 9, dtype=torch.float64, requires_grad=True)
    hidden = torch.rand(rows, 6, 9, 9) < 0.3
    hidden[..., 4] = False
    found = []
    for path in ("fused", "products"):
        y = attend(q, k, v, None, 0, path=path, bias_BHTS=bias.masked_fill(hidden, -torch.inf), scale=0.7)
        found.append((y, *torch.autograd.grad((y * y.detach().cos()).sum(), (q, bias))))
    torch.testing.assert_close(*found)
    scores = q @ k.repeat_interleave(3, 1).transpose(2, 3) * 0.7 + bias
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v.repeat_interleave(3, 1)
    torch.testing.assert_close(found[0][0], expected)


def test_dropped_weights_leave_the_mean():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 5, 4)
    q.requires_grad_()
    whole = attend(q, k, v, None, 0, path="products")
    many = torch.stack([attend(q, k, v, None, 0, dropout=0.3, path="products") for _ in range(3000)]).detach()
    torch.testing.assert_close(many.mean(0), whole.detach(), atol=0.06, rtol=0)
    assert (many.std(0) > 0).all()


def test_without_gradients_and_with_a_cache_the_kernel_is_used(monkeypatch):
    monkeypatch.setattr("molino.models.attention._products", None)  # to call it would fail
    q, k, v = torch.randn(3, 1, 2, 5, 4)
    attend(q, k, v, None, 0, path="products")
    attend(q.requires_grad_(), k, v, KVCache(CacheShape(1, 2, 4), 1, 5), 0, path="products")


@pytest.mark.parametrize(
    ("device", "dtype", "tokens", "dropout", "path"),
    [
        (CPU, torch.float32, 64, 0.0, "fused"),
        (CPU, torch.float32, 64, 0.1, "products"),
        (CPU, torch.bfloat16, 64, 0.0, "products"),
        (CPU, torch.bfloat16, LONGEST_FOR_PRODUCTS, 0.0, "products"),
        (CPU, torch.bfloat16, LONGEST_FOR_PRODUCTS + 1, 0.0, "fused"),
        (CPU, torch.bfloat16, LONGEST_FOR_PRODUCTS + 1, 0.1, "products"),
        (GPU, torch.bfloat16, 64, 0.1, "fused"),
        (GPU, torch.float32, 64, 0.0, "fused"),
    ],
)
def test_the_faster_path(device, dtype, tokens, dropout, path):
    assert faster_path(device, dtype, tokens, dropout) == path


@pytest.mark.parametrize("name", ["gpt", "llama-grouped"])
def test_in_bfloat16_products_are_as_exact_as_the_kernel(name):
    model = make(name, block_size=12).train()
    exact = gradients(model, "fused")
    with torch.autocast("cpu", torch.bfloat16):
        kernel, products = gradients(model, "fused"), gradients(model, "products")

    def error(found: dict[str, torch.Tensor]) -> float:
        return sum((found[name] - exact[name]).square().sum().item() for name in exact) ** 0.5

    assert error(products) < 1.3 * error(kernel)
