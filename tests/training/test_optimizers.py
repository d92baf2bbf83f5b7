"""What optimizers are handed of a model, and that what they save goes on alike: of today, and of before."""

import functools
import io

import pytest
import torch
from torch import nn

from molino.models.gpt import GPT
from molino.models.llama import Llama
from molino.training.muon import Muon
from molino.training.optimizers import hidden_weights, optimizer_for, parameter_groups

ADAMW = functools.partial(torch.optim.AdamW, lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
MUON = functools.partial(Muon, lr=0.01, muon_lr=0.02, weight_decay=0.1)
OTHERS = [
    functools.partial(torch.optim.Adam, lr=0.01, weight_decay=0.1, fused=True),
    functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
]
# The parameters of `gpt`, in the order in which the model has them.
OUTSIDE = ["wte.weight", "wpe.weight"]
INSIDE = [f"h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]
VECTORS = [
    "h.0.ln_1.weight", "h.0.ln_1.bias", "h.0.attn.c_attn.bias", "h.0.attn.c_proj.bias", "h.0.ln_2.weight",
    "h.0.ln_2.bias", "h.0.mlp.c_fc.bias", "h.0.mlp.c_proj.bias", "ln_f.weight", "ln_f.bias",
]  # fmt: skip


def gpt() -> GPT:
    torch.manual_seed(0)
    return GPT(11, 8, n_layer=1, n_head=2, n_embd=8)


def matrices(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.dim() >= 2}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def saved(content: dict) -> dict:
    """What a checkpoint gives back of it."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def state_of_before(model: nn.Module, optimizer: torch.optim.Optimizer, groups: list[tuple[list[str], dict]]) -> dict:
    """The state as checkpoints of before have it: of these names and settings of groups, put together by hand."""
    parameters, order = dict(model.named_parameters()), [name for names, _ in groups for name in names]
    common = {
        "lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1, "amsgrad": False, "maximize": False,
        "foreach": None, "capturable": False, "differentiable": False, "fused": True, "decoupled_weight_decay": True,
        "initial_lr": 0.01,
    }  # fmt: skip
    listed = [common | settings | {"params": [order.index(name) for name in names]} for names, settings in groups]
    return {
        "state": {place: optimizer.state[parameters[name]] for place, name in enumerate(order)},
        "param_groups": listed,
    }


@pytest.mark.parametrize(
    "model", [GPT(11, 8, n_layer=2, n_head=2, n_embd=8), Llama(11, 8, n_layer=2, n_head=2, n_embd=8)]
)
def test_the_matrices_inside_a_network_are_hidden_and_nothing_else(model):
    hidden = {name for name, parameter in model.named_parameters() if parameter in hidden_weights(model)}
    per_layer = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj") if isinstance(model, GPT) else (
        "self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")  # fmt: skip
    layers = "h" if isinstance(model, GPT) else "layers"
    assert hidden == {f"{layers}.{layer}.{name}.weight" for layer in (0, 1) for name in per_layer}
    groups = optimizer_for(model, matrices(model), MUON).param_groups
    assert {parameter for group in groups if group["muon"] for parameter in group["params"]} == hidden_weights(model)


def test_groups_hold_what_torch_knows_and_nothing_else():
    groups = parameter_groups(gpt(), matrices(gpt()), {})
    assert [set(group) for group in groups] == [{"params"}, {"params", "weight_decay"}]
    for make in (ADAMW, *OTHERS):
        (stock,) = make([nn.Parameter(torch.zeros(1))]).param_groups
        for group in optimizer_for(gpt(), matrices(gpt()), make).param_groups:
            assert group.keys() == stock.keys()


@pytest.mark.parametrize("make", [ADAMW, MUON, *OTHERS])
def test_a_saved_state_goes_on_alike(make):
    ours, theirs = gpt(), gpt()
    optimizer, other = (optimizer_for(model, matrices(model), make) for model in (ours, theirs))
    train(ours, optimizer, seed=1)
    theirs.load_state_dict(ours.state_dict())
    other.load_state_dict(saved(optimizer.state_dict()))
    train(ours, optimizer, seed=2)
    train(theirs, other, seed=2)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


@pytest.mark.parametrize("make", [ADAMW, MUON])
def test_a_state_of_before_goes_on_alike(make):
    """AdamW's groups told of each parameter whether it was hidden; Muon's have always been parted by it."""
    ours, theirs = gpt(), gpt()
    optimizer, other = (optimizer_for(model, matrices(model), make) for model in (ours, theirs))
    train(ours, optimizer, seed=1)
    if make is ADAMW:
        hidden = [False] * len(OUTSIDE) + [True] * len(INSIDE)
        groups = [(OUTSIDE + INSIDE, {"hidden": hidden}), (VECTORS, {"weight_decay": 0.0, "hidden": [False] * 10})]
    else:
        inside = {"muon": True, "lr": 0.02, "initial_lr": 0.02}
        groups = [(OUTSIDE, {"muon": False}), (INSIDE, inside), (VECTORS, {"muon": False, "weight_decay": 0.0})]
    assert [name for name, _ in ours.named_parameters() if name in VECTORS] == VECTORS
    theirs.load_state_dict(ours.state_dict())
    other.load_state_dict(saved(state_of_before(ours, optimizer, groups)))
    train(ours, optimizer, seed=2)
    train(theirs, other, seed=2)
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
