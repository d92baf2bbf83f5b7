"""The rules of what trains fastest, by machine and model."""

import pytest
import torch

from molino.machine import policy
from molino.machine.policy import gains_from_bf16, is_long, is_tiny, multiplies_bf16
from molino.models.bigram import Bigram
from molino.models.gpt import GPT


def gpt(n_layer: int = 4, n_embd: int = 128) -> GPT:
    with torch.device("meta"):
        return GPT(65, 64, n_layer=n_layer, n_head=4, n_embd=n_embd)


def test_bf16_is_known_by_the_instructions(monkeypatch):
    flags = open("/proc/cpuinfo", encoding="utf-8").read().split()  # noqa: SIM115, PTH123
    assert multiplies_bf16() == bool({"avx512_bf16", "amx_bf16"} & set(flags))
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not multiplies_bf16()
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")  # as in a version of torch without it
    assert not multiplies_bf16()


def test_bf16_pays_where_there_are_products_enough(monkeypatch):
    monkeypatch.setattr(policy, "multiplies_bf16", lambda: True)
    assert gains_from_bf16(gpt(), tokens_per_step=12 * 64)
    assert not gains_from_bf16(gpt(n_embd=64), tokens_per_step=8 * 32)
    assert gains_from_bf16(gpt(n_embd=64), tokens_per_step=32 * 64)
    assert not gains_from_bf16(Bigram(10_000, 64), tokens_per_step=10**6)
    monkeypatch.setattr(policy, "multiplies_bf16", lambda: False)
    assert not gains_from_bf16(gpt(), tokens_per_step=12 * 64)


@pytest.mark.parametrize(
    ("model", "tokens_per_step", "max_steps", "long"),
    [
        (gpt(), 768, 1000, False),
        (gpt(), 768, 10**6, True),
        (gpt(12, 768), 2**19, 1000, True),
        (Bigram(65, 8), 256, 10**6, False),
    ],
)
def test_long_training_is_worth_compiling(model, tokens_per_step, max_steps, long):
    assert is_long(model, 64, tokens_per_step, max_steps) == long


def test_one_thread_is_enough_for_what_is_tiny():
    assert is_tiny(Bigram(92, 8), 32 * 8)
    assert not is_tiny(Bigram(10_000, 8), 32 * 8)  # AdamW has a hundred million numbers to go through
    assert not is_tiny(gpt(n_embd=32), 32 * 64)
