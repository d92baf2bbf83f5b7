"""A linear layer that is as fast for one token as the memory lets it be."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_PIECES = 16


class Linear(nn.Linear):
    """`nn.Linear`, but that a single token on a CPU is multiplied by all threads.

    To decode a text is to multiply one vector after the other by every matrix of the model. The BLAS libraries do such
    a product with one thread on many machines; cut into pieces of rows it is a batch of products, which threads share.
    That wins where the cores are free; beside busy neighbours threads wait for each other, and hardware.threads=1, with
    which the product stays whole, is faster.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        pieces = math.gcd(self.out_features, MOST_PIECES)
        one_token = x.numel() == self.in_features and x.device.type == "cpu" and x.dtype == self.weight.dtype
        if pieces == 1 or not one_token or torch.is_grad_enabled() or torch.get_num_threads() == 1:
            return F.linear(x, self.weight, self.bias)
        w = self.weight.view(pieces, -1, self.in_features).transpose(1, 2)
        y = torch.bmm(x.reshape(1, 1, -1).expand(pieces, 1, -1), w).view(*x.shape[:-1], -1)
        return y if self.bias is None else y.add_(self.bias)
