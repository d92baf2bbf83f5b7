"""Muon against torch's own, against a singular value decomposition, and AdamW for what is not hidden."""

import functools
import math

import pytest
import torch
from torch import nn

from molino.base.errors import ConfigError
from molino.models.gpt import GPT
from molino.tasks.language_model import LanguageModel
from molino.training.module import TrainingModule
from molino.training.muon import Muon, orthogonal


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def matrices(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape)) for shape in shapes]


def copies(parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(parameter.detach().clone()) for parameter in parameters]


def take_steps(parameters: list[nn.Parameter], *optimizers: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("shape", [(8, 8), (5, 20), (20, 5)])
@pytest.mark.parametrize("bf16", [True, False])
def test_the_singular_values_come_near_one_and_the_vectors_stay(shape, bf16):
    x_KMN = torch.randn(3, *shape)
    left, _, right = torch.linalg.svd(x_KMN, full_matrices=False)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        near = orthogonal(x_KMN)
    assert near.dtype == (torch.bfloat16 if bf16 else torch.float32)
    found = left.mT @ near.float() @ right.mT  # diagonal in the basis of x
    values = found.diagonal(dim1=-2, dim2=-1)
    assert values.min() > 0.5 and values.max() < 1.3
    off = found - torch.diag_embed(values)
    assert off.abs().max() < (0.05 if bf16 else 1e-4)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_hidden_matrices_go_where_torchs_muon_takes_them():
    ours = matrices((40, 70), (70, 40), (40, 70))
    theirs = copies(ours)
    take_steps(ours, Muon([{"params": ours}], hidden=set(ours), lr=1e-3, muon_lr=0.02, momentum=0.9, weight_decay=0.1))
    # Theirs always computes in bf16; where ours does too the results are near, else within its rounding.
    take_steps(theirs, torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.1))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-3, rtol=0)


def test_what_is_not_hidden_goes_where_adamw_takes_it():
    ours = matrices((6, 5), (4,), (3, 3))
    theirs = copies(ours)
    groups = [{"params": ours[:1]}, {"params": ours[1:], "weight_decay": 0.0}]
    other = [{"params": theirs[:1]}, {"params": theirs[1:], "weight_decay": 0.0}]
    take_steps(ours, Muon(groups, hidden=set(), lr=0.01, muon_lr=0.5, weight_decay=0.1, betas=(0.8, 0.9)))
    take_steps(theirs, torch.optim.AdamW(other, lr=0.01, weight_decay=0.1, betas=(0.8, 0.9), fused=True))
    for mine, their in zip(ours, theirs, strict=True):
        assert torch.equal(mine, their)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"muon_lr": 0.0}, "muon_lr=0.0 must be above 0"),
        ({"muon_lr": math.inf}, "muon_lr=inf must be above 0"),
        ({"momentum": 1.0}, "momentum=1.0 must be from 0"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    model = GPT(11, 8, n_layer=1, n_head=2, n_embd=8)
    optimizer = functools.partial(Muon, **{"lr": 0.1, "muon_lr": 0.1} | settings)
    module = TrainingModule(LanguageModel(), model, optimizer, lambda step, max_steps: 1.0, max_steps=1, log_every=1)
    with pytest.raises(ConfigError, match=f"optimizer: {message}"):
        module.configure_optimizers()


def test_pieces_of_matrices_are_refused():
    pieces = matrices((12,))
    with pytest.raises(ValueError, match="hardware=fsdp"):
        Muon([{"params": pieces}], hidden=set(pieces), lr=0.1, muon_lr=0.1)
