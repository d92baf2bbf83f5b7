"""A run that goes on from another: `continue=<run>` trains it for longer, `weights=<run>` begins from what it learnt.

Either way most settings are that run's, and what is typed against them is refused. Where a run came from is recorded
with its settings, by the path of its directory.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from molino.base.errors import ConfigError
from molino.configuration.choices import CONF
from molino.configuration.named_weights import Compose, names_settings, request_of_weights
from molino.configuration.overrides import take_config_dir
from molino.configuration.request import Request
from molino.configuration.settings import begin_from, restore
from molino.runs import directory
from molino.runs.record import read_choices

# Groups that may be chosen anew of a run that is continued, and what else may be said anew: its length, how often it
# looks up, its rate, where things lie.
GROUPS = ("scheduler", "hardware", "logger")
LENGTHS = ("trainer.max_steps", "trainer.epochs", "trainer.flops")
OTHERS = (
    "continue", *LENGTHS, "trainer.log_every", "trainer.val_every", "trainer.checkpoint_every", "trainer.sample_tokens",
    "optimizer.lr", "name", "sweep",
)  # fmt: skip
BESIDE = ("paths.", "hydra.", "hydra/")
# What comes along with the weights of a run.
BROUGHT = ("model", "data/tokenizer", "experiment")
# What may be said anew of such a model: it has no weights.
DROPOUT = "model.dropout"
PRETRAINED = "molino.data.pretrained.load_pretrained"


def check_continued(overrides: list[str]) -> None:
    """Refuse settings that would make another run of the one that `continue=` names.

    Raises:
        ConfigError: there is one; names the first.
    """
    if not is_given(overrides, "continue"):
        return
    for override in overrides:
        key = name_of(override)
        within = key in (*GROUPS, *OTHERS) or key.startswith((*BESIDE, *(f"{group}." for group in GROUPS)))
        if not within and override != "debug=traceback":
            raise ConfigError(
                f"{override} cannot be changed in a run that is continued: length, intervals, schedule, optimizer.lr, "
                "hardware, loggers and paths can"
            )


def force(arguments: list[str]) -> list[str]:
    """Return a command line that continues a run as Hydra takes it; any other as it is.

    Which settings a group has depends on the choice that the run has made, which today's defaults do not know: what is
    said of one is forced upon them.
    """
    inner = tuple(f"{group}." for group in GROUPS)
    if not is_given(arguments, "continue"):
        return arguments
    return [f"++{argument}" if argument.startswith(inner) else argument for argument in arguments]


def check_named(overrides: list[str]) -> None:
    """Refuse to go on from a run that is not named, as where a shell's variable is empty.

    Raises:
        ConfigError: there is such a setting.
    """
    for override in overrides:
        key, assigned, value = override.lstrip("+").partition("=")
        if key in ("resume", "continue", "weights") and assigned and value in ("", "''", '""'):
            raise ConfigError(f"{key}= names no run: add its path, its name, or latest; or leave it out")


def name_of(override: str) -> str:
    """Return the name that an override sets: `model.n_layer` of `+model.n_layer=2`."""
    return override.lstrip("+~").partition("=")[0]


def is_given(overrides: list[str], key: str) -> bool:
    """Tell whether a setting is given a value."""
    return any(name_of(each) == key and each.partition("=")[2] not in ("", "null") for each in overrides)


def with_origin(request: Request, compose: Compose) -> Request:
    """Return a request with the settings of the run that it goes on from, where it goes on from one.

    Args:
        compose: what makes a request of a verb and what is typed for it, for weights that name settings.

    Raises:
        ConfigError: something is typed against them.
        CheckpointError: there is no such run.
    """
    settings = request.settings
    if settings.get("continue"):
        return _continued(request, directory.find(str(settings["continue"]), settings["paths"]["outputs"]))
    if names_settings(settings.get("weights")):
        origin = request_of_weights(settings["weights"], settings, compose)
        # A model from elsewhere comes with its weights, which that run has begun from.
        own = origin.settings | {"model": begin_from(origin.settings)["model"]}
        return replace(_begun(request, origin.path, own, origin.choices), origin=origin)
    if settings.get("weights") and (run := find_run(str(settings["weights"]), settings["paths"]["outputs"])):
        return _begun(request, run, restore(run, dict(settings["paths"])), read_choices(run))
    return request


def find_run(name: str, outputs: str) -> Path | None:
    """Return the run that is called so; None where it is a folder or a hub id of Hugging Face's."""
    path = Path(name).expanduser()
    if path.is_dir() and not (path / directory.CONFIG).is_file():
        return None
    ours = path.is_dir() or name == "latest" or directory.is_named(name, Path(outputs))
    return directory.find(name, Path(outputs), trained=True) if ours else None


def _continued(request: Request, parent: Path) -> Request:
    asked, own = request.settings, restore(parent, request.settings["paths"])
    typed = [name_of(override) for override in request.overrides]
    chosen = [group for group in GROUPS if group in typed]
    own |= {group: asked[group] for group in chosen}
    for key in typed:
        section, _, name = key.partition(".")
        if name and section in asked and section not in ("paths", "hydra"):
            # What lies deeper, as in logger.csv.directory, comes with what it lies in.
            name = name.partition(".")[0]
            own[section] = own[section] | {name: asked[section][name]}
    if "trainer.max_steps" in typed:
        own["trainer"] = own["trainer"] | {name: asked["trainer"].get(name) for name in ("epochs", "flops")}
    own |= {"continue": str(parent), "resume": None} | ({"name": asked["name"]} if "name" in typed else {})
    choices = read_choices(parent) | {group: request.choices[group] for group in chosen}
    return replace(request, settings=own, choices=choices)


def _begun(request: Request, run: Path, own: dict[str, Any], chosen: dict[str, Any]) -> Request:
    """Return a request that begins from a run with these settings and choices."""
    asked = request.settings
    typed = {name_of(override): override for override in request.overrides}
    recipe = _recipe(request.choices.get("experiment"))
    extended = request.choices.get("data/tokenizer", "").startswith("pretrained")
    for key, override in typed.items():
        against = [name for name in BROUGHT if key == name or key.startswith(f"{name.replace('/', '.')}.")]
        if key == DROPOUT or (against == ["experiment"] and not _says_model(recipe)):
            continue
        if against and not (extended and against == ["data/tokenizer"]):
            raise ConfigError(
                f"{override} is said against weights={asked['weights']}, which bring their model and their tokenizer: "
                "leave it out"
            )
    data = dict(asked["data"])
    if not extended:
        data["tokenizer"] = {"_target_": PRETRAINED, "_partial_": True, "path": str(run / directory.TOKENIZER)}
    if "data.block_size" not in typed:
        data["block_size"] = own["data"]["block_size"]
    choices = request.choices | {"data/tokenizer": "pretrained", "model": chosen.get("model")}
    name = asked["name"] if "name" in typed or "name" in recipe else f"{choices.get('data')}-{choices['model']}"
    model = own["model"]
    if (DROPOUT in typed or recipe.get("model")) and "dropout" in model:
        model = model | {"dropout": asked["model"].get("dropout")}
    settings = asked | {"model": model, "data": data, "weights": str(run), "name": name}
    return replace(request, settings=settings, choices=choices)


def _recipe(experiment: str | None) -> dict[str, Any]:
    """Return what the file of a recipe says."""
    own = take_config_dir(sys.argv[1:])[0]
    for folder in [CONF, *([Path(own)] if own else [])]:
        file = folder / "experiment" / f"{experiment}.yaml"
        if file.is_file():
            return yaml.safe_load(file.read_text("utf-8")) or {}
    return {}


def _says_model(recipe: dict[str, Any]) -> bool:
    """Tell whether a recipe says anything of a tokenizer or, dropout aside, of a model."""
    chosen = " ".join(str(each) for each in recipe.get("defaults", []))
    tokenizer = isinstance(recipe.get("data"), dict) and "tokenizer" in recipe["data"]
    model = set(recipe.get("model") or {}) - {DROPOUT.removeprefix("model.")}
    return bool(model) or tokenizer or "/model" in chosen or "/data/tokenizer" in chosen
