"""The Llama family against `transformers`, against formulas and against its own documentation."""

import math

import pytest
import torch
import transformers
from torch import nn
from torch.func import functional_call

from molino.base.errors import ConfigError
from molino.models import IGNORE_INDEX
from molino.models.llama import Llama, Rotary, default_inner, turn

V, T = 37, 20
SMALL = {"vocab_size": 17, "block_size": 10, "n_layer": 2, "n_head": 4, "n_embd": 16}
VARIANTS = [
    {},
    {"n_kv_head": 2, "tie_weights": True, "n_inner": 20},
    {"n_kv_head": 1, "qkv_bias": True, "head_size": 6},
    {"n_kv_head": 2, "window": 4},
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def shake(model, alpha):
    """Weights far from their initial values, so that no error hides behind zeros, ones or small numbers."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=alpha)
    return model


def small_llama(**settings):
    return Llama(**SMALL | settings)


def shaken_llama(**settings):
    return shake(small_llama(**settings), 0.3)


def random_batch(V=17, B=3, T=10):
    return torch.randint(V, (2, B, T)).unbind(0)


# --- what it computes -------------------------------------------------------------------------------------------------

# Class of theirs, what it differs in, and the same in our words.
PAIRS = {
    "llama": ("Llama", {"num_key_value_heads": 4}, {"n_kv_head": 4}),
    "llama-default-heads": ("Llama", {}, {}),
    "llama-grouped": ("Llama", {"num_key_value_heads": 2}, {"n_kv_head": 2}),
    "llama-one-key-head": ("Llama", {"num_key_value_heads": 1}, {"n_kv_head": 1}),
    "llama-wide-heads": ("Llama", {"num_key_value_heads": 2, "head_dim": 14}, {"n_kv_head": 2, "head_size": 14}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}, {"tie_weights": True}),
    "llama-norm-eps": ("Llama", {"rms_norm_eps": 0.1}, {"norm_eps": 0.1}),
    "mistral-window": (
        "Mistral",
        {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6},
        {"n_kv_head": 2, "window": 6},
    ),
    "qwen2-biases": ("Qwen2", {"num_key_value_heads": 2}, {"n_kv_head": 2, "qkv_bias": True}),
    "qwen3-norms": ("Qwen3", {"num_key_value_heads": 2, "head_dim": 8}, {"n_kv_head": 2, "qk_norm": True}),
    "phi3": ("Phi3", {"num_key_value_heads": 2}, {"n_kv_head": 2}),
    "phi3-window": ("Phi3", {"num_key_value_heads": 1, "sliding_window": 5}, {"n_kv_head": 1, "window": 5}),
}


def make_pair(name):
    """A model of theirs, and ours with the same weights, which are given by name here, not by molino.hub."""
    kind, theirs_differs, ours_differs = PAIRS[name]
    sizes = {"vocab_size": V, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "pad_token_id": None}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "attn_implementation": "eager"}
    config = getattr(transformers, f"{kind}Config")(**sizes | rope | ids | theirs_differs)
    theirs = shake(getattr(transformers, f"{kind}ForCausalLM")(config).eval(), 0.15)
    settings = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_inner": 44, "rope_base": 500.0, "norm_eps": 1e-5}
    ours = Llama(vocab_size=V, block_size=T, **settings | ours_differs)
    # All names must match, so nothing of theirs is left out and nothing of ours stays random.
    ours.load_state_dict(in_our_names(dict(theirs.named_parameters(remove_duplicate=False))))
    return theirs, ours


PARTS = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj"}
PARTS |= {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}


def in_our_names(theirs):
    """Their tensors without the prefix, and with those of q, k, v and of gate, up stacked in this order."""
    stacks = {}
    for part in (None, *PARTS):  # None: what is not fused, or is so with them too (Phi-3)
        for name, tensor in theirs.items():
            pieces = name.removeprefix("model.").split(".")
            if part in pieces or (part is None and not PARTS.keys() & set(pieces)):
                fused = ".".join(PARTS.get(piece, piece) for piece in pieces)
                stacks.setdefault(fused, []).append(tensor)
    return {name: torch.cat(stack) for name, stack in stacks.items()}


@pytest.mark.parametrize("name", PAIRS)
def test_logits_are_those_of_transformers(name):
    theirs, ours = make_pair(name)
    tokens_BT = torch.randint(V, (3, T))
    with torch.no_grad():
        expected_BTV = theirs(tokens_BT).logits
        assert expected_BTV.std() > 0.3
        torch.testing.assert_close(ours(tokens_BT), expected_BTV, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", PAIRS)
def test_loss_and_gradients_are_those_of_transformers(name):
    theirs, ours = make_pair(name)
    labels_BT = torch.randint(V, (3, T))
    labels_BT[1, 12:] = IGNORE_INDEX
    tokens_BT = labels_BT.clamp(min=0)
    expected = theirs(tokens_BT, labels=labels_BT).loss  # shifts the labels itself
    loss = ours.loss(tokens_BT[:, :-1], labels_BT[:, 1:])
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    expected.backward()
    loss.backward()
    theirs_grad = {n: p.grad for n, p in theirs.named_parameters(remove_duplicate=False)}
    expected_grad = in_our_names(theirs_grad)
    for parameter_name, parameter in ours.named_parameters():
        assert parameter.grad.abs().max() > 0, parameter_name
        torch.testing.assert_close(parameter.grad, expected_grad[parameter_name], atol=1e-3, rtol=0, msg=parameter_name)


@pytest.mark.parametrize(("size", "base"), [(8, 10000.0), (6, 500.0), (2, 1e6)])
def test_rotary_table_matches_a_loop(size, base):
    cos_TD, sin_TD = Rotary(50, size, base)(torch.arange(50))
    assert cos_TD.shape == sin_TD.shape == (50, size)
    for t in range(50):
        for i in range(size):
            angle = t * base ** (-2 * (i % (size // 2)) / size)
            assert cos_TD[t, i].item() == pytest.approx(math.cos(angle), abs=1e-5)
            assert sin_TD[t, i].item() == pytest.approx(math.sin(angle), abs=1e-5)


def test_turning_is_a_product_of_complex_numbers():
    x_BHTD, rotary = torch.randn(2, 3, 7, 8), Rotary(7, 8, 100.0)
    turned_BHTD = turn(x_BHTD, *rotary(torch.arange(7)))
    angle_TD = torch.arange(7)[:, None] * 100.0 ** (-torch.arange(4) / 4)
    expected = torch.complex(x_BHTD[..., :4], x_BHTD[..., 4:]) * torch.polar(torch.ones(7, 4), angle_TD)
    torch.testing.assert_close(turned_BHTD, torch.cat((expected.real, expected.imag), dim=-1))


def test_turned_vectors_keep_length_and_know_only_distances():
    rotary, q_D, k_D = Rotary(30, 8, 50.0), torch.randn(8), torch.randn(8)

    def product(i, j):
        return (turn(q_D, *rotary(torch.tensor([i]))) * turn(k_D, *rotary(torch.tensor([j])))).sum().item()

    assert product(9, 2) == pytest.approx(product(29, 22), abs=1e-4)
    assert product(9, 2) != pytest.approx(product(9, 3), abs=1e-2)
    assert turn(q_D, *rotary(torch.tensor([17]))).norm().item() == pytest.approx(q_D.norm().item(), abs=1e-5)


def test_rows_at_different_places_turn_by_their_own_angles():
    x_BHTD, rotary = torch.randn(2, 3, 4, 8), Rotary(20, 8, 100.0)
    places_BT = torch.tensor([[0, 1, 2, 3], [9, 10, 11, 12]])
    turned_BHTD = turn(x_BHTD, *rotary(places_BT))
    for row in range(2):
        torch.testing.assert_close(turned_BHTD[row], turn(x_BHTD[row], *rotary(places_BT[row])))


# --- what a token sees ------------------------------------------------------------------------------------------------


def effect_of_changing(model, place):
    """By how much each position's logits (T,) change when the token at `place` does."""
    tokens_BT, _ = random_batch(B=1)
    changed_BT = tokens_BT.clone()
    changed_BT[:, place] = (changed_BT[:, place] + 1) % 17
    return (model(tokens_BT) - model(changed_BT)).abs().amax(dim=(0, 2))


@pytest.mark.parametrize("settings", VARIANTS)
def test_a_token_never_changes_earlier_logits(settings):
    difference_T = effect_of_changing(shaken_llama(**settings), 6)
    assert difference_T[:6].max() < 1e-6
    assert difference_T[6] > 1e-4


@pytest.mark.parametrize("window", [1, 3, 4])
def test_a_layer_sees_as_far_back_as_its_window_and_no_further(window):
    difference_T = effect_of_changing(shaken_llama(n_layer=1, window=window), 2)
    seen = torch.arange(10).ge(2) & torch.arange(10).lt(2 + window)
    assert difference_T[seen].min() > 1e-4
    assert difference_T[~seen].max() < 1e-6


def test_a_window_as_long_as_the_sequence_is_none():
    model, windowed = shaken_llama(), small_llama(window=10)
    windowed.load_state_dict(model.state_dict())
    tokens_BT, _ = random_batch()
    torch.testing.assert_close(windowed(tokens_BT), model(tokens_BT))


# --- how it starts, what it is made of --------------------------------------------------------------------------------


@pytest.mark.parametrize("tie_weights", [True, False])
def test_first_loss_is_that_of_the_uniform_distribution(tie_weights):
    model = Llama(1000, 64, n_layer=3, n_head=4, n_embd=64, n_kv_head=2, tie_weights=tie_weights)
    loss = model.loss(*random_batch(V=1000, B=8, T=64))
    assert loss.item() == pytest.approx(math.log(1000), abs=0.1)


def test_initial_weights_are_as_documented():
    model = Llama(300, 16, n_layer=3, n_head=4, n_embd=96, n_kv_head=2, qkv_bias=True)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            std = 0.02 / math.sqrt(2 * 3) if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.04), name
            assert abs(parameter.mean().item()) < 0.05 * std, name


@pytest.mark.parametrize("G", [1, 2, 4])
@pytest.mark.parametrize("head_size", [None, 6])
@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("tie_weights", [True, False])
def test_parameter_count_matches_the_formula(G, head_size, qkv_bias, tie_weights):
    V, L, C, H, M, D = 17, 2, 16, 4, 20, head_size or 4
    model = small_llama(n_kv_head=G, head_size=head_size, n_inner=M, qkv_bias=qkv_bias, tie_weights=tie_weights)
    block = (C + qkv_bias) * (H + 2 * G) * D + H * D * C + 3 * C * M + 2 * C
    expected = V * C * (1 if tie_weights else 2) + L * block + C
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_default_inner_width_is_the_next_multiple_of_64():
    for n_embd in range(1, 600):
        expected = next(width for width in range(64, 2000, 64) if 3 * width >= 8 * n_embd)
        assert default_inner(n_embd) == expected
    assert small_llama().layers[0].mlp.down_proj.in_features == 64


@pytest.mark.parametrize("settings", VARIANTS)
def test_state_dict_round_trip(settings):
    model, other = shaken_llama(**settings), small_llama(**settings)
    other.load_state_dict(model.state_dict())
    tokens_BT, _ = random_batch()
    assert torch.equal(model(tokens_BT), other(tokens_BT))
    assert (other.lm_head.weight is other.embed_tokens.weight) == settings.get("tie_weights", False)
    assert not any(name.startswith("rotary") for name in model.state_dict())


# --- how it behaves ---------------------------------------------------------------------------------------------------


def test_dropout_acts_in_training_and_not_in_evaluation():
    model, without = shaken_llama(dropout=0.3), small_llama()
    without.load_state_dict(model.state_dict())
    tokens_BT, _ = random_batch()
    assert not torch.equal(model(tokens_BT), model(tokens_BT))
    assert torch.equal(model.eval()(tokens_BT), without(tokens_BT))


@pytest.mark.parametrize("place", ["dropout", "layers.1.dropout", "layers.0.self_attn"])
def test_each_place_of_dropout_acts_alone(place):
    model = shaken_llama()
    module = model.get_submodule(place)
    setattr(module, "attn_dropout" if place.endswith("self_attn") else "p", 0.5)
    tokens_BT, _ = random_batch()
    assert not torch.equal(model(tokens_BT), model(tokens_BT))


@pytest.mark.parametrize("silenced", ["self_attn.o_proj", "mlp.down_proj"])
def test_both_branches_of_a_block_have_dropout(silenced):
    """One module serves both branches: each must still draw when the other adds nothing."""
    model = shaken_llama(n_layer=1)
    model.layers[0].dropout.p = 0.5
    model.layers[0].get_submodule(silenced).weight.data.zero_()
    tokens_BT, _ = random_batch()
    assert not torch.equal(model(tokens_BT), model(tokens_BT))


class LossOf(nn.Module):
    """functional_call calls forward; this makes `loss` the forward."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens_BT, targets_BT):
        return self.model.loss(tokens_BT, targets_BT)


@pytest.mark.parametrize("settings", VARIANTS)
def test_loss_is_a_pure_function_of_its_parameters(settings):
    model, other = shaken_llama(**settings), shaken_llama(**settings)
    batch = random_batch()
    before = model.loss(*batch)
    parameters = {f"model.{name}": parameter for name, parameter in other.named_parameters()}
    assert torch.equal(functional_call(LossOf(model), parameters, batch), other.loss(*batch))
    assert torch.equal(model.loss(*batch), before)


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 is too small: choose 1 or more"),
        ({"block_size": 0}, "data.block_size=0 is too small: choose 1 or more"),
        ({"n_layer": 0}, "model.n_layer=0 is too small: choose 1 or more"),
        ({"n_layer": 1001}, "model.n_layer=1001 is too large: choose 1000 or less"),
        ({"n_head": 0}, "model.n_head=0 is too small: choose 1 or more"),
        ({"n_kv_head": 0}, "model.n_kv_head=0 is too small: choose 1 or more"),
        ({"n_kv_head": 3}, "model.n_head=4 is not divisible by model.n_kv_head=3: choose a multiple"),
        ({"n_kv_head": 8}, "model.n_head=4 is not divisible by model.n_kv_head=8: choose a multiple"),
        ({"n_embd": -4}, "model.n_embd=-4 is too small: choose 1 or more"),
        ({"n_embd": 18}, "model.n_embd=18 is not divisible by model.n_head=4: choose a multiple"),
        ({"head_size": 0}, "model.head_size=0 is too small: choose 1 or more"),
        ({"head_size": 3}, "a head size of 3 is odd, but rotary positions turn pairs: make it even"),
        ({"n_embd": 12}, "a head size of 3 is odd, but rotary positions turn pairs: make it even"),
        ({"n_inner": 0}, "model.n_inner=0 is too small: choose 1 or more"),
        ({"window": 0}, "model.window=0 is too small: choose 1 or more"),
        ({"rope_base": 0.0}, "model.rope_base=0.0 is out of range: choose a number above 0, such as 10000"),
        ({"rope_base": -1.0}, "model.rope_base=-1.0 is out of range: choose a number above 0, such as 10000"),
        ({"rope_base": math.inf}, "model.rope_base=inf is out of range: choose a number above 0, such as 10000"),
        ({"rope_base": math.nan}, "model.rope_base=nan is out of range: choose a number above 0, such as 10000"),
        ({"dropout": 1.0}, "model.dropout=1.0 is out of range: choose from 0 up to, not including, 1"),
        ({"dropout": math.nan}, "model.dropout=nan is out of range: choose from 0 up to, not including, 1"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(ConfigError) as error:
        small_llama(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize("settings", VARIANTS)
def test_a_sequence_longer_than_block_size_is_refused(settings):
    tokens_BT, _ = random_batch(T=11)
    with pytest.raises(ConfigError, match="11 tokens is longer than the model's block_size=10"):
        small_llama(**settings)(tokens_BT)
