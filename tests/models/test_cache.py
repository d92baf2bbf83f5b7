"""Reading a text through a cache gives the logits of reading it whole, for every family and position scheme."""

import pytest
import torch
from families import FAMILIES, make, random_tokens

from molino.base.errors import ConfigError
from molino.models.cache import CacheShape, KVCache

T = 24
NAMES = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


@NAMES
@pytest.mark.parametrize("B", [1, 3])
def test_a_text_read_in_pieces(name, B):
    model, tokens_BT = make(name, T), random_tokens(B, T)
    expected_BTV = model(tokens_BT)
    assert expected_BTV.std() > 0.1
    cache = KVCache(model.capabilities.cache, B, T)
    pieces = [7, *[1] * 9, 5, 1, 2]
    logits = [model(part_BT, cache) for part_BT in tokens_BT.split(pieces, dim=1)]
    assert cache.length == T
    torch.testing.assert_close(torch.cat(logits, dim=1), expected_BTV, atol=1e-5, rtol=0)


@NAMES
def test_rows_of_different_lengths(name):
    """Each row's logits are those of the row alone, whatever stands in its padding."""
    model, tokens_BT, lengths = make(name, T), random_tokens(4, T), [3, 9, 1, 9]
    cache = KVCache(model.capabilities.cache, 4, T)
    padded_BT = tokens_BT[:, :9].clone()
    for row, length in enumerate(lengths):
        padded_BT[row, length:] = 0
    model(padded_BT, cache)
    cache.fill(lengths)
    for tensor_BGSD in (*cache.keys, *cache.values):
        for row, length in enumerate(lengths):
            tensor_BGSD[row, :, length:] = 1e6  # would show if it were looked at
    for step in range(T - 9):
        next_B1 = torch.stack([tokens_BT[row, length + step] for row, length in enumerate(lengths)])[:, None]
        logits_BV = model(next_B1, cache)[:, 0]
        for row, length in enumerate(lengths):
            alone_V = model(tokens_BT[row : row + 1, : length + step + 1])[0, -1]
            torch.testing.assert_close(logits_BV[row], alone_V, atol=1e-5, rtol=0)
    if model.capabilities.cache.n_layer:
        with pytest.raises(ConfigError, match=r"longer than the model's block_size|no room"):
            model(next_B1, cache)


@NAMES
def test_several_tokens_for_ragged_rows(name):
    model, tokens_BT, lengths = make(name, T), random_tokens(2, T), [4, 8]
    cache = KVCache(model.capabilities.cache, 2, T)
    model(tokens_BT[:, :8], cache)
    cache.fill(lengths)
    next_BT = torch.stack([tokens_BT[row, length : length + 6] for row, length in enumerate(lengths)])
    logits_BTV = model(next_BT, cache)
    for row, length in enumerate(lengths):
        alone_TV = model(tokens_BT[row : row + 1, : length + 6])[0, length:]
        torch.testing.assert_close(logits_BTV[row], alone_TV, atol=1e-5, rtol=0)


@NAMES
def test_samples_share_what_was_read_once(name):
    model, prompts_BT = make(name, T), random_tokens(2, 6)
    cache = KVCache(model.capabilities.cache, 6, T)
    model(prompts_BT, cache.rows(slice(None, None, 3)))
    cache.share(3)
    cache.fill([6] * 6)
    next_B1 = random_tokens(6, 1)
    expected_BV = model(torch.cat((prompts_BT.repeat_interleave(3, dim=0), next_B1), dim=1))[:, -1]
    torch.testing.assert_close(model(next_B1, cache)[:, 0], expected_BV, atol=1e-5, rtol=0)


def test_a_cleared_cache_is_like_new():
    model, tokens_BT = make("llama-grouped", T), random_tokens(2, T)
    cache = KVCache(model.capabilities.cache, 2, T)
    model(random_tokens(2, 20, seed=5), cache)
    cache.fill([20, 11])
    cache.clear()
    torch.testing.assert_close(model(tokens_BT, cache), model(tokens_BT), atol=1e-5, rtol=0)


def test_memory_is_what_the_shape_says():
    shape = CacheShape(n_layer=3, n_kv_head=2, head_size=5)
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2)):
        cache = KVCache(shape, 4, 11, dtype=dtype)
        held = sum(tensor.numel() * tensor.element_size() for tensor in (*cache.keys, *cache.values))
        assert held == shape.numbers_per_token * 4 * 11 * size == 3 * 2 * 2 * 5 * 4 * 11 * size


def test_a_full_cache_says_so():
    model = make("gpt", T)
    cache = KVCache(model.capabilities.cache, 1, 4)
    model(random_tokens(1, 3), cache)
    with pytest.raises(ConfigError, match="a cache of 4 tokens that holds 3 has no room for 2 more"):
        model(random_tokens(1, 2), cache)


@pytest.mark.parametrize("name", ["gpt", "llama-grouped", "llama-window"])
def test_bfloat16(name):
    model, tokens_BT = make(name, T), random_tokens(2, T)
    with torch.autocast("cpu", torch.bfloat16):
        cache = KVCache(model.capabilities.cache, 2, T, dtype=torch.bfloat16)
        expected_BTV = model(tokens_BT)
        logits = [model(part_BT, cache) for part_BT in tokens_BT.split([7, *[1] * 17], dim=1)]
    difference = (torch.cat(logits, dim=1).float() - expected_BTV.float()).abs().max()
    assert difference < 0.05 * expected_BTV.float().abs().max()


@NAMES
def test_writing_into_some_rows_leaves_the_others(name):
    model, tokens_BT = make(name, T), random_tokens(3, 8)
    cache = KVCache(model.capabilities.cache, 3, T)
    model(tokens_BT, cache)
    before = [tensor_BGSD.clone() for tensor_BGSD in (*cache.keys, *cache.values)]
    model(random_tokens(1, 11, seed=7), cache.rows(slice(1, 2)))
    assert cache.length == 8
    for old_BGSD, new_BGSD in zip(before, (*cache.keys, *cache.values), strict=True):
        assert torch.equal(old_BGSD[::2], new_BGSD[::2])
        assert not torch.equal(old_BGSD[1], new_BGSD[1])


@pytest.mark.parametrize("window", [None, 1, 4, 7])
@pytest.mark.parametrize("count", [1, 3])
def test_a_token_sees_itself_and_as_many_before_it_as_its_window_holds(window, count):
    for length in range(10):
        cache = KVCache(CacheShape(0, 0, 0), 1, 16)
        cache.advance(length)
        visible = cache.visible(count, window)
        seen_TS = torch.ones(count, length + count, dtype=torch.bool) if visible is None else visible[0, 0]
        for place, row_S in enumerate(seen_TS.tolist(), start=length):
            first = 0 if window is None else place - window + 1
            assert row_S == [first <= other <= place for other in range(length + count)]


@NAMES
def test_a_cache_that_grows_keeps_what_it_has_read(name):
    model, tokens_BT = make(name, T), random_tokens(2, T)
    cache = KVCache(model.capabilities.cache, 2, 5)
    logits = [model(tokens_BT[:, :5], cache)]
    cache.grow(T)
    cache.grow(7)  # there is room already
    logits.append(model(tokens_BT[:, 5:], cache))
    assert cache.capacity == T
    torch.testing.assert_close(torch.cat(logits, dim=1), model(tokens_BT), atol=1e-5, rtol=0)


@NAMES
def test_rows_that_are_read_elsewhere_take_the_place_of_others(name):
    model, tokens_BT = make(name, T), random_tokens(4, 10)
    cache, which = KVCache(model.capabilities.cache, 4, T), torch.tensor([3, 1])
    model(random_tokens(4, 9, seed=2), cache)
    other = cache.empty(2)
    model(tokens_BT[which, :9], other)
    cache.replace(which, other)
    found_BTV = model(tokens_BT[:, 9:], cache)
    torch.testing.assert_close(found_BTV[which, 0], model(tokens_BT)[which, 9], atol=1e-5, rtol=0)
