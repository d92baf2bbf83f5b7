"""Models without weights."""

import subprocess
import sys

import torch

from molino.models.gpt import GPT
from molino.models.shapes import shapes_only

SIZES = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16}


def test_shapes_are_those_of_the_model_and_nothing_is_drawn_for_them():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with shapes_only():
        shapes = GPT(**SIZES)
    assert torch.equal(torch.get_rng_state(), before) and all(p.is_meta for p in shapes.parameters())
    model = GPT(**SIZES)
    assert [(n, p.shape, p.dtype) for n, p in shapes.named_parameters()] == [
        (n, p.shape, p.dtype) for n, p in model.named_parameters()
    ]
    assert not any(p.is_meta for p in model.parameters())


def test_they_need_no_compiler():
    code = f"""
import sys
from molino.models.gpt import GPT
from molino.models.shapes import shapes_only
with shapes_only():
    GPT(**{SIZES})
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
