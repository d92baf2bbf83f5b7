"""Held-out loss, exactly: the sum of all tokens' negative log likelihoods in float64 over their count.

Never a mean of batch means, never random windows. Shapes: B batch, T time, V vocabulary.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from molino.data.tokens import Split
from molino.models import IGNORE_INDEX

# Logits held at a time: fewer would make products slower, more take gigabytes where a vocabulary is large.
LOGITS = {"cpu": 2**24, "cuda": 2**28}


def nll_sum(model: torch.nn.Module, tokens_BT: torch.Tensor, targets_BT: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return the summed negative log likelihood in nats (float64 scalar) and how many targets it covers.

    With a large vocabulary only some rows are read at a time.
    """
    at_once = LOGITS.get(tokens_BT.device.type, LOGITS["cpu"])
    rows = max(at_once // (model.vocab_size * tokens_BT.shape[1]), 1)
    nll = torch.zeros((), dtype=torch.float64, device=tokens_BT.device)
    for tokens_RT, targets_RT in zip(tokens_BT.split(rows), targets_BT.split(rows), strict=True):
        logits_NV = model(tokens_RT).flatten(0, 1).float()
        nll_N = F.cross_entropy(logits_NV, targets_RT.flatten(), ignore_index=IGNORE_INDEX, reduction="none")
        nll += nll_N.double().sum()
    return nll, int((targets_BT != IGNORE_INDEX).sum())


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
