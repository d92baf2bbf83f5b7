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
from pathlib import Path
from typing import Any

from molino.base.errors import CheckpointError
from molino.configuration.build import defaults_of, join, with_current_names
from molino.configuration.settings import flatten, with_task
from molino.runs.directory import CONFIG, read_config

# What makes no other run: what it is called, where its files lie, what it writes beside, how often one looks. But not
# trainer.val_every, by which best.ckpt, early stopping and pruning decide.
INDIFFERENT = (
    "name", "sweep", "resume", "debug", "paths", "logger", "hydra", "hardware.threads", "trainer.log_every",
    "zero_shot", "case", "trainer.checkpoint_every", "trainer.sample_tokens",
)  # fmt: skip
PLACES = ("cache", "mirror")  # in the section of data
# An argument that the harness gives: no setting, whatever its default.
GIVEN = {"model": ("vocab_size",), "data": ("val_windows",)}
# Asked for as `auto` these are settled by the machine or the text, and recorded as they were settled.
SETTLED = (
    "hardware.precision", "hardware.attention", "hardware.compile", "task.classes", "task.choices", "task.scale",
)  # fmt: skip
# What these take changes with their versions, which are recorded beside the settings.
OF_OTHERS = ("torch.", "lightning.")
ABSENT = "absent"  # which is not null
# Where runs lie, below paths.outputs, whose settings others name as their weights: <name>-<digest>/seed=<seed>.
NAMED = "weights"
# Lengths of a run that are said in place of trainer.max_steps.
LENGTHS = ("epochs", "flops")


def is_indifferent(key: str) -> bool:
    """Tell whether a setting, by its whole name, makes no other run."""
    within = any(key == name or key.startswith(f"{name}.") for name in INDIFFERENT)
    return within or (key.startswith("data.") and key.endswith(tuple(f".{name}" for name in PLACES)))


def essential(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without what makes no difference, nor what is null or empty where leaving it out says as much: at
    the top, and a callback."""
    kept = _without_indifferent(with_current_names(with_task(settings)))
    plan = kept.get("trainer")
    if isinstance(plan, dict) and not (plan.get("epochs") is None and plan.get("flops") is None):
        plan.pop("max_steps", None)  # it follows
    return {name: value for name, value in kept.items() if value not in (None, {})}


def digest(settings: dict[str, Any]) -> str:
    """Return a text that is equal of settings that are equal word for word, but for what makes no difference."""
    return hashlib.sha256(canonical(essential(settings)).encode()).hexdigest()[:16]


def complete(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the defaults of every constructor of molino's and of people's own, as they are recorded with
    a run."""
    return _fill(settings, lambda place, target: not target.startswith(OF_OTHERS))


def differences(recorded: dict[str, Any], asked: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what makes another run of that which is asked for: key -> (recorded, asked)."""
    old, new = (flatten(each, whole=True) for each in _aligned([essential(recorded), essential(asked)]))
    both = {key: (old.get(key, ABSENT), new.get(key, ABSENT)) for key in {**old, **new}}
    settled = {key for key in SETTLED if new.get(key) == "auto"}
    return {key: pair for key, pair in both.items() if canonical(pair[0]) != canonical(pair[1]) and key not in settled}


def refuse_other(run: Path, asked: dict[str, Any]) -> None:
    """Refuse to go on with, or to skip, a run that has begun with other settings than are asked for.

    Raises:
        CheckpointError: it has.
    """
    if changed := changes(run, asked):
        shown = "; ".join(f"{key} {old} -> {new}" for key, (old, new) in list(changed.items())[:3])
        raise CheckpointError(
            f"{run} was trained with other settings ({shown}): give this sweep a name of its own with sweep=<name>"
        )


def changes(run: Path, asked: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return how a run differs from what is asked for: key -> (its own, asked for).

    Nothing of a run that never began, nor of one whose record cannot be read: that shows when it is to go on.
    """
    try:
        recorded = read_config(run) if (run / CONFIG).is_file() else None
    except CheckpointError:
        return {}
    return {} if recorded is None else differences(recorded, _with_source(asked, recorded))


def _with_source(asked: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """Return settings whose model is to begin from a source as a run records them; the source may be gone by now."""
    model, kept = asked.get("model"), recorded.get("model")
    if not (isinstance(model, dict) and isinstance(kept, dict) and model.get("source")):
        return asked
    # Not what such a model has none of, as of one without dropout.
    own = {name: value for name, value in model.items() if name not in ("_target_", "source") and name in kept}
    return asked | {"weights": model["source"], "model": kept | own}


def experiments(every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return of each of these settings what makes it an experiment: equal of runs that differ in their seed alone."""
    seedless = [without_seed(essential(settings)) for settings in every]
    # Whichever run it was that each goes on from: of other seeds it is another.
    return _aligned([each | {"continue": True} if "continue" in each else each for each in seedless])


def without_seed(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without a seed, and such that those which begin from runs that differ in their seed are equal."""
    kept = {name: value for name, value in settings.items() if name != "seed"}
    weights = Path(str(kept.get("weights")))
    if weights.parent.parent.name != NAMED or not weights.name.startswith("seed="):
        return kept
    kept["weights"] = str(weights.parent)
    tokenizer = kept["data"].get("tokenizer") if isinstance(kept.get("data"), dict) else None
    if isinstance(tokenizer, dict) and Path(str(tokenizer.get("path"))).parent == weights:
        kept["data"] = kept["data"] | {"tokenizer": tokenizer | {"path": kept["weights"]}}
    return kept


def compared(
    settings: dict[str, Any], choices: dict[str, Any], typed: list[str], varied: list[str] | None
) -> dict[str, Any]:
    """Return what TensorBoard's HParams tab compares: what tells a run from the others of its sweep, and nothing else;
    of a run of its own, its corpus, its model and what was typed.

    Args:
        choices: of groups; model=gpt says more than the name of its class.
        typed, varied: overrides; see molino.configuration.request.Request.
    """
    own = {"data": choices.get("data"), "model": choices.get("model")} if varied is None else {}
    said = dict(override.lstrip("+").split("=", 1) for override in (typed if varied is None else varied))
    values = flatten(settings) | choices
    told = {key: values.get(key, text) for key, text in said.items() if not is_indifferent(key)}
    return {key: value for key, value in (own | told).items() if value is not None}


def canonical(value: Any) -> str:
    """Return a text that is equal of equal settings; 1 and 1.0 are one number."""
    text = json.dumps(value, default=str)
    return json.dumps(json.loads(text, parse_float=_whole), sort_keys=True)


def _without_indifferent(node: dict[str, Any], place: str = "") -> dict[str, Any]:
    kept = {}
    for name, value in node.items():
        key = join(place, str(name))
        if not (is_indifferent(key) or (place == "callbacks" and value is None)):
            kept[name] = _without_indifferent(value, key) if isinstance(value, dict) else value
    return kept


def _aligned(every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return settings such that all name the same arguments of the same target at the same place."""
    named: dict[tuple[str, str], set[frozenset[str]]] = defaultdict(set)
    for settings in every:
        for place, node in _calls(settings):
            named[place, node["_target_"]].add(frozenset(node))
    uneven = {call for call, arguments in named.items() if len(arguments) > 1}
    return [_fill(settings, lambda *call: call in uneven) for settings in every] if uneven else every


def _calls(node: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, list):
        for item in node:
            yield from _calls(item, place)
    elif isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield place, node
        for name, child in node.items():
            yield from _calls(child, join(place, str(name)))


def _fill(node: Any, wanted: Callable[[str, str], bool], place: str = "") -> Any:
    """Return a node with the defaults of its target, and of those below it, where `wanted` says so."""
    if isinstance(node, list):
        return [_fill(item, wanted, place) for item in node]
    if not isinstance(node, dict):
        return node
    filled = {name: _fill(child, wanted, join(place, str(name))) for name, child in node.items()}
    target = node.get("_target_")
    if isinstance(target, str) and wanted(place, target):
        left = {k: v for k, v in defaults_of(target).items() if k not in node and k not in GIVEN.get(place, ())}
        filled |= {k: list(v) if isinstance(v, list | tuple) else v for k, v in left.items()}
    return filled


def _whole(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() else number
