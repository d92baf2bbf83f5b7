"""What the last word of a command line may become: verbs, groups, choices, settings, runs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from molino.base.messages import explain
from molino.command.help import groups_of
from molino.command.verbs import VERBS
from molino.configuration.choices import CONF
from molino.configuration.internals import composed
from molino.configuration.overrides import MULTIRUN, quote, take_config_dir
from molino.runs.directory import list_runs

# Settings that name a run.
RUNS = ("run", "resume", "continue", "weights")
FLAGS = ("--help", "--config-dir", *MULTIRUN)


def candidates(line: str) -> list[str]:
    """Return what the last word of `line` may become, in whole words.

    Args:
        line: a command line up to the cursor, such as `molino train model=g`.
    """
    words = line.split()[1:]
    word = "" if not words or line[-1].isspace() else words.pop()
    if not words:
        return [each for each in (*VERBS, "completion", "--version", "--help") if each.startswith(word)]
    verb, *typed = words
    if verb not in VERBS:
        return []
    if word.startswith("-"):
        return [flag for flag in FLAGS if flag.startswith(word)]
    sign = word[: len(word) - len(word.lstrip("+~"))]
    return [sign + each for each in _settings(verb, typed, word[len(sign) :])]


def _settings(verb: str, typed: list[str], word: str) -> list[str]:
    key, assigned, value = word.partition("=")
    own, overrides = take_config_dir([each for each in typed if each not in MULTIRUN])
    groups, folders = groups_of(verb, CONF), [CONF, *([Path(own)] if own else [])]
    if assigned and key in groups:
        names = {file.stem for folder in folders for file in (folder / key).glob("*.yaml")}
        return [f"{key}={name}" for name in sorted(names) if name.startswith(value)]
    config = _compose(verb, overrides, own)
    if assigned and key in RUNS:
        names = ["latest", *(run.name for run in _runs(config))]
        return [f"{key}={name}" for name in dict.fromkeys(names) if name.startswith(value)]
    known = dict(_leaves(config))
    if assigned:
        values = ("true", "false") if isinstance(known.get(key), bool) else ()
        return [f"{key}={each}" for each in values if each.startswith(value)]
    found = {f"{group}=" for group in groups} | {f"{name}=" for name in known}
    # A level at a time: model. before the twelve settings of a model.
    depth = word.count(".") + 1
    shown = {name if name.count(".") < depth else ".".join(name.split(".")[:depth]) + "." for name in found}
    return sorted(each for each in shown if each.startswith(word))


def _compose(verb: str, overrides: list[str], own: str | None) -> dict[str, Any]:
    """Return the settings of a line, or of the verb alone where the line does not compose."""
    for tried in ([quote(each) for each in overrides], []):
        try:
            with composed(CONF, verb, tried, own) as config:
                return OmegaConf.to_container(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]))
        except Exception as error:
            if explain(error) is None:
                raise
    return {}


def _leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        elif not str(name).startswith("_"):
            yield f"{prefix}{name}", value


def _runs(config: dict[str, Any]) -> list[Path]:
    outputs = config.get("paths", {}).get("outputs")
    return list_runs(Path(outputs).expanduser())[::-1] if isinstance(outputs, str) else []
