"""From Hydra's configuration to the plain settings a verb works with, for new runs and for runs that exist."""

import inspect
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from molino.base.errors import CheckpointError, ConfigError
from molino.configuration.build import build, check_names, join
from molino.configuration.door import find_callable
from molino.runs.directory import CONFIG, TOKENIZER, read_config


class DescribesModel(Protocol):
    """A function that reads a family and its settings, a node of the configuration, from elsewhere."""

    def __call__(self, source: str) -> dict[str, Any]: ...


# What runs of before there were tasks were trained for.
EARLIER_TASK = "molino.tasks.language_model.LanguageModel"
# In the section of data these are short for those of its corpus, which refer to them.
SHORT = (
    "path", "target_path", "val_path", "val_target_path", "test_path", "test_target_path", "val_fraction",
    "test_fraction", "header", "quotes", "classes", "columns", "language", "column", "limit", "newlines",
)  # fmt: skip
# What the configuration of a training consists of.
SECTIONS = {
    "name": str, "seed": int, "resume": str | None, "continue": str | None, "weights": str | None,
    "zero_shot": list | None, "case": dict | None, "task": dict,
    "data": dict, "model": dict,
    "optimizer": dict, "scheduler": dict, "trainer": dict, "hardware": dict, "logger": dict, "callbacks": dict,
    "paths": dict,
}  # fmt: skip


def resolve(config: DictConfig) -> dict[str, Any]:
    """Return a composed configuration as a plain dict, its interpolations resolved and its paths without `~`."""
    OmegaConf.set_readonly(config, False)
    for name, path in config.paths.items():
        if path == "":
            raise ConfigError(f"paths.{name} is empty: name a folder")
        if isinstance(path, str):
            config.paths[name] = str(_without_tilde(path, name))
    settings = OmegaConf.to_container(config, resolve=True)
    for name in ("debug", "sweep"):  # what they say has been done when the configuration was composed
        settings.pop(name, None)
    if settings.get("data"):
        for name in SHORT:
            settings["data"].pop(name, None)
    return settings


def _without_tilde(path: str, name: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # as in containers, whose user may have no entry
        variable = {"cache": "MOLINO_CACHE or ", "mirror": "MOLINO_MIRROR or "}.get(name, "")
        raise ConfigError(f"paths.{name}={path} needs a home, and there is none: set {variable}paths.{name}") from error


def check_sections(settings: dict[str, Any]) -> None:
    """Refuse a configuration with a section too many, too few or of the wrong kind, and a seed out of range."""
    check_names(settings, SECTIONS)
    check_seed(settings.get("seed"))
    for name, kind in SECTIONS.items():
        if settings.get(name) is None and kind is dict:
            raise ConfigError(f"{name} names nothing: --help lists what {name}= can be")
        if not isinstance(settings.get(name), kind):
            raise ConfigError(f"{name}={settings.get(name)} must be {getattr(kind, '__name__', kind)}")
    if not settings["name"]:
        raise ConfigError("name is empty: a run's directory begins with it")


def check_seed(seed: Any) -> None:
    """Refuse what is no seed.

    Raises:
        ConfigError: as above.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed} must be a whole number from 0 to 2**32 - 1")


def begin_from(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the family that `model.source` describes in its place, and that source as `weights`.

    So a run's config.yaml says what its model is, whatever becomes of the source.

    Raises:
        CheckpointError, DataError: the source cannot be read.
    """
    node = settings["model"]
    if not (source := node.get("source")) or inspect.isclass(find_callable(node.get("_target_"), "model._target_")):
        return settings
    if not isinstance(source, str):
        raise ConfigError(f"model.source={source} must be str: a folder or a hub id")
    describe = build({name: value for name, value in node.items() if name != "source"}, "model", DescribesModel)
    return settings | {"model": describe(source), "weights": source}


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
    """Return the settings `run` was started with, with today's paths.

    Raises:
        CheckpointError: they are missing or damaged.
    """
    stored = relocate(read_config(run), paths)
    tokenizer = stored["data"].get("tokenizer")
    if isinstance(tokenizer, dict) and "path" in tokenizer and (run / TOKENIZER).is_file():
        # Where it once came from may be gone; the run has kept it.
        tokenizer["path"] = str(run / TOKENIZER)
    stored = with_task(stored)
    # Runs of before there were these settings do not have them.
    stored = {"weights": None, "continue": None, "zero_shot": None, "case": None} | stored
    try:
        check_sections(stored)
    except ConfigError as error:
        raise CheckpointError(f"{run / CONFIG} is damaged: {error}") from error
    return stored


def with_task(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings that say what is trained for. Those of before there were tasks do not: all were of one."""
    return settings if "task" in settings else {**settings, "task": {"_target_": EARLIER_TASK}}


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


def flatten(settings: dict[str, Any], prefix: str = "", whole: bool = False) -> dict[str, Any]:
    """Return the leaves of nested settings as {'model.n_layer': 4, ...}; a target by its last name, or by its `whole`
    name."""
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            leaves |= flatten(value, join(prefix, str(name)), whole)
        elif name == "_target_":
            leaves[prefix] = value if whole else str(value).rsplit(".", 1)[-1]
        elif not str(name).startswith("_"):
            leaves[join(prefix, str(name))] = value
    return leaves
