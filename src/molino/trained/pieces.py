"""What a language model loses on each token of a split, and the pieces that a text is compared by."""

import numpy as np
import torch
from torch.nn import functional as F

from molino.base.console import progress
from molino.base.errors import ConfigError
from molino.data.tokens import TokenizedCorpus
from molino.machine.hardware import Hardware
from molino.models import IGNORE_INDEX
from molino.models.capabilities import capabilities_of
from molino.tasks.language_model import LanguageModel
from molino.trained.load import LoadedRun

# Of fewer documents no draw says much: then the text is cut into windows.
FEWEST_DOCUMENTS = 30


@torch.inference_mode()
def losses_of_tokens(loaded: LoadedRun, text: TokenizedCorpus, split: str, hardware: Hardware) -> np.ndarray:
    """Return the negative log likelihood of each predicted token of a split in order, float64 in nats.

    Raises:
        ConfigError: it is no language model.
    """
    model = loaded.model
    if not isinstance(loaded.task, LanguageModel):
        raise ConfigError(f"compare=windows needs language models, and {loaded.path.name} is none: leave it out")
    found = []
    with hardware.autocast():
        for batch in progress(
            loaded.task.evaluation(text, split, model.block_size, None), f"reading {loaded.path.name}"
        ):
            batch = {name: tensor.to(hardware.device) for name, tensor in batch.items()}
            before = {"before_BR": batch["before"]} if capabilities_of(model).counts else {}
            targets_N = batch["targets"].flatten()
            logits_NV = model(batch["tokens"], **before).flatten(0, 1).float()
            nll_N = F.cross_entropy(logits_NV, targets_N, ignore_index=IGNORE_INDEX, reduction="none")
            found.append(nll_N[targets_N != IGNORE_INDEX].double().cpu().numpy())
    return np.concatenate(found)


def pieces_of(text: TokenizedCorpus, split: str, window: int) -> tuple[np.ndarray, str]:
    """Return where the pieces of a split begin among its predicted tokens, and what they are: documents, where there
    are some, else windows of so many tokens."""
    part = text.splits[split]
    lengths = np.diff(part.marks)
    if text.corpus.documents and len(lengths) >= FEWEST_DOCUMENTS:
        lengths = lengths[lengths > 0]
        return np.cumsum(lengths) - lengths, f"{len(lengths):,} documents"
    begins = np.arange(0, len(part.tokens) - 1, window)
    return begins, f"{len(begins):,} windows of {window} tokens"
