"""A run loaded back: its model with trained weights, its tokenizer, its settings.

The only module of this package that imports torch.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from molino.config import build
from molino.data.tokenizers import Tokenizer
from molino.errors import CheckpointError
from molino.runs import directory


@dataclass(frozen=True)
class LoadedRun:
    """A run and its trained model, in eval mode.

    Attributes:
        path: the run directory.
        settings: what it was trained with.
        step: optimizer steps the weights have seen.
        start_id: the token a text starts from that nothing is given for.
    """

    path: Path
    settings: dict[str, Any]
    tokenizer: Tokenizer
    model: torch.nn.Module
    step: int
    start_id: int


def load_run(run: Path, checkpoint: str, device: torch.device) -> LoadedRun:
    """Load `run` from its `best` or `last` checkpoint.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or does not fit the run's settings.
    """
    path, settings = directory.checkpoint_path(run, checkpoint), directory.read_config(run)
    if "_target_" not in (settings.get("model") or {}):
        raise CheckpointError(f"{run / directory.CONFIG} is damaged: it says nothing of a model")
    if not (run / directory.TOKENIZER).is_file():
        raise CheckpointError(f"{run} is damaged: it has lost its {directory.TOKENIZER}")
    tokenizer = Tokenizer.load(run / directory.TOKENIZER)
    model = build(settings["model"], "model", vocab_size=tokenizer.size)
    content = load_checkpoint(path)
    if missing := {"state_dict", "global_step", "start_id"} - content.keys():
        raise CheckpointError(f"{path} is no checkpoint of molino: it lacks {', '.join(sorted(missing))}")
    weights = {k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise CheckpointError(f"{path} does not fit {run / directory.CONFIG}: {reason}") from error
    return LoadedRun(run, settings, tokenizer, model.to(device).eval(), content["global_step"], content["start_id"])


def load_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Return a checkpoint's content: plain values and tensors, never code.

    Raises:
        CheckpointError: the file is missing, truncated, has a flipped bit or holds pickled code.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load reads tensors without looking at the checksums that the file carries.
            damaged = archive.testzip()
        if damaged is None:
            return torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path} is damaged or no checkpoint of molino ({reason}): {_other(path)}") from error
    raise CheckpointError(f"{path} is damaged (checksum of {damaged}): {_other(path)}")


def _other(path: Path) -> str:
    other = "best" if path.name == Path(directory.LAST).name else "last"
    if not path.with_name(f"{other}.ckpt").is_file():
        return "use another one"
    return f"use checkpoint={other}; to resume from it, copy {other}.ckpt over it"
