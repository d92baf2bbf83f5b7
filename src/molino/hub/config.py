"""The config.json of a folder."""

import json
from pathlib import Path
from typing import Any

from molino.base.errors import CheckpointError

CONFIG = "config.json"


def read_config(folder: Path) -> dict[str, Any]:
    """Return what a folder's config.json says; its `model_type` is there.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text("utf-8"))
        config["model_type"]
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} holds no config.json: it is no model in Hugging Face's format") from error
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or no model's: {type(error).__name__} {error}") from error
    return config


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a small file of a folder."""
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
