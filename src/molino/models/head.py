"""The loss of a linear head, without all the logits at once where a vocabulary is large.

Shape suffixes: B batch, T time, N tokens (B times T), C channels, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from molino.models import IGNORE_INDEX, compute_dtype, next_token_loss

# From so many tokens in the vocabulary on, logits are computed piece by piece.
LARGE_VOCABULARY = 4096
# Logits in a piece: few enough to stay near a CPU's cores, or enough to fill a GPU.
PIECE = {"cpu": 2**23, "cuda": 2**27}


def head_loss(
    x_BTC: Tensor,
    weight_VC: Tensor,
    targets_BT: Tensor,
    scale_BT1: Tensor | None = None,
    added_BTV: Tensor | None = None,
) -> Tensor:
    """Mean cross entropy in nats of the logits x W' over the targets that are not IGNORE_INDEX; nan where none is left.

    `added_BTV`, which no parameter changes, is added to the logits, multiplied by `scale_BT1` or a single number.

    The logits of a large vocabulary take more memory than all else of a step: with 33,000 words and 2,048 tokens 270 MB
    in float32, and as much again for each of softmax and gradients. There they are computed for some rows at a time,
    in the precision of autocast, and turned into gradients at once, of which backward has only to be told the scale.
    """
    if len(weight_VC) < LARGE_VOCABULARY:
        logits_BTV = F.linear(x_BTC, weight_VC)
        return next_token_loss(logits_BTV if added_BTV is None else logits_BTV + scale_BT1 * added_BTV, targets_BT)
    kind, dtype = x_BTC.device.type, compute_dtype(x_BTC)
    rows = rows_of_a_piece(kind, len(weight_VC))
    with torch.autocast(kind, enabled=False):
        x_NC, weight_VC = x_BTC.flatten(0, 1).to(dtype), weight_VC.to(dtype)
        scale_N1 = added_NV = None
        if added_BTV is not None:
            scale_N1, added_NV = scale_BT1.expand(*x_BTC.shape[:2], 1).flatten(0, 1), added_BTV.flatten(0, 1)
        if not torch.is_grad_enabled():
            return _loss_alone(x_NC, weight_VC, targets_BT.flatten(), rows, scale_N1, added_NV)
        return _HeadLoss.apply(x_NC, weight_VC, targets_BT.flatten(), rows, scale_N1, added_NV, 0.0)[0]


def head_losses(x_BTC: Tensor, weight_VC: Tensor, targets_BT: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The loss with smoothed labels (Szegedy et al. 2016), and `head_loss`, which has no gradient then.

    A share `smoothing` of each target is spread evenly over the vocabulary.
    """
    if smoothing == 0 or not torch.is_grad_enabled():
        loss = head_loss(x_BTC, weight_VC, targets_BT)
        return loss, loss.detach()
    if len(weight_VC) < LARGE_VOCABULARY:
        logits_BTV = F.linear(x_BTC, weight_VC)
        dtype = torch.promote_types(logits_BTV.dtype, torch.float32)
        logits_NV, targets_N = logits_BTV.flatten(0, 1).to(dtype), targets_BT.flatten()
        told = {"ignore_index": IGNORE_INDEX}
        smoothed = F.cross_entropy(logits_NV, targets_N, label_smoothing=smoothing, **told)
        return smoothed, F.cross_entropy(logits_NV.detach(), targets_N, **told)
    kind, dtype = x_BTC.device.type, compute_dtype(x_BTC)
    rows = rows_of_a_piece(kind, len(weight_VC))
    with torch.autocast(kind, enabled=False):
        x_NC, weight_VC = x_BTC.flatten(0, 1).to(dtype), weight_VC.to(dtype)
        smoothed, plain, *_ = _HeadLoss.apply(x_NC, weight_VC, targets_BT.flatten(), rows, None, None, smoothing)
    return smoothed, plain


def rows_of_a_piece(kind: str, vocab_size: int) -> int:
    """Return of how many tokens at a time something as wide as the vocabulary is made on such a device."""
    return max(PIECE.get(kind, PIECE["cpu"]) // vocab_size, 1)


def _loss_alone(
    x_NC: Tensor, weight_VC: Tensor, targets_N: Tensor, rows: int, scale_N1: Tensor | None, added_NV: Tensor | None
) -> Tensor:
    """The loss piece by piece, where nobody asks for gradients: a third of the products."""
    wide = torch.promote_types(x_NC.dtype, torch.float32)
    each_N = (x_NC, targets_N, *(() if added_NV is None else (scale_N1, added_NV)))
    total = x_NC.new_zeros((), dtype=wide)
    for x_RC, targets_R, *added in zip(*(tensor.split(rows) for tensor in each_N), strict=True):
        logits_RV = (x_RC @ weight_VC.T).to(wide)
        if added:
            logits_RV = torch.addcmul(logits_RV, *added)
        total = total + F.cross_entropy(logits_RV, targets_R, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (targets_N != IGNORE_INDEX).sum()


class _HeadLoss(torch.autograd.Function):
    """(x_NC, weight_VC, targets_N, rows, scale_N1, added_NV, smoothing) -> loss, that without smoothing, and for
    `backward` gradients of its sum and the count of targets."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x_NC: Tensor,
        weight_VC: Tensor,
        targets_N: Tensor,
        rows: int,
        scale_N1: Tensor | None,
        added_NV: Tensor | None,
        smoothing: float,
    ) -> tuple[Tensor, ...]:
        # Sums and the gradient of the weights collect in float32 at least.
        wide = torch.promote_types(x_NC.dtype, torch.float32)
        counted_N = targets_N != IGNORE_INDEX
        loss, dx_pieces, dscale_pieces, dweight_VC = x_NC.new_zeros((), dtype=wide), [], [], None
        spread, sure = loss, 1.0 - smoothing
        each_N = (x_NC, targets_N.clamp(min=0), counted_N, *(() if added_NV is None else (scale_N1, added_NV)))
        for x_RC, targets_R, counted_R, *added in zip(*(tensor.split(rows) for tensor in each_N), strict=True):
            logits_RV = x_RC @ weight_VC.T
            if added:
                logits_RV = torch.addcmul(logits_RV.to(wide), *added)
            p_RV = logits_RV.softmax(dim=-1)
            places_R1 = targets_R[:, None]
            # The largest probability is never rounded to nothing, so the logarithm of the sum is safe.
            top_R = logits_RV.amax(-1).to(wide) - p_RV.amax(-1).to(wide).log()
            loss = loss + ((top_R - logits_RV.gather(1, places_R1)[:, 0].to(wide)) * counted_R).sum()
            d_RV = p_RV.scatter_add_(1, places_R1, torch.full_like(places_R1, -sure, dtype=p_RV.dtype))
            if smoothing:
                spread = spread + ((top_R - logits_RV.mean(-1, dtype=wide)) * counted_R).sum()
                d_RV -= smoothing / len(weight_VC)
            if added:
                dscale_pieces.append((d_RV * added[1]).sum(-1) * counted_R)
                d_RV = d_RV.to(x_RC.dtype)
            dx_pieces.append((d_RV @ weight_VC) * counted_R[:, None])
            dw_VC = d_RV.T @ (x_RC * counted_R[:, None])
            dweight_VC = dw_VC.to(wide) if dweight_VC is None else dweight_VC.add_(dw_VC)
        dscale_N1 = torch.cat(dscale_pieces)[:, None] if dscale_pieces else loss.new_zeros(0)
        count = counted_N.sum()
        smoothed = sure * loss + smoothing * spread if smoothing else loss
        return smoothed / count, loss / count, torch.cat(dx_pieces), dweight_VC, dscale_N1, count

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[2:])
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        dx_NC, dweight_VC, dscale_N1, count = ctx.saved_tensors
        # At once with the scale of fp16's loss: divided alone, gradients would be too small for fp16.
        each = scale / count
        dscale_N1 = dscale_N1 * each if ctx.needs_input_grad[4] else None
        return (dx_NC * each).to(ctx.dtype), (dweight_VC * each).to(ctx.dtype), None, None, dscale_N1, None, None
