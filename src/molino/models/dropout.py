"""Dropout whose random numbers do not cost more than the model's products."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 1 << 16  # probabilities are multiples of 1 / LEVELS


class Dropout(nn.Module):
    """`nn.Dropout`, with the random numbers of `drop`. Raises ValueError unless 0 <= p < 1."""

    def __init__(self, p: float):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"a dropout probability of {p} is not from 0 up to, not including, 1")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return drop(x, self.p) if self.training else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


def fill(bits: Tensor) -> None:
    """Fill a tensor of int64 with random bits."""
    bits.random_(-(1 << 63), None)


# In compiled code, which else draws number by number. Outside it would take longer to call than small tensors do.
fill_compiled = torch.library.custom_op("molino::fill", fill, mutates_args=("bits",))


def drop(x: Tensor, p: float) -> Tensor:
    """Set each element of `x` to zero with probability p and scale the others up, so that means stay what they were.

    On many CPUs torch draws a number for each element, one after the other: two fifths of the step of a 6-layer GPT.
    Here one draw of 64 bits decides on four elements, which is ten times faster; p is rounded to a multiple of
    1/65,536, and the scale is that of the rounded p. Other devices draw as torch does.
    """
    if p == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    dropped = min(round(p * LEVELS), LEVELS - 1)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
    (fill_compiled if torch.compiler.is_compiling() else fill)(bits)
    keep = bits.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - LEVELS // 2
    # As numbers of 8 bits they become floats eight times as fast as they do as truth values.
    return x * (keep.view(torch.uint8).to(x.dtype) * (LEVELS / (LEVELS - dropped)))
