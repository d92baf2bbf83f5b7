"""What makes training fast, by what was measured (docs/speed.md): rules, not trials, so that a run can be repeated."""

import torch
from torch import nn

from molino.models.cost import count_parameters, flops_per_token

# Training multiplies three times as much as a forward pass: once more for each of the two gradients.
TRAINING = 3
# With so many operations a step for each linear layer, bf16 on a CPU gains what its casts cost.
SMALL_LAYER = 4e7
# Below so many operations a step, and so many parameters, threads take longer to meet than to compute.
TINY_STEP, TINY_MODEL = 1e7, 1e6
# torch.compile takes about half a minute to a minute on a GPU. It pays where training takes several, at this pace.
LONG_SECONDS, GPU_FLOPS, GPU_LAYER_SECONDS = 300, 1e14, 1e-3


def multiplies_bf16() -> bool:
    """Tell whether this CPU has instructions for products in bf16 (AVX512-BF16 or AMX); without, they are emulated."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def training_flops(model: nn.Module, block_size: int) -> int:
    """Return the operations of training on one token, the mean over the places of a window."""
    return TRAINING * flops_per_token(model, (block_size + 1) // 2)


def gains_from_bf16(model: nn.Module, tokens_per_step: int) -> bool:
    """Tell whether training `model` on this CPU is faster with products in bf16."""
    layers = sum(isinstance(module, nn.Linear) for module in model.modules())
    return multiplies_bf16() and TRAINING * flops_per_token(model, 1) * tokens_per_step > layers * SMALL_LAYER


def is_tiny(model: nn.Module, tokens_per_step: int) -> bool:
    """Tell whether one thread trains `model` faster than several, as it does a bigram of characters."""
    return training_flops(model, 1) * tokens_per_step < TINY_STEP and count_parameters(model) < TINY_MODEL


def is_long(model: nn.Module, block_size: int, tokens_per_step: int, max_steps: int) -> bool:
    """Tell whether training takes so long on a GPU that it repays compiling. A guess: no GPU has been measured."""
    layers = sum(hasattr(module, "attn_path") for module in model.modules())
    products = training_flops(model, block_size) * tokens_per_step / GPU_FLOPS
    return max_steps * max(products, layers * GPU_LAYER_SECONDS) > LONG_SECONDS
