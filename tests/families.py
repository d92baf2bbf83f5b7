"""One small model of every family and position scheme, with weights far from their initial values."""

import numpy as np
import torch
from torch import nn

from molino.models.bigram import Bigram
from molino.models.counting import count, stream_of
from molino.models.gpt import GPT
from molino.models.kneser_ney import KneserNey
from molino.models.llama import Llama
from molino.models.on_counts import OnCounts
from molino.models.tables import Tables, make_tables

V = 23
ORIGINAL_2017 = {"positions": "sinusoidal", "norm": "post", "activation": "relu", "scale_embeddings": True}
FAMILIES = {
    "gpt": (GPT, {}),
    "gpt-post-norm": (GPT, {"norm": "post", "activation": "gelu_tanh", "bias": False}),
    "gpt-sinusoidal": (GPT, {"positions": "sinusoidal", "tie_weights": False}),
    "gpt-2017": (GPT, ORIGINAL_2017 | {"tie_weights": False, "init": "xavier_uniform"}),
    "llama": (Llama, {}),
    "llama-grouped": (Llama, {"n_kv_head": 2, "tie_weights": True}),
    "llama-one-key-head-biases": (Llama, {"n_kv_head": 1, "qkv_bias": True, "head_size": 6}),
    "llama-window": (Llama, {"n_kv_head": 2, "window": 5}),
    "llama-normed-queries": (Llama, {"qk_norm": True}),
    "llama-ngrams": (Llama, {"ngrams": 3, "ngram_rows": 600}),
    "bigram": (Bigram, {}),
    "kneser-ney": (KneserNey, {}),
}
# Networks on counts, and which.
ON_COUNTS = {"gpt on counts": "gpt", "llama-ngrams on counts": "llama-ngrams", "bigram on counts": "bigram"}
# Without attention.
LOOKED_UP = ("bigram", "kneser-ney", "bigram on counts")
FAMILIES |= {name: FAMILIES[inner] for name, inner in ON_COUNTS.items()}


def make(name: str, block_size: int) -> nn.Module:
    family, settings = FAMILIES[name]
    torch.manual_seed(0)
    sizes = {} if family in (Bigram, KneserNey) else {"n_layer": 2, "n_head": 4, "n_embd": 16}
    model = family(vocab_size=V, block_size=block_size, **sizes | settings).eval()
    if name in ON_COUNTS:
        model = OnCounts(model).eval()
    if model.capabilities.counts:
        model.tables = counted()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model


def counted() -> Tables:
    """Tables of a text in which what follows depends on several tokens."""
    text = random_tokens(40).repeat(8)
    text[torch.arange(0, 320, 7)] = random_tokens(46, seed=2)
    ngrams = count(stream_of(text.numpy(), np.array([0, 319]), V), V, 6)
    return make_tables(ngrams, [np.bincount(ngrams.gram_P)])


def random_tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, V, shape, generator=torch.Generator().manual_seed(seed))
