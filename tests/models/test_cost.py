"""What a model costs, against torch's own counter and real caches."""

import pytest
import torch
from families import FAMILIES, make, random_tokens
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from molino.models.cache import KVCache
from molino.models.cost import cache_bytes_per_token, count_parameters, flops_per_token

T = 12
NO_WINDOW = [name for name in FAMILIES if name != "llama-window"]


def counted(model, *inputs):
    # The counter does not know the fused attention of CPUs, but the products that it stands for.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", NO_WINDOW)
def test_a_whole_context_is_so_many_tokens(name):
    """torch counts causal attention as if every token saw all T."""
    model = make(name, T)
    assert counted(model, random_tokens(1, T)) == T * flops_per_token(model, T)


@pytest.mark.parametrize("name", NO_WINDOW)
def test_one_token_after_a_cache(name):
    model = make(name, T)
    cache = KVCache(model.capabilities.cache, 1, T)
    tokens_BT = random_tokens(1, T)
    with torch.no_grad():
        model(tokens_BT[:, :-1], cache)
    assert counted(model, tokens_BT[:, -1:], cache) == flops_per_token(model, T)


def test_a_window_bounds_the_cost():
    windowed, whole = make("llama-window", T), make("llama-grouped", T)
    assert flops_per_token(windowed, T) == flops_per_token(windowed, 5) == flops_per_token(whole, 5)
    assert flops_per_token(windowed, 3) == flops_per_token(whole, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_bytes_are_those_of_a_cache(name, dtype):
    model = make(name, T).to(dtype)
    cache = KVCache(model.capabilities.cache, 3, 7, dtype=dtype)
    held = sum(tensor.numel() * tensor.element_size() for tensor in (*cache.keys, *cache.values))
    assert cache_bytes_per_token(model) * 3 * 7 == held


def test_tied_weights_count_once():
    model = make("gpt", T)
    state = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}
    assert count_parameters(model) == sum(state.values())
