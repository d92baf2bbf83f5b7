"""What a model costs: parameters, floating-point operations, memory. Counted from its modules, so for every family."""

from torch import nn

from molino.models.capabilities import capabilities_of, dtype_of, tensor_of
from molino.models.source_first import SourceFirst


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers a model learns; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(model: nn.Module, context: int) -> int:
    """Return the operations of a forward pass for one new token that comes last of `context` tokens.

    Each weight of a linear layer (the head included) is a multiplication and an addition; so is, in every attention
    head, each number of the keys (scores) and of the values (weighted sums) within reach. Table look-ups, norms,
    activations and biases are left out, as is usual (Kaplan et al. 2020, table 1): they are less than a hundredth. Of a
    model that reads a source half of the tokens are taken to pass the encoder, and half the decoder.

    Args:
        context: tokens that the new one sees, itself included; a sliding window shows it fewer.
    """
    flops = 0
    for module in model.modules():
        if isinstance(module, nn.Linear):
            flops += 2 * module.weight.numel()
        elif isinstance(module, nn.RNNBase):
            flops += sum(2 * weight.numel() for weight in module.parameters() if weight.dim() == 2)
        elif hasattr(module, "n_head") and hasattr(module, "head_size"):
            seen = min(context, getattr(module, "window", None) or context)
            flops += 4 * module.n_head * module.head_size * seen
    if isinstance(model, SourceFirst):  # whose head reads the targets alone
        flops -= tensor_of(model.model, capabilities_of(model.model).head).numel()
    return flops // 2 if capabilities_of(model).source else flops


def cache_bytes_per_token(model: nn.Module) -> int:
    """Return the memory that a KV cache in the precision of the weights takes for one token of one text."""
    return model.capabilities.cache.numbers_per_token * dtype_of(model).itemsize
