"""What makes two runs the same run, or the same experiment but for the seed, and what differs: decided here alone.

Settings are compared as they are recorded, with what makes no difference left out and names that have moved read as
today's. Where two name different arguments of one class, its constructor's defaults stand for what one of them leaves
out: an argument that was added with a default that changes nothing makes no other run of those of before. Classes are
imported only then; runs of one version name the same arguments, and to compare them takes no torch.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from molino.configuration.build import current_name, defaults_of, join
from molino.configuration.settings import flatten

# What makes no other run: what it is called, where its files lie, what it writes beside, how often one looks. But not
# trainer.val_every, by which best.ckpt, early stopping and pruning decide.
INDIFFERENT = (
    "name", "sweep", "resume", "debug", "paths", "logger", "hydra", "hardware.threads", "trainer.log_every",
    "trainer.checkpoint_every", "trainer.sample_tokens",
)  # fmt: skip
PLACES = ("cache", "mirror")  # in the section of data
# Arguments that the harness gives: no settings, whatever their defaults.
GIVEN = {"model": ("vocab_size",), "data.tokenizer": ("texts",), "optimizer": ("params",), "scheduler": ("step",)}
AUTO = "auto"  # asks for what the machine does best, which is recorded when it is known
ABSENT = "absent"  # which is not null


def is_indifferent(key: str) -> bool:
    """Tell whether a setting, by its whole name, makes no other run."""
    within = any(key == name or key.startswith(f"{name}.") for name in INDIFFERENT)
    return within or (key.startswith("data.") and key.endswith(tuple(f".{name}" for name in PLACES)))


def essential(settings: dict[str, Any], place: str = "") -> dict[str, Any]:
    """Return settings without what makes no difference, nor what is null or empty at the top: others do not have it."""
    kept = {}
    for name, value in settings.items():
        key = join(place, str(name))
        if is_indifferent(key) or (not place and value in (None, {})):
            continue
        if name == "_target_" and isinstance(value, str):
            value = current_name(value)
        kept[name] = essential(value, key) if isinstance(value, dict) else value
    return kept


def digest(settings: dict[str, Any]) -> str:
    """Return a text that is equal of settings that are equal word for word, but for what makes no difference."""
    return hashlib.sha256(canonical(essential(settings)).encode()).hexdigest()[:16]


def complete(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the defaults of every constructor, as they are recorded with a run."""
    return _fill(settings, lambda place, target: True)


def differences(recorded: dict[str, Any], asked: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what makes another run of that which is asked for: key -> (recorded, asked)."""
    old, new = (flatten(each, whole=True) for each in _aligned([essential(recorded), essential(asked)]))
    both = {key: (old.get(key, ABSENT), new.get(key, ABSENT)) for key in {**old, **new}}
    settled = {key for key in new if key.startswith("hardware.") and new[key] == AUTO}
    return {key: pair for key, pair in both.items() if canonical(pair[0]) != canonical(pair[1]) and key not in settled}


def experiments(every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return of each of these settings what makes it an experiment: equal of runs that differ in their seed alone."""
    seedless = [{name: value for name, value in essential(settings).items() if name != "seed"} for settings in every]
    return _aligned(seedless)


def compared(settings: dict[str, Any], choices: dict[str, Any], typed: list[str]) -> dict[str, Any]:
    """Return what TensorBoard's HParams tab compares: what changes results.

    Args:
        choices: of groups; model=gpt says more than the name of its class.
        typed: overrides; whatever else a sweep varies is among them.
    """
    data, trainer = settings["data"], settings["trainer"]
    shown = {
        "data": data["corpus"].get("name") or data["corpus"]["_target_"].rsplit(".", 1)[-1],
        **flatten({name: data[name] for name in ("tokenizer", "batches", "batch_size", "block_size")}),
        **flatten({name: settings[name] for name in ("model", "optimizer", "scheduler")}),
        **{name: choices[name] for name in ("model", "optimizer", "scheduler", "hardware") if choices.get(name)},
        **{name: trainer[name] for name in ("max_steps", "accumulate", "clip")},
        "seed": settings["seed"],
    }
    others = dict(override.lstrip("+").split("=", 1) for override in typed if "=" in override)
    return shown | {k: v for k, v in others.items() if k not in shown and not is_indifferent(k) and k[:8] != "trainer."}


def canonical(value: Any) -> str:
    """Return a text that is equal of equal settings; 1 and 1.0 are one number."""
    text = json.dumps(value, default=str)
    return json.dumps(json.loads(text, parse_float=_whole), sort_keys=True)


def _aligned(every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return settings such that all name the same arguments of the same target at the same place."""
    named: dict[tuple[str, str], set[frozenset[str]]] = defaultdict(set)
    for settings in every:
        for place, node in _calls(settings):
            named[place, node["_target_"]].add(frozenset(node))
    uneven = {call for call, arguments in named.items() if len(arguments) > 1}
    return [_fill(settings, lambda *call: call in uneven) for settings in every] if uneven else every


def _calls(node: dict[str, Any], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node.get("_target_"), str):
        yield place, node
    for name, child in node.items():
        if isinstance(child, dict):
            yield from _calls(child, join(place, str(name)))


def _fill(node: dict[str, Any], wanted: Callable[[str, str], bool], place: str = "") -> dict[str, Any]:
    """Return a node with the defaults of its target, and of those below it, where `wanted` says so."""
    filled = {
        name: _fill(child, wanted, join(place, str(name))) if isinstance(child, dict) else child
        for name, child in node.items()
    }
    target = node.get("_target_")
    if isinstance(target, str) and wanted(place, target):
        given = GIVEN.get(place, ())
        filled |= {k: v for k, v in defaults_of(target).items() if k not in node and k not in given}
    return filled


def _whole(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() else number
