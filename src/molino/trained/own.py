"""A folder that molino alone reads, loaded like the run that was exported to it."""

from pathlib import Path
from typing import Any

import torch

from molino.base.errors import CheckpointError
from molino.data.counts import digest_of_counts
from molino.data.line_ends import LINE_ENDS
from molino.data.tokenizers import Tokenizer
from molino.hub.own import COUNTS, read_own, read_own_weights
from molino.models.capabilities import capabilities_of
from molino.trained.building import build_model, build_network, build_task, check_vocabulary, give_counts
from molino.trained.loaded import LoadedRun


def load_own(
    folder: Path, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[LoadedRun, torch.nn.Module]:
    """Return such a folder, and the model that the network of its task stands on.

    Raises:
        ConfigError: its config.json names what is not let in, or what does not fit.
        CheckpointError, DataError: its files are missing, damaged or do not belong together.
    """
    said = read_own(folder)
    settings = {"model": said["model"], "task": said["task"], "data": {"block_size": said["block_size"]}}
    tokenizer = Tokenizer.load(folder)
    source = None if tokenizer.is_joint else tokenizer.source.size
    task, model = build_task(settings), build_model(settings, tokenizer.size, source)
    network = build_network(task, model).to(dtype)
    check_vocabulary(tokenizer.size, network.vocab_size)
    if not 0 <= said["start_id"] < network.vocab_size or said["line_end"] not in (None, *LINE_ENDS):
        raise CheckpointError(f"{folder / 'config.json'} is damaged: its start_id or its line_end is none")
    read_own_weights(network, folder)
    if capabilities_of(network).counts or said["counts"] is not None:
        give_counts(task, network, _checked_counts(folder, said))
    network = network.to(device).eval()
    return LoadedRun(folder, {}, task, tokenizer, network, None, said["start_id"], line_end=said["line_end"]), model


def _checked_counts(folder: Path, said: dict[str, Any]) -> Path:
    """Return the file of counts of a folder.

    Raises:
        CheckpointError: it is missing, or of another model.
    """
    path = folder / COUNTS
    if not path.is_file() or digest_of_counts(path) != said["counts"]:
        raise CheckpointError(f"{path} is missing or not that of this model: fetch it again")
    return path
