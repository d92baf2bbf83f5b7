"""What is caught of encoders, decoders and the attention between them, against softmax by hand."""

import pytest
import torch

from molino.inspection.attention import read, read_about
from molino.inspection.lens import read_depths
from molino.models.bert import BERT
from molino.models.t5 import T5
from molino.models.transformer import Transformer

V, BLOCK_SIZE, C, H, LAYERS = 23, 12, 16, 4, 2
SOURCE, TARGET = [3, 9, 4, 17, 8, 2], [1, 5, 11, 6]
ENCODERS = {
    "post-norm": {"norm": "post", "positions": "learned"},
    "rotary": {"norm": "pre", "positions": "rotary", "activation": "gelu_tanh"},
}
ABOUT_SOURCES = {
    "transformer": (Transformer, {}),
    "transformer, pre-norm": (Transformer, {"norm": "pre", "positions": "learned"}),
    "t5": (T5, {"buckets": 8, "max_distance": 10, "head_size": 6}),
}


def far_from_initial(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def encoder(name):
    torch.manual_seed(0)
    return far_from_initial(BERT(V, BLOCK_SIZE, LAYERS, H, C, **ENCODERS[name]))


def about_source(name):
    torch.manual_seed(0)
    family, settings = ABOUT_SOURCES[name]
    return far_from_initial(family(V, BLOCK_SIZE, LAYERS, H, C, **settings))


def caught_with(model, names, act):
    """What `act` returns, and what each module of these names made of the only row."""
    found, hooks = {name: [] for name in names}, []
    for path, module in model.named_modules():
        if (kept := found.get(path.rpartition(".")[2])) is not None:
            hooks.append(module.register_forward_hook(lambda _, __, output, kept=kept: kept.append(output[0])))
    result = act()
    for hook in hooks:
        hook.remove()
    return result, found


def softmax_by_hand(q_TE, k_SE, scale, bias_HTS=None):
    heads = [x.view(len(x), H, -1).transpose(0, 1) for x in (q_TE, k_SE)]
    scores_HTS = heads[0] @ heads[1].transpose(1, 2) * scale
    return (scores_HTS if bias_HTS is None else scores_HTS + bias_HTS).softmax(-1)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_looks_both_ways(name):
    model = encoder(name)
    (logits_TV, layers), found = caught_with(model, ["c_attn"], lambda: read(model, SOURCE))
    assert len(layers) == LAYERS
    with torch.no_grad():
        torch.testing.assert_close(logits_TV, model(torch.tensor([SOURCE]))[0])
    for layer, qkv_TE in zip(layers, found["c_attn"], strict=True):
        weights_HTT = layer.weights()
        assert (weights_HTT > 0).all()
        torch.testing.assert_close(weights_HTT.sum(-1), torch.ones(H, len(SOURCE)))
        if name != "rotary":
            q_TE, k_TE, _ = qkv_TE.chunk(3, dim=-1)
            torch.testing.assert_close(weights_HTT, softmax_by_hand(q_TE, k_TE, (C // H) ** -0.5))


@pytest.mark.parametrize("name", ABOUT_SOURCES)
def test_three_kinds_of_attention_are_told_apart(name):
    model, S, T = about_source(name), len(SOURCE), len(TARGET)
    is_t5 = name == "t5"
    scale = 1.0 if is_t5 else (C // H) ** -0.5
    told, found = caught_with(model, ["c_attn", "c_q", "c_kv"], lambda: read_about(model, TARGET, SOURCE))
    logits_TV, *kinds = told
    assert [len(kind) for kind in kinds] == [LAYERS] * 3
    with torch.no_grad():
        torch.testing.assert_close(logits_TV, model(torch.tensor([TARGET]), torch.tensor([SOURCE]))[0])
        ahead_TT = torch.full((T, T), -torch.inf).triu(1)
        bias_HSS = bias_HTT = None
        if is_t5:
            places_S, places_T = torch.arange(S), torch.arange(T)
            (bias_HSS,) = model.encoder.relative(places_S, places_S, None, torch.float32)
            (bias_HTT,) = model.decoder.relative(places_T, places_T, None, torch.float32)
    itself = [qkv_TE.chunk(3, dim=-1)[:2] for qkv_TE in found["c_attn"]]
    for number, (encoder, decoder, cross) in enumerate(zip(*kinds, strict=True)):
        by_hand = {
            encoder: softmax_by_hand(*itself[number], scale, bias_HSS),
            decoder: softmax_by_hand(*itself[LAYERS + number], scale, ahead_TT + (0 if bias_HTT is None else bias_HTT)),
            cross: softmax_by_hand(found["c_q"][number], found["c_kv"][number].chunk(2, dim=-1)[0], scale),
        }
        for kind, weights in by_hand.items():
            torch.testing.assert_close(kind.weights(), weights)
            torch.testing.assert_close(kind.weights().sum(-1), torch.ones(weights.shape[:2]))
        assert (decoder.weights().triu(1) == 0).all() and cross.weights().shape == (H, T, S)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_last_layer_puts_in_what_the_model_does(name):
    model, places = encoder(name), [1, 4]
    depths_LMV = read_depths(model, SOURCE, places)
    assert depths_LMV.shape == (LAYERS, len(places), V)
    with torch.no_grad():
        torch.testing.assert_close(depths_LMV[-1], model(torch.tensor([SOURCE]))[0, places])
        # The first one by hand, without the other blocks.
        (state_TC,) = model.h[0](model.drop(model.ln_e(_embedded(model))))
        torch.testing.assert_close(depths_LMV[0], model.head(model.ln_f(state_TC[places])))
    assert not torch.allclose(depths_LMV[0], depths_LMV[-1], atol=1e-2)


def _embedded(model):
    x_1TC = model.wte(torch.tensor([SOURCE])) + model.wse.weight[0]
    return x_1TC if model.wpe is None else x_1TC + model.wpe.weight[: len(SOURCE)]


def test_a_model_that_declares_no_depth_has_none_to_read():
    assert read_depths(about_source("t5"), SOURCE, [1]) is None
