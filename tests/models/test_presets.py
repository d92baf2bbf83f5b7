"""The published models under conf/model/ have the published numbers of parameters, and those `transformers` builds."""

import pytest
import torch
import transformers
from conftest import ROOT
from omegaconf import OmegaConf

from molino.models.gpt import GPT
from molino.models.llama import Llama

PUBLISHED = {
    "gpt1": (GPT, 40_478, 512, 116_534_784, "OpenAIGPT"),
    "gpt2": (GPT, 50_257, 1024, 124_439_808, "GPT2"),
    "phi3": (Llama, 32_064, 4096, 3_821_079_552, "Phi3"),
}
# Of the GPT-2 paper's other sizes, as the comment in conf/model/gpt2.yaml has them.
LARGER = {(24, 16, 1024): 354_823_168, (36, 20, 1280): 774_030_080, (48, 25, 1600): 1_557_611_200}


def read(name: str) -> tuple[dict, int]:
    """The settings of a preset and its context."""
    config = OmegaConf.load(ROOT / "conf" / "model" / f"{name}.yaml")
    model = OmegaConf.to_container(config.model, resolve=False)
    return {key: value for key, value in model.items() if key not in ("_target_", "block_size")}, config.data.block_size


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    family, V, context, parameters, theirs = PUBLISHED[name]
    settings, block_size = read(name)
    with torch.device("meta"):
        model = family(vocab_size=V, block_size=block_size, **settings)
        config = getattr(transformers, f"{theirs}Config")()
        reference = transformers.AutoModelForCausalLM.from_config(config)
    assert block_size == context
    assert count(model) == count(reference) == parameters


@pytest.mark.parametrize("sizes", LARGER)
def test_larger_gpt2(sizes):
    settings, block_size = read("gpt2")
    n_layer, n_head, n_embd = sizes
    assert f"{n_layer} {n_head} {n_embd}" in (ROOT / "conf" / "model" / "gpt2.yaml").read_text()
    with torch.device("meta"):
        sizes = {"n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
        model = GPT(vocab_size=50_257, block_size=block_size, **settings | sizes)
    assert count(model) == LARGER[n_layer, n_head, n_embd]
