"""Dropout: how many elements it drops, what becomes of the others, and that it can be repeated."""

import math

import pytest
import torch

from molino.models.dropout import Dropout, drop


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_drops_the_share_it_should_and_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    n = 1_000_003  # no multiple of the four elements that a draw decides on
    y = drop(torch.ones(n, dtype=dtype), p)
    dropped = int((y == 0).sum())
    # Five standard deviations of a binomial count.
    assert abs(dropped - n * p) < 5 * math.sqrt(n * p * (1 - p))
    kept = y[y != 0].unique()
    assert len(kept) == 1 and kept.item() == pytest.approx(1 / (1 - p), rel=1e-4 if dtype == torch.float32 else 1e-2)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    kept = (drop(torch.ones(400_000), 0.5) != 0).double().view(-1, 4)
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(len(kept))


def test_the_gradient_passes_where_the_value_does():
    torch.manual_seed(0)
    x = torch.randn(7, 11, requires_grad=True)
    y = drop(x, 0.3)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.where(y == 0, 0.0, y.detach() / x.detach()))


def test_the_seed_decides():
    first, second, other = (torch.manual_seed(seed) and drop(torch.ones(99), 0.5) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_as_a_module_it_acts_in_training_only():
    module, x = Dropout(0.5), torch.ones(100)
    assert (module(x) == 0).any()
    assert torch.equal(module.eval()(x), x)
    assert torch.equal(drop(x, 0.0), x)
    with pytest.raises(ValueError, match=r"1\.0"):
        Dropout(1.0)


@pytest.mark.parametrize("backend", ["eager", "aot_eager_decomp_partition"])
def test_compiled_code_draws_the_same_in_one_graph(backend):
    def drop_twice(x):
        return drop(x, 0.25) + 2 * drop(x, 0.25)  # which are two draws, not one

    gradients = []
    for f in (drop_twice, torch.compile(drop_twice, backend=backend, fullgraph=True)):
        torch.manual_seed(3)
        x = torch.ones(500, requires_grad=True)
        f(x).sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients) and len(gradients[0].unique()) == 4


def test_a_probability_next_to_one_still_leaves_something_to_scale():
    torch.manual_seed(0)
    y = drop(torch.ones(400_000), 0.999_999)
    assert y.isfinite().all() and (y == 0).float().mean() > 0.999
