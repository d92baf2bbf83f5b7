"""The weights that were caught are those attention worked with."""

import pytest
import torch
from families import FAMILIES, LOOKED_UP, make, random_tokens

from molino.inspection.attention import AttentionCatcher, read
from molino.models.attention import attend

T = 11
TRANSFORMERS = [name for name in FAMILIES if name not in LOOKED_UP]


def read_with_hooks(model, ids):
    """Logits, caught attention, and per layer what went out of the fused projection and into the one after it."""
    outs, ins, hooks = [], [], []
    for name, module in model.named_modules():
        if name.endswith(("attn.c_attn", "qkv_proj")):
            hooks.append(module.register_forward_hook(lambda _, __, output: outs.append(output[0])))
        if name.endswith(("attn.c_proj", "o_proj")):
            hooks.append(module.register_forward_pre_hook(lambda _, args: ins.append(args[0][0])))
    logits_TV, layers = read(model, ids)
    for hook in hooks:
        hook.remove()
    return logits_TV, layers, outs, ins


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_weights_times_values_are_what_attention_returned(name):
    model, ids = make(name, 16), random_tokens(T).tolist()
    logits_TV, layers, outs, ins = read_with_hooks(model, ids)
    assert len(layers) == len(outs) == len(ins) == 2
    modules = [module for module in model.modules() if hasattr(module, "n_head")]
    for module, layer, qkv_TE, y_TE in zip(modules, layers, outs, ins, strict=True):
        H, D = module.n_head, module.head_size
        G = getattr(module, "n_kv_head", H)
        v_TGD = qkv_TE[:, -G * D :].view(T, G, D)
        weights_HTS = layer.weights()
        assert weights_HTS.shape == (H, T, T) and weights_HTS.dtype == torch.float32
        for head in range(H):
            y_TD = weights_HTS[head] @ v_TGD[:, head // (H // G)]
            torch.testing.assert_close(y_TD, y_TE[:, head * D : (head + 1) * D], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(logits_TV, model(torch.tensor([ids]))[0])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_rows_sum_to_1_and_nothing_looks_ahead_or_too_far_back(name):
    window = FAMILIES[name][1].get("window", T)
    for layer in read(make(name, 16), random_tokens(T).tolist())[1]:
        weights_HTS = layer.weights()
        torch.testing.assert_close(weights_HTS.sum(-1), torch.ones(weights_HTS.shape[:2]))
        for t in range(T):
            for s in range(T):
                seen = t - window < s <= t
                assert bool((weights_HTS[:, t, s] > 0).all()) == seen == bool((weights_HTS[:, t, s] > 0).any())


def test_half_precision_gives_float32(name="llama-grouped"):
    logits_TV, layers = read(make(name, 16).to(torch.bfloat16), random_tokens(T).tolist())
    assert logits_TV.dtype == layers[0].weights().dtype == torch.float32
    torch.testing.assert_close(layers[0].weights().sum(-1), torch.ones(4, T))


def test_one_token_looks_at_itself():
    for layer in read(make("gpt", 16), [5])[1]:
        assert layer.weights().tolist() == [[[1.0]]] * 4


@torch.no_grad()
def test_a_bias_and_a_scale_are_part_of_the_weights():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, 6, 8)
    bias_1HTT = torch.randn(1, 4, 6, 6).masked_fill(torch.ones(6, 6).triu(2).bool(), -torch.inf)
    with AttentionCatcher() as catcher:
        y_BHTD = attend(q, k, v, None, 0, bias_BHTS=bias_1HTT, scale=1.0)
    torch.testing.assert_close(catcher.caught[0].weights() @ v[0], y_BHTD[0])


def test_a_model_without_attention():
    logits_TV, layers = read(make("bigram", 16), [5, 6])
    assert logits_TV.shape == (2, 23) and layers == []
