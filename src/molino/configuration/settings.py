"""From Hydra's configuration to the plain settings a verb works with, for new runs and for runs that exist."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from molino.base.errors import CheckpointError
from molino.configuration.build import build
from molino.runs.directory import TOKENIZER, read_config


def resolve(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as a plain dict, its interpolations resolved and its paths without `~`."""
    OmegaConf.set_readonly(config, False)
    for name, path in config.paths.items():
        if isinstance(path, str):
            config.paths[name] = str(Path(path).expanduser())
    settings = OmegaConf.to_container(config, resolve=True)
    for name in ("debug", "sweep"):  # what they say has been done when the configuration was composed
        settings.pop(name, None)
    if settings.get("data"):
        settings["data"].pop("path", None)  # short for data.corpus.path, which refers to it
    return settings


def begin_from(settings: dict[str, Any]) -> None:
    """Put the family and settings that `model.source` describes in its place, and remember it as `weights`.

    So a run's config.yaml says what its model is, whatever becomes of the source.

    Raises:
        CheckpointError, DataError: the source cannot be read.
    """
    if source := settings["model"].get("source"):
        settings["model"], settings["weights"] = build(settings["model"], "model"), source


def resume(run: Path, settings: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Return the settings `run` was started with, with today's paths and, if asked for, hardware.

    Args:
        settings: what was composed today.
        overrides: what was typed today; see `molino.configuration.overrides.check_resumed`.
    """
    stored = restore(run, settings["paths"])
    typed = [override.lstrip("+").partition("=")[0] for override in overrides]
    if "hardware" in typed:
        stored["hardware"] = settings["hardware"]
    # What else was settled for the run stays as it is.
    for name in (name.split(".")[1] for name in typed if name.startswith("hardware.")):
        stored["hardware"][name] = settings["hardware"][name]
    return stored


def restore(run: Path, paths: dict[str, Any]) -> dict[str, Any]:
    """Return the settings `run` was started with, with today's paths."""
    stored = relocate(read_config(run), paths)
    tokenizer = stored["data"].get("tokenizer")
    if isinstance(tokenizer, dict) and "path" in tokenizer and (run / TOKENIZER).is_file():
        # Where it once came from may be gone; the run has kept it.
        tokenizer["path"] = str(run / TOKENIZER)
    return stored


def relocate(stored: dict[str, Any], paths: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settings with the paths of this machine in place of those it was trained with.

    Raises:
        CheckpointError: they say nothing of a corpus.
    """
    data = stored.get("data")
    corpus = data.get("corpus") if isinstance(data, dict) else None
    if not isinstance(corpus, dict):
        raise CheckpointError("the run's config.yaml is damaged: it says nothing of data.corpus")
    stored["paths"] = paths
    for section in (data, corpus):
        section.update({name: paths[name] for name in ("cache", "mirror") if name in section and name in paths})
    return stored


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested settings as {'model.n_layer': 4, ...}; a target by its last name."""
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            leaves |= flatten(value, f"{prefix}{name}.")
        elif name == "_target_":
            leaves[prefix.rstrip(".")] = value.rsplit(".", 1)[-1]
        elif not name.startswith("_"):
            leaves[f"{prefix}{name}"] = value
    return leaves
