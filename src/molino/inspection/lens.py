"""What each layer of an encoder would put in the place of a hidden token: its head, asked before the last layer.

It is known as the logit lens (nostalgebraist 2020). Shape suffixes: L layers, M hidden tokens, V vocabulary.
"""

import torch
from torch import Tensor, nn

from molino.data.tokenizers import Tokenizer
from molino.inspection.predictions import label, percent
from molino.models.capabilities import capabilities_of, device_of


@torch.inference_mode()
def read_depths(model: nn.Module, ids: list[int], places: list[int]) -> Tensor | None:
    """Return the logits of what stands at some places, (L, M, V), float32 on the CPU, read behind each layer: those of
    the last are the model's own. None of a model that declares no depth."""
    if (depth := capabilities_of(model).depth) is None:
        return None
    tokens_1T = torch.tensor([ids], device=device_of(model))
    states = (model.hidden(tokens_1T, depth=number)[0, places] for number in range(1, depth + 1))
    return torch.stack([model.head(hidden_MC).float().cpu() for hidden_MC in states])


def table_of_layers(logits_LV: Tensor, top: int, tokenizer: Tokenizer) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table that shows what each layer would put in one place.

    Args:
        top: how many of the likeliest tokens.
    """
    best = logits_LV.softmax(-1).topk(top)
    rows = []
    for number, (values, ids) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        told = zip(ids, values, strict=True)
        rows.append([str(number), *(f"{label(tokenizer, token)} {percent(value):>6}" for token, value in told)])
    return ["layer", "likeliest", *(f"{number}." for number in range(2, top + 1))], rows
