"""What a run, or a Hugging Face folder, is once it is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from molino.data.tokenizers import Tokenizer
from molino.tasks.task import Task


@dataclass(frozen=True)
class LoadedRun:
    """A trained model, in eval mode, and what belongs to it.

    Attributes:
        path: the run directory, or the Hugging Face folder.
        settings: what it was trained with; of a folder nothing is known.
        task: what it was trained to do; of a folder, what its model is for.
        model: the network of its task.
        step: optimizer steps the weights have seen; None of a folder.
        start_id: the token a text starts from that nothing is given for.
        prefix: tokens that stand before every text (Llama's <s>).
        ends: tokens that end a text, beside the tokenizer's own, as a folder names them.
        line_end: the only one that the model has read; None where there are several, or it is not known.
    """

    path: Path
    settings: dict[str, Any]
    task: Task
    tokenizer: Tokenizer
    model: torch.nn.Module
    step: int | None
    start_id: int
    prefix: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    line_end: str | None = None
