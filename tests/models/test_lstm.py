"""The LSTM against torch's own of several layers, and its cache against reading the whole."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.generation.context import Context
from molino.generation.decode import generate
from molino.models.cache import KVCache
from molino.models.lstm import LSTM

V, BLOCK_SIZE, C = 11, 12, 8


def lstm(n_layer: int = 2, **settings) -> LSTM:
    """A small one in eval mode whose outputs are far from uniform."""
    torch.manual_seed(0)
    model = LSTM(V, BLOCK_SIZE, n_layer, C, **settings).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


def some_tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("n_layer", [1, 2, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_it_is_torchs_own_stacked(n_layer, tied):
    model, theirs = lstm(n_layer, tie_weights=tied), nn.LSTM(C, C, num_layers=n_layer, batch_first=True)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            kind, _, number = name.rpartition("_l")
            parameter.copy_(model.layers[int(number)].get_parameter(f"{kind}_l0"))
    table = model.wte.weight.detach().clone().requires_grad_()
    head = table if tied else model.lm_head.weight.detach().clone().requires_grad_()
    tokens, targets = some_tokens(3, BLOCK_SIZE), some_tokens(3, BLOCK_SIZE, seed=2)
    logits = F.linear(theirs(F.embedding(tokens, table))[0], head)
    torch.testing.assert_close(model(tokens), logits, atol=1e-5, rtol=1e-5)
    model.loss(tokens, targets).backward()
    F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    torch.testing.assert_close(model.wte.weight.grad, table.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.lm_head.weight.grad, head.grad, atol=1e-5, rtol=1e-4)
    for name, parameter in theirs.named_parameters():
        kind, _, number = name.rpartition("_l")
        mine = model.layers[int(number)].get_parameter(f"{kind}_l0").grad
        torch.testing.assert_close(mine, parameter.grad, atol=1e-5, rtol=1e-4)
        assert mine.abs().max() > 1e-3


@pytest.mark.parametrize("cuts", [[12], [1] * 12, [5, 1, 1, 5], [3, 4, 5]])
@torch.no_grad()
def test_reading_a_text_in_parts_is_reading_it_whole(cuts):
    model, tokens = lstm(), some_tokens(4, BLOCK_SIZE)
    cache = KVCache(model.capabilities.cache, 4, BLOCK_SIZE)
    found = torch.cat([model(part, cache) for part in tokens.split(cuts, dim=1)], dim=1)
    torch.testing.assert_close(found, model(tokens), atol=1e-5, rtol=1e-5)
    assert cache.length == BLOCK_SIZE
    with pytest.raises(ConfigError, match="longer than the model's block_size=12"):
        model(tokens[:, :1], cache)
    cache.clear()  # what was read before is forgotten
    torch.testing.assert_close(model(tokens[:, :3], cache), model(tokens[:, :3]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_of_different_lengths_each_go_on_from_their_own_end():
    model, lengths, more = lstm(), [5, 1, 3], some_tokens(3, 4, seed=3)
    prompts = some_tokens(3, 5)
    cache = KVCache(model.capabilities.cache, 3, BLOCK_SIZE)
    model(prompts, cache)
    cache.fill(lengths)
    found = torch.cat([model(one, cache) for one in more.split(1, dim=1)], dim=1)
    for row, length in enumerate(lengths):
        whole = torch.cat([prompts[row, :length], more[row]])[None]
        torch.testing.assert_close(found[row], model(whole)[0, length:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_layer", [1, 3])
@pytest.mark.parametrize("new", [5, 40])
def test_cached_decoding_gives_the_tokens_of_full_reading(n_layer, new):
    """Also for prompts of different lengths, of which one is longer than the context, and beyond it."""
    model = lstm(n_layer)
    prompts = [some_tokens(length, seed=length) for length in (1, 7, 3, 12, 20)]
    cached, whole = (
        torch.stack(list(generate(model, prompts, new, temperature=0, cached=each)), dim=1) for each in (True, False)
    )
    assert cached.shape == (5, new) and torch.equal(cached, whole)
    alone = [torch.stack(list(generate(model, prompt, new, temperature=0)), dim=1)[0] for prompt in prompts]
    assert torch.equal(torch.stack(alone), cached)
    assert len(set(map(tuple, cached.tolist()))) > 1


@torch.no_grad()
def test_a_text_that_is_followed_by_another_goes_on_from_what_both_begin_with():
    model, read = lstm(), []
    text = some_tokens(6)
    texts = Context(model, [text], 1, 2, cached=True)
    model.register_forward_pre_hook(lambda module, args: read.append(args[0].shape[1]))
    for kept, added in ((6, 3), (7, 2), (2, 4)):
        text = torch.cat([text[:kept], some_tokens(added, seed=added)])
        read.clear()
        texts.follow(text, 2)
        torch.testing.assert_close(texts.logits(), model(text[None])[:, -1], atol=1e-5, rtol=1e-5)
        assert sum(read[:-1]) <= added + 1  # the last is that of the whole text


@pytest.mark.parametrize(("n_layer", "tied"), [(1, True), (3, False)])
def test_it_says_what_it_can(n_layer, tied):
    model = lstm(n_layer, tie_weights=tied)
    told, names = model.capabilities, dict(model.named_parameters(remove_duplicate=False))
    assert told.layers == (("wte",), *((f"layers.{number}",) for number in range(n_layer)))
    # The parts that can be frozen, and the head, are all there is.
    parts = [name for group in told.layers for name in group]
    assert {name for name in names if not name.startswith(tuple(f"{part}." for part in parts))} == {told.head}
    assert names[told.embedding].shape == names[told.head].shape == (V, C) and told.hidden == C
    assert (told.tied is not None) == tied == (names[told.head] is names[told.embedding])
    assert told.cache.numbers_per_token == 2 * n_layer * C


@torch.no_grad()
def test_the_head_reads_hidden_and_what_is_beside_is_added_to_embeddings():
    model, tokens = lstm(tie_weights=False), some_tokens(2, 6)
    assert torch.equal(model.head(model.hidden(tokens)), model(tokens))
    beside = torch.randn(2, 6, C, generator=torch.Generator().manual_seed(4))
    found, x = model.hidden(tokens, beside_BTC=beside), F.embedding(tokens, model.wte.weight) + beside
    for layer in model.layers:
        x = layer(x)[0]
    torch.testing.assert_close(found, x)
    cache = KVCache(model.capabilities.cache, 2, 6)
    parts = [model.hidden(tokens[:, at], cache, beside[:, at]) for at in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(torch.cat(parts, dim=1), found, atol=1e-5, rtol=1e-5)


def test_it_begins_with_open_forget_gates():
    model = LSTM(50, BLOCK_SIZE, 2, 64)
    for layer in model.layers:
        bias = (layer.bias_ih_l0 + layer.bias_hh_l0).reshape(4, 64)  # input, forget, cell, output
        assert (bias[1] == 1).all() and not bias[[0, 2, 3]].any()
        for weight in (layer.weight_ih_l0, layer.weight_hh_l0):
            assert 0.12 < weight.abs().max() <= 1 / 8
            assert weight.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
    assert model.wte.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_dropout_is_after_embeddings_and_after_each_layer_in_training_alone():
    """With a probability so near to one each layer reads zeros, and so does the head."""
    model, tokens, read = lstm(dropout=1 - 1e-7), some_tokens(2, 6), []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].abs().max().item()))
    assert not model.train().hidden(tokens).any() and read == [0, 0]
    assert torch.equal(model.eval()(tokens), lstm()(tokens)) and min(read[2:]) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n_layer": 0}, "n_layer"), ({"n_embd": 0}, r"model\.n_embd"), ({"dropout": 1.5}, "dropout")],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        LSTM(**{"vocab_size": V, "block_size": BLOCK_SIZE, "n_layer": 1, "n_embd": C} | settings)
