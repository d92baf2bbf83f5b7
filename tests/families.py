"""One small model of every family and position scheme, with weights far from their initial values."""

import torch
from torch import nn

from molino.models.bigram import Bigram
from molino.models.gpt import GPT
from molino.models.llama import Llama

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
}


def make(name: str, block_size: int) -> nn.Module:
    family, settings = FAMILIES[name]
    torch.manual_seed(0)
    sizes = {} if family is Bigram else {"n_layer": 2, "n_head": 4, "n_embd": 16}
    model = family(vocab_size=V, block_size=block_size, **sizes | settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.15)
    return model


def random_tokens(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, V, shape, generator=torch.Generator().manual_seed(seed))
