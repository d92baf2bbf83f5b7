import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.models import IGNORE_INDEX
from molino.models.gpt import GPT, SinusoidalPositions

CONF = Path(__file__).parents[2] / "conf" / "model"
SMALL = {"vocab_size": 17, "block_size": 10, "n_layer": 2, "n_head": 2, "n_embd": 12}
ORIGINAL_2017 = {
    "positions": "sinusoidal",
    "norm": "post",
    "activation": "relu",
    "tie_weights": False,
    "scale_embeddings": True,
    "init": "xavier_uniform",
}
VARIANTS = [{}, {"bias": False, "activation": "gelu_tanh", "n_inner": 20}, ORIGINAL_2017]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small_gpt(**settings):
    return GPT(**SMALL | settings)


def shaken_gpt(**settings):
    """Weights far from their initial values, so that no error hides behind zeros, ones or small numbers."""
    model = small_gpt(**settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def random_batch(V=17, B=3, T=10):
    return torch.randint(V, (2, B, T)).unbind(0)


# --- what it computes -------------------------------------------------------------------------------------------------


def torch_encoder_logits(model, tokens_BT, norm_first, activation):
    """The same weights through torch.nn.TransformerEncoder under a causal mask."""
    C, T = 12, tokens_BT.shape[1]
    layer = nn.TransformerEncoderLayer(
        C, 2, 4 * C, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
    )
    final_norm = nn.LayerNorm(C) if norm_first else None
    encoder = nn.TransformerEncoder(layer, len(model.h), norm=final_norm, enable_nested_tensor=False)
    for theirs, ours in zip(encoder.layers, model.h, strict=True):
        pairs = [
            (theirs.self_attn.out_proj, ours.attn.c_proj),
            (theirs.linear1, ours.mlp.c_fc),
            (theirs.linear2, ours.mlp.c_proj),
            (theirs.norm1, ours.ln_1),
            (theirs.norm2, ours.ln_2),
        ]
        for target, source in pairs:
            target.load_state_dict(source.state_dict())
        attention = {"in_proj_weight": ours.attn.c_attn.weight, "in_proj_bias": ours.attn.c_attn.bias}
        theirs.self_attn.load_state_dict(attention, strict=False)
    if norm_first:
        encoder.norm.load_state_dict(model.ln_f.state_dict())
    x_BTC = model.wte(tokens_BT) * model.embedding_scale + model.wpe(torch.arange(T))
    mask_TT = nn.Transformer.generate_square_subsequent_mask(T)
    return encoder(x_BTC, mask=mask_TT, is_causal=True) @ model.lm_head.weight.T


@pytest.mark.parametrize(
    ("settings", "norm_first", "activation"),
    [
        ({}, True, "gelu"),
        ({"norm": "post", "activation": "relu"}, False, "relu"),
        (ORIGINAL_2017, False, "relu"),
        ({"activation": "gelu_tanh"}, True, lambda x: F.gelu(x, approximate="tanh")),
    ],
    ids=["pre-norm", "post-norm", "original-2017", "gelu-tanh"],
)
def test_matches_torch_transformer_encoder(settings, norm_first, activation):
    model = shaken_gpt(**settings)
    tokens_BT, _ = random_batch()
    expected_BTV = torch_encoder_logits(model, tokens_BT, norm_first, activation)
    torch.testing.assert_close(model(tokens_BT), expected_BTV, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", VARIANTS)
def test_a_token_changes_its_own_and_later_logits_only(settings):
    model = shaken_gpt(**settings)
    tokens_BT, _ = random_batch(B=1)
    changed_BT = tokens_BT.clone()
    changed_BT[:, 6] = (changed_BT[:, 6] + 1) % 17
    difference_T = (model(tokens_BT) - model(changed_BT)).abs().amax(dim=(0, 2))
    assert difference_T[:6].max() < 1e-6
    assert difference_T[6:].min() > 1e-4


@pytest.mark.parametrize("settings", VARIANTS)
def test_right_padding_changes_neither_logits_nor_loss(settings):
    model = shaken_gpt(**settings)
    tokens_BT, targets_BT = random_batch(B=1, T=6)
    padded_targets_BT = F.pad(targets_BT, (0, 4), value=IGNORE_INDEX)
    for padding in (0, 3):
        padded_BT = F.pad(tokens_BT, (0, 4), value=padding)
        torch.testing.assert_close(model(padded_BT)[:, :6], model(tokens_BT), atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(model.loss(padded_BT, padded_targets_BT), model.loss(tokens_BT, targets_BT))


def test_loss_is_cross_entropy_over_the_targets_that_count():
    model = shaken_gpt()
    tokens_BT, targets_BT = random_batch()
    targets_BT[1, 3:] = IGNORE_INDEX
    log_p_BTV = model(tokens_BT).log_softmax(-1)
    kept = [-log_p_BTV[b, t, targets_BT[b, t]] for b in range(3) for t in range(10) if targets_BT[b, t] != IGNORE_INDEX]
    assert len(kept) == 23
    torch.testing.assert_close(model.loss(tokens_BT, targets_BT), torch.stack(kept).mean())


def test_sinusoidal_table_matches_a_loop():
    table_TC = SinusoidalPositions(50, 8)(torch.arange(50))
    for t in range(50):
        for i in range(4):
            angle = t / 10000 ** (2 * i / 8)
            assert table_TC[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table_TC[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


# --- how it starts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tie_weights", [True, False])
def test_first_loss_is_that_of_the_uniform_distribution(tie_weights):
    model = GPT(vocab_size=1000, block_size=64, n_layer=3, n_head=4, n_embd=64, tie_weights=tie_weights)
    loss = model.loss(*random_batch(V=1000, B=8, T=64))
    assert loss.item() == pytest.approx(math.log(1000), abs=0.1)


def documented_std(name, parameter, init, n_layer):
    if init == "xavier_uniform":
        return math.sqrt(2 / sum(parameter.shape))
    return 0.02 / math.sqrt(2 * n_layer) if name.endswith("c_proj.weight") else 0.02


@pytest.mark.parametrize("init", ["gpt2", "xavier_uniform"])
def test_initial_weights_are_as_documented(init):
    model = GPT(vocab_size=300, block_size=100, n_layer=3, n_head=2, n_embd=96, tie_weights=False, init=init)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "ln_" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(documented_std(name, parameter, init, 3), rel=0.04), name
            assert abs(parameter.mean().item()) < 0.05 * parameter.std().item(), name
            if init == "xavier_uniform":
                assert parameter.abs().max().item() <= math.sqrt(6 / sum(parameter.shape)), name


@pytest.mark.parametrize("settings", VARIANTS)
def test_gradients_reach_every_parameter(settings):
    model = shaken_gpt(**settings)
    model.loss(*random_batch(B=8)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


# --- what it is made of -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("tie_weights", [True, False])
def test_parameter_count_matches_the_formula(bias, norm, positions, tie_weights):
    V, T, L, C, M = 17, 10, 2, 12, 30
    model = small_gpt(n_inner=M, bias=bias, norm=norm, positions=positions, tie_weights=tie_weights)
    block = 4 * C * C + 2 * C * M + 2 * C + bias * (3 * C + C + M + C + 2 * C)
    expected = V * C * (1 if tie_weights else 2) + L * block
    expected += T * C * (positions == "learned") + C * (1 + bias) * (norm == "pre")
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_gpt2_small_has_124_million_parameters():
    with torch.device("meta"):
        model = GPT(vocab_size=50257, block_size=1024, n_layer=12, n_head=12, n_embd=768)
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808


def test_tied_weights_are_one_tensor_and_untied_are_two():
    tied, untied = small_gpt(), small_gpt(tie_weights=False)
    assert tied.lm_head.weight is tied.wte.weight
    assert untied.lm_head.weight.data_ptr() != untied.wte.weight.data_ptr()


@pytest.mark.parametrize("settings", VARIANTS)
def test_state_dict_round_trip(settings):
    model, other = shaken_gpt(**settings), small_gpt(**settings)
    other.load_state_dict(model.state_dict())
    tokens_BT, _ = random_batch()
    assert torch.equal(model(tokens_BT), other(tokens_BT))
    assert (other.lm_head.weight is other.wte.weight) == settings.get("tie_weights", True)
    assert "wpe.table" not in model.state_dict()


def test_scaled_embeddings_are_sqrt_n_embd_times_larger():
    plain, scaled = small_gpt(), small_gpt(scale_embeddings=True)
    scaled.load_state_dict(plain.state_dict())
    scaled.wte.weight.data.div_(math.sqrt(12))
    scaled.lm_head.weight = nn.Parameter(plain.wte.weight.detach().clone())
    tokens_BT, _ = random_batch()
    torch.testing.assert_close(scaled(tokens_BT), plain(tokens_BT))


# --- how it behaves ---------------------------------------------------------------------------------------------------


def test_dropout_acts_in_training_and_not_in_evaluation():
    model = shaken_gpt(dropout=0.3)
    without = small_gpt()
    without.load_state_dict(model.state_dict())
    tokens_BT, _ = random_batch()
    assert not torch.equal(model(tokens_BT), model(tokens_BT))
    assert torch.equal(model.eval()(tokens_BT), without(tokens_BT))


def test_each_place_of_dropout_acts_alone():
    tokens_BT, _ = random_batch()
    for place in ("drop", "h.0.attn", "h.1.attn.resid_dropout", "h.0.mlp.resid_dropout"):
        model = shaken_gpt()
        module = model.get_submodule(place)
        if place == "h.0.attn":
            module.attn_dropout = 0.5
        else:
            module.p = 0.5
        assert not torch.equal(model(tokens_BT), model(tokens_BT)), place


class LossOf(nn.Module):
    """functional_call calls forward; this makes `loss` the forward."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens_BT, targets_BT):
        return self.model.loss(tokens_BT, targets_BT)


@pytest.mark.parametrize("settings", VARIANTS)
def test_loss_is_a_pure_function_of_its_parameters(settings):
    model, other = shaken_gpt(**settings), shaken_gpt(**settings)
    batch = random_batch()
    before = model.loss(*batch)
    parameters = {f"model.{name}": parameter for name, parameter in other.named_parameters()}
    assert torch.equal(functional_call(LossOf(model), parameters, batch), other.loss(*batch))
    assert torch.equal(model.loss(*batch), before)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # vmap of attention on the CPU
def test_two_models_of_one_shape_can_be_stacked():
    models = [shaken_gpt(), shaken_gpt()]
    batch = random_batch()
    stacked, _ = torch.func.stack_module_state(models)
    stacked = {f"model.{name}": parameters for name, parameters in stacked.items()}
    losses = torch.vmap(lambda parameters: functional_call(LossOf(models[0]), parameters, batch))(stacked)
    torch.testing.assert_close(losses, torch.stack([model.loss(*batch) for model in models]))


def test_compiled_in_place_keeps_keys_and_loss():
    model = shaken_gpt()
    keys, batch = list(model.state_dict()), random_batch()
    before = model.loss(*batch)
    seen = []

    def spy(graph, inputs):
        seen.append(graph)
        return graph.forward

    model.loss = torch.compile(model.loss, backend=spy, fullgraph=True)
    torch.testing.assert_close(model.loss(*batch), before)
    assert len(seen) == 1
    assert list(model.state_dict()) == keys
    assert not any("_orig_mod" in key for key in keys)


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 is too small: choose 1 or more"),
        ({"block_size": 0}, "data.block_size=0 is too small: choose 1 or more"),
        ({"n_layer": 0}, "model.n_layer=0 is too small: choose 1 or more"),
        ({"n_layer": 1001}, "model.n_layer=1001 is too large: choose 1000 or less"),
        ({"n_head": 0}, "model.n_head=0 is too small: choose 1 or more"),
        ({"n_embd": -4}, "model.n_embd=-4 is too small: choose 1 or more"),
        ({"n_inner": 0}, "model.n_inner=0 is too small: choose 1 or more"),
        (
            {"n_embd": 130, "n_head": 4},
            "model.n_embd=130 is not divisible by model.n_head=4: choose a multiple",
        ),
        ({"dropout": 1.0}, "model.dropout=1.0 is out of range: choose from 0 up to, not including, 1"),
        ({"norm_eps": -1.0}, "model.norm_eps=-1.0 is out of range: choose a small number such as 1e-5"),
        ({"dropout": -0.1}, "model.dropout=-0.1 is out of range: choose from 0 up to, not including, 1"),
        ({"dropout": math.nan}, "model.dropout=nan is out of range: choose from 0 up to, not including, 1"),
        ({"positions": "rotary"}, "model.positions=rotary is unknown: choose one of learned, sinusoidal"),
        ({"norm": "rms"}, "model.norm=rms is unknown: choose one of pre, post"),
        ({"activation": "elu"}, "model.activation=elu is unknown: choose one of gelu, gelu_tanh, relu, silu"),
        ({"init": "zeros"}, "model.init=zeros is unknown: choose one of gpt2, xavier_uniform"),
        (
            {"n_embd": 13, "n_head": 1, "positions": "sinusoidal"},
            "model.n_embd=13 is odd, but model.positions=sinusoidal pairs sines with cosines: make it even",
        ),
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(ConfigError) as error:
        small_gpt(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_a_sequence_longer_than_block_size_is_refused(positions):
    tokens_BT, _ = random_batch(T=11)
    with pytest.raises(ConfigError, match="11 tokens is longer than the model's block_size=10"):
        small_gpt(positions=positions)(tokens_BT)


# --- the configs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "parameters"), [("gpt", 809_856), ("custom_gpt", 1_992_096)])
def test_config_builds_the_model_it_describes(name, parameters):
    config = OmegaConf.create({"data": {"block_size": 64}, "model": OmegaConf.load(CONF / f"{name}.yaml")})
    settings = OmegaConf.to_container(config.model, resolve=True)
    assert settings.pop("_target_") == "molino.models.gpt.GPT"
    model = GPT(vocab_size=65, **settings)
    assert model.block_size == 64
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
