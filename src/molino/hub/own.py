"""Folders of the same shape for what no architecture of `transformers` computes: molino alone reads them.

Their config.json is of the `model_type` MODEL_TYPE and names the parts that the network is built of, as a run's
settings do: whoever builds it lets in what may be named. Beside the weights there may be counts.
"""

import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from molino.base.errors import CheckpointError
from molino.base.extent import check_extent
from molino.hub.config import CONFIG, read_config, write_json

MODEL_TYPE = "molino"
WEIGHTS, COUNTS = "model.safetensors", "counts.safetensors"
# What config.json says beside ids of special tokens: parts, how much is read, how texts begin and lines end, counts.
SAYS = {
    "model": dict, "task": dict, "block_size": int, "start_id": int, "line_end": str | None, "counts": str | None,
}  # fmt: skip


def is_own(folder: Path) -> bool:
    """Tell whether a folder is one that molino alone reads."""
    return (folder / CONFIG).is_file() and read_config(folder)["model_type"] == MODEL_TYPE


def write_own(folder: Path, network: nn.Module, said: dict[str, Any], extra: dict[str, Any], counts: Path) -> None:
    """Write config.json, the weights and, where it says that there are some, the counts into an existing folder.

    Args:
        said: by the names of SAYS.
        extra: further entries of config.json, such as the ids of special tokens.
        counts: the file of counts.
    """
    # Of a parameter with two names one is written.
    save_model(network, str(folder / WEIGHTS), metadata={"format": "pt"})
    if said["counts"] is not None:
        shutil.copyfile(counts, folder / COUNTS)
    write_json(folder / CONFIG, {"model_type": MODEL_TYPE, **said, **extra})


def read_own(folder: Path) -> dict[str, Any]:
    """Return what config.json says, by the names of SAYS.

    Raises:
        CheckpointError: it is damaged.
    """
    config = read_config(folder)
    try:
        check_extent(config)
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged: {error}") from error
    for name, kind in SAYS.items():
        if not isinstance(config.get(name), kind):
            raise CheckpointError(f"{folder / CONFIG} is damaged: its {name} is {config.get(name)!r}")
    return {name: config[name] for name in SAYS}


def read_own_weights(network: nn.Module, folder: Path) -> None:
    """Copy the weights of a folder into the network that its config.json describes.

    Raises:
        CheckpointError: they are missing, damaged, or those of another network.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {WEIGHTS}")
    try:
        load_model(network, path)
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[-1].split())
        raise CheckpointError(f"{path} does not fit {folder / CONFIG}: {reason}") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}): fetch it again") from error
