"""Held-out loss, exactly: the sum of all tokens' negative log likelihoods in float64 over their count.

Never a mean of batch means, never random windows. Shapes: B batch, T time, V vocabulary.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from molino.data.tokens import Split
from molino.models import IGNORE_INDEX


def nll_sum(model: torch.nn.Module, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return the summed negative log likelihood in nats (float64 scalar) and how many targets it covers."""
    logits_BTV = model(tokens_BT)
    nll_N = F.cross_entropy(
        logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return nll_N.double().sum(), int((targets_BT != IGNORE_INDEX).sum())


@torch.inference_mode()
def exact_loss(
    model: torch.nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], device: torch.device
) -> tuple[float, int]:
    """Return the mean loss in nats per token over all `batches` (see EvaluationWindows), and the count of tokens."""
    was_training = model.training
    model.eval()
    nll, count = torch.zeros((), dtype=torch.float64), 0
    for tokens_BT, targets_BT in batches:
        batch_nll, batch_count = nll_sum(model, tokens_BT.to(device), targets_BT.to(device))
        nll += batch_nll.cpu()
        count += batch_count
    model.train(was_training)
    return nll.item() / count, count


def loss_units(split: Split) -> dict[str, float]:
    """Return the factors from nats per token to bits per character and per byte of the split's text.

    They are the figures that compare across tokenizers. Where a tokenizer drops something (the word kinds fold case
    and white space), the text's own size still counts.
    """
    predicted = len(split.tokens) - 1  # all but the first; of documents, all but the mark before them
    return {
        "bits_per_character": predicted / math.log(2) / split.characters,
        "bits_per_byte": predicted / math.log(2) / split.bytes,
    }


def perplexity(loss: float) -> float:
    """exp(loss); inf where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf
