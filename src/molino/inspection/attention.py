"""What each head of each layer attends to while a model reads a text.

The models compute attention in one fused operation, which never shows its weights. Here its inputs are caught on the
way, and the weights are computed from them again.

Shape suffixes: B batch, H heads of queries, G heads of keys, T queries, S keys (tokens of a source), D head size, V
vocabulary.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from molino.models.capabilities import capabilities_of, device_of


@dataclass(frozen=True)
class Attention:
    """The inputs of one call of `scaled_dot_product_attention` for a single text.

    Attributes:
        mask: which keys each query sees, or what is added to its scores, as it broadcasts to (H, T, S).
    """

    q_HTD: Tensor
    k_GSD: Tensor
    mask: Tensor | None
    is_causal: bool
    scale: float | None

    def weights(self) -> Tensor:
        """Return the attention weights (H, T, S), float32 on the CPU: rows sum to 1, what is not seen is exactly 0."""
        q_HTD, k_GSD = self.q_HTD.float(), self.k_GSD.float()
        # Head h of the queries reads head h // (H / G) of the keys.
        k_HSD = k_GSD.repeat_interleave(len(q_HTD) // len(k_GSD), dim=0)
        scale = 1 / math.sqrt(q_HTD.shape[-1]) if self.scale is None else self.scale
        scores_HTS = q_HTD @ k_HSD.transpose(1, 2) * scale
        mask = self.mask
        if self.is_causal:
            mask = torch.ones(scores_HTS.shape[1:], dtype=torch.bool, device=scores_HTS.device).tril()
        if mask is not None:
            scores_HTS = scores_HTS.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores_HTS + mask
        return scores_HTS.softmax(dim=-1).cpu()


class AttentionCatcher(TorchFunctionMode):
    """While entered, `caught` takes up the calls of `scaled_dot_product_attention`, in order, for batches of one."""

    def __init__(self) -> None:
        super().__init__()
        self.caught: list[Attention] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self._catch(*args, **kwargs or {})
        return func(*args, **kwargs or {})

    def _catch(
        self,
        q_BHTD: Tensor,
        k_BGSD: Tensor,
        v_BGSD: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        (q_HTD,), (k_GSD,) = q_BHTD, k_BGSD
        if attn_mask is not None and attn_mask.dim() == 4:
            (attn_mask,) = attn_mask
        self.caught.append(Attention(q_HTD, k_GSD, attn_mask, is_causal, scale))


@torch.inference_mode()
def read(model: nn.Module, ids: list[int]) -> tuple[Tensor, list[Attention]]:
    """Let a model in eval mode read a text: logits (T, V), float32 on the CPU, and the attention of each layer, if it
    declares that it has some to look at."""
    device = device_of(model)
    with AttentionCatcher() if capabilities_of(model).attention else nullcontext() as catcher:
        (logits_TV,) = model(torch.tensor([ids], device=device))
    return logits_TV.float().cpu(), catcher.caught if catcher else []


@torch.inference_mode()
def read_about(
    model: nn.Module, ids: list[int], source: list[int]
) -> tuple[Tensor, list[Attention], list[Attention], list[Attention]]:
    """Let a model in eval mode read a target about a source: logits (T, V), float32 on the CPU, and the attention of
    each layer of the source to itself, of the target to itself, and of the target to the source."""
    target_1T, source_1S = (torch.tensor([each], device=device_of(model)) for each in (ids, source))
    with AttentionCatcher() as reading:
        memory = model.remember(model.encode(source_1S))
    with AttentionCatcher() as writing:
        (logits_TV,) = model.head(model.decode(target_1T, memory))
    logits_TV = logits_TV.float().cpu()
    if not capabilities_of(model).attention:
        return logits_TV, [], [], []
    # Each layer looks at what is written, then at the source.
    return logits_TV, reading.caught, writing.caught[0::2], writing.caught[1::2]
