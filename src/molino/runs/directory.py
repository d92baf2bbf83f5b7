"""Where runs live: make one, find one, tell whether it is done.

A run is a directory that holds `config.yaml`. It is done if and only if it also holds `summary.json`, which is
written last. This module imports no torch, so that listing a thousand runs costs nothing.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from molino.base.errors import CheckpointError, ConfigError
from molino.base.extent import check_extent
from molino.base.files import explain_os_errors, make_directory, read_text, write_text
from molino.base.messages import typed

CONFIG = "config.yaml"
SUMMARY = "summary.json"
TOKENIZER = "tokenizer.json"
COUNTS = "counts.safetensors"
LOCK = ".lock"
LAST = "checkpoints/last.ckpt"
BEST = "checkpoints/best.ckpt"
TIME = re.compile(r"_\d{8}-\d{6}(-\d+)?$")  # behind the name of a run of its own
LONGEST_NAME = 150  # of a directory, in bytes; file systems take 255


def create(parent: Path, name: str) -> Path:
    """Make and return a new directory `parent/name`, or `name-2`, `name-3`, ... where that exists.

    mkdir is atomic, so that two runs started in the same second get two directories.

    Raises:
        ConfigError: `name` is more than a name.
        ResourceError: the directory cannot be made.
    """
    parent = Path(parent)
    if name in ("", "..") or Path(name).name != name:
        raise ConfigError(f"{name} cannot name a run's directory: choose a name without /")
    make_directory(parent, "; set paths.outputs")
    with explain_os_errors(parent, "; set paths.outputs"):
        number = 1
        while True:
            run = parent / (name if number == 1 else f"{name}-{number}")
            try:
                run.mkdir()
                return run
            except FileExistsError:
                number += 1


def readable_name(overrides: list[str]) -> str:
    """Return a directory name that tells what a run of a sweep was asked for."""
    text = ",".join(overrides).replace("/", "-").replace(" ", "") or "defaults"
    encoded = text.encode()
    if len(encoded) <= LONGEST_NAME:
        return text
    return f"{encoded[: LONGEST_NAME - 13].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:12]}"


def is_done(run: Path) -> bool:
    """Return whether a run ended well."""
    return (Path(run) / SUMMARY).is_file()


def list_runs(outputs: Path) -> list[Path]:
    """Return all runs below `outputs`, oldest first."""
    found = [config.parent for config in Path(outputs).rglob(CONFIG) if config.is_file()]
    return sorted(found, key=lambda run: (_started(run), run.name))


def find(run: str | None, outputs: Path, trained: bool = False) -> Path:
    """Return the run that `run` names: a path, a run's name below `outputs`, or `latest`.

    A name may stand without the time that directories bear behind it: that is the latest run of this name.

    Args:
        trained: the latest one, of all or of this name, that has saved a checkpoint; some end before.

    Raises:
        ConfigError: nothing was named.
        CheckpointError: there is no such run, or several bear the name.
    """
    if not run:
        raise ConfigError("no run was named: add run=latest, run=<name> or run=<path>")
    path = Path(run).expanduser()
    if (path / CONFIG).is_file():
        return path
    runs = list_runs(outputs)
    if run == "latest":
        usable = [candidate for candidate in runs if not trained or (candidate / LAST).is_file()]
        if not usable:
            raise CheckpointError(f"there is no run below {outputs}: train one with {typed('train')}")
        return usable[-1]
    named = [candidate for candidate in runs if candidate.name == run]
    if not named:
        short = [candidate for candidate in runs if is_short_for(run, candidate)]
        usable = [candidate for candidate in short if trained and (candidate / LAST).is_file()]
        named = (usable or short)[-1:]
    if len(named) == 1:
        return named[0]
    if named:
        raise CheckpointError(f"{len(named)} runs are called {run}: name one by its path, such as {named[-1]}")
    latest = f"; the latest is {runs[-1].name}" if runs else ""
    raise CheckpointError(f"there is no run {run}, neither as a path nor as a name below {outputs}{latest}")


def is_short_for(name: str, run: Path) -> bool:
    """Tell whether a name is that of a run without the time behind it."""
    return run.name != name == TIME.sub("", run.name)


def is_named(name: str, outputs: Path) -> bool:
    """Tell whether a run below `outputs` bears this name, with or without the time behind it."""
    return any(name in (run.name, TIME.sub("", run.name)) for run in list_runs(outputs))


def read_config(run: Path) -> dict[str, Any]:
    """Return the resolved configuration a run was made with.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return _read_mapping(Path(run) / CONFIG, yaml.safe_load)


def write_summary(run: Path, summary: dict[str, Any]) -> None:
    """Write `summary.json`, flat, with TensorBoard's tags as keys. From then on the run counts as done.

    A figure beyond the largest number is null: JSON has no infinity.
    """
    values = {tag: None if value == math.inf else value for tag, value in summary.items()}
    write_text(Path(run) / SUMMARY, json.dumps(values, indent=2, allow_nan=False) + "\n")


def read_summary(run: Path) -> dict[str, Any]:
    """Return a done run's summary.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return _read_mapping(Path(run) / SUMMARY, json.loads)


def checkpoint_path(run: Path, which: str) -> Path:
    """Return the path of a run's checkpoint: `best` (by its monitor; `last` where there is none yet) or `last`.

    Raises:
        ConfigError: `which` is neither.
        CheckpointError: the run has saved none.
    """
    choices = {"best": (BEST, LAST), "last": (LAST,)}
    if which not in choices:
        raise ConfigError(f"checkpoint={which} is unknown: choose best or last")
    for name in choices[which]:
        if (Path(run) / name).is_file():
            return Path(run) / name
    raise CheckpointError(f"{run} has no checkpoint yet: it ended before its first one was saved")


def _read_mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        content = parse(read_text(path))
        check_extent(content)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds no settings" if content else f"{path} is empty")
    return content


def _started(run: Path) -> int:
    return (run / CONFIG).stat().st_mtime_ns
