"""Runs as they are to be compared: what was asked of each, with which settings, and what became of it.

Reads summaries, settings and statuses, never logs: hundreds of runs take a second.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from molino.base.errors import CheckpointError, ConfigError
from molino.base.extent import check_extent
from molino.base.files import read_text
from molino.comparison.run import Run, is_indifferent
from molino.configuration.identity import canonical, experiments
from molino.configuration.settings import flatten, with_task
from molino.runs.directory import CONFIG, TOKENIZER
from molino.runs.measures import Measures, Metric, metric_name, read_measures
from molino.runs.record import read_choices
from molino.runs.status import FAILED, STATUS, Status, read_statuses

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster where there is libyaml
GROUPS = (
    "task", "data", "data/tokenizer", "model", "optimizer", "scheduler", "trainer", "hardware", "logger", "experiment",
    "debug",
)  # fmt: skip
MOST_NAMES = 10  # of sweeps in a message


def find_folders(names: list[str], outputs: Path) -> list[Path]:
    """Return the folders that are meant: sweeps by name, folders and runs by path; of no names, all outputs.

    Raises:
        CheckpointError: there is no such sweep or folder.
    """
    return [_find_folder(name, outputs) for name in names] or [outputs]


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Return all run directories in `folders` and below, each once, in order of their names. Runs hold no runs."""
    found: dict[Path, Path] = {}
    for folder in folders:
        for parent, below, files in os.walk(folder):
            below[:] = [] if CONFIG in files or STATUS in files else sorted(n for n in below if not n.startswith("."))
            if CONFIG in files or STATUS in files:
                found.setdefault(Path(parent).resolve(), Path(parent))
    return list(found.values())


def read_runs(
    paths: Iterable[Path],
    earlier: Callable[[dict[str, Any]], Measures],
    stand: Callable[[list[Path]], Mapping[Path, Status]] = read_statuses,
) -> list[Run]:
    """Read runs, and fill in what one of them says of the others.

    Args:
        earlier: what a run measures that has not recorded it, by its summary.
        stand: tells where runs stand; by their directories alone, unless schedulers are asked as well.

    A run that waits in a queue has no settings yet: it takes those of a run for which the same was typed, or at least
    the corpus, or the task, of one for which the same was typed of that. An older one has not recorded its choices: it
    takes those of runs with the same sections. A run that is not done does not know the checksum of its corpus: it
    takes that of a run with the same settings of it.
    """
    standing = stand(paths := list(paths))
    read = [_read_run(path, standing[path], earlier) for path in paths]
    runs = _same_tokens(_complete_settings(_identify(read)))
    known = {(group, _section(run, group)): run.choices[group] for run in runs if run.settings for group in run.choices}
    texts = {run.corpus: (_text(run), run.corpus_name) for run in runs if run.done}
    return [_complete(run, known, texts) for run in runs]


def _find_folder(name: str, outputs: Path) -> Path:
    sweeps = outputs / "sweeps"
    plain = len(Path(name).parts) == 1 and name != ".."
    for candidate in (*([sweeps / name] if plain else []), Path(name).expanduser(), outputs / name):
        if candidate.is_dir():
            return candidate
    there = (
        sorted((p for p in sweeps.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime) if sweeps.is_dir() else []
    )
    named = ", ".join(path.name for path in reversed(there[-MOST_NAMES:]))
    more = f" and {len(there) - MOST_NAMES} older" if len(there) > MOST_NAMES else ""
    hint = f"; the sweeps there are {named}{more}" if there else "; there are no sweeps: give a folder"
    raise CheckpointError(f"there is no sweep {name} in {sweeps}, and no folder of that path{hint}")


def _read_run(path: Path, status: Status, earlier: Callable[[dict[str, Any]], Measures]) -> Run:
    nested, measures = {}, None
    try:
        nested = _read_yaml(path / CONFIG)
        if not isinstance(nested, dict):
            raise ValueError("it holds no settings")
        if "paths" not in nested:  # the last of its sections; what is cut off may be YAML all the same
            raise ValueError("it ends too early")
        check_extent(nested)
        measures = read_measures(path)
    except FileNotFoundError:
        pass  # it waits in a queue, or failed before it was composed
    except CheckpointError as error:
        status, nested = replace(status, state=FAILED, error=str(error)), {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        status, nested = replace(status, state=FAILED, error=f"{path / CONFIG} cannot be read: {reason}"), {}
    typed = _parse(_typed(path, status))
    groups = {key: value for key, value in typed.items() if key in GROUPS}
    choices = {**groups, **_recorded_choices(path)}
    name = (status.summary or {}).get("corpus") or choices.get("data") or "?"
    asked = {key: value for key, value in typed.items() if not is_indifferent(key)}
    return Run(
        path,
        status,
        nested,
        flatten(nested),
        typed,
        choices,
        measures or _measures_asked(nested) or earlier(status.summary or {}),
        identity=canonical(asked),
        task=_task(nested),
        corpus=canonical(choices.get("data")),
        tokenizer=canonical(choices.get("data/tokenizer")),
        corpus_name=str(name),
    )


def _measures_asked(settings: dict[str, Any]) -> Measures | None:
    """Return what a run was asked to measure that has lost its record of it: what decides, and nothing else."""
    task = settings.get("task")
    if not isinstance(task, dict) or not isinstance(task.get("monitor"), str):
        return None
    name = metric_name(task["monitor"])
    try:
        return Measures(task["monitor"], {name: Metric(name, task.get("direction"))})
    except ConfigError:
        return None


def _task(settings: dict[str, Any]) -> str:
    return str(flatten(with_task(settings)).get("task") or "")


def _identify(runs: list[Run]) -> list[Run]:
    """Fill in, where settings are recorded, what makes each run an experiment."""
    recorded = [run for run in runs if run.recorded]
    found = dict(zip((run.path for run in recorded), experiments([run.recorded for run in recorded]), strict=True))
    return [_identified(run, found[run.path]) if run.path in found else run for run in runs]


def _identified(run: Run, experiment: dict[str, Any]) -> Run:
    data = experiment.get("data") if isinstance(experiment.get("data"), dict) else {}
    return replace(
        run,
        # Also what makes no difference can be asked for, such as group_by=hardware.threads.
        settings=run.settings | flatten(experiment),
        identity=canonical(experiment),
        corpus=canonical(data["corpus"]) if "corpus" in data else run.corpus,
        tokenizer=canonical(data["tokenizer"]) if "tokenizer" in data else run.tokenizer,
    )


def _same_tokens(runs: list[Run]) -> list[Run]:
    """Where some have the tokenizer of another run, tell tokenizers by what they are, not by where they come from."""
    if not any("data.tokenizer.path" in run.settings for run in runs):
        return runs
    files = {run.path: run.path / TOKENIZER for run in runs if (run.path / TOKENIZER).is_file()}
    made = {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in files.items()}
    known = {(run.corpus, run.tokenizer): made[run.path] for run in runs if run.path in made}
    return [
        replace(run, tokenizer=made.get(run.path) or known.get((run.corpus, run.tokenizer), run.tokenizer))
        for run in runs
    ]


def _complete_settings(runs: list[Run]) -> list[Run]:
    twins = {_signature(run): run for run in runs if run.settings}
    tasks = {_signature(run, ("task", "experiment")): run for run in runs if run.settings}
    texts = {_signature(run, ("data", "experiment")): run for run in runs if run.settings}
    completed = []
    for run in runs:
        if not run.settings and (of_task := tasks.get(_signature(run, ("task", "experiment")))) is not None:
            run = replace(run, measures=of_task.measures, task=of_task.task)
        twin, of_text = twins.get(_signature(run)), texts.get(_signature(run, ("data", "experiment")))
        if not run.settings and of_text is not None:
            about = {name: getattr(of_text, name) for name in ("corpus", "tokenizer", "corpus_name")}
            choices = {
                group: of_text.choices[group] for group in ("data", "data/tokenizer") if group in of_text.choices
            }
            run = replace(run, choices={**choices, **run.choices}, **about)
        if not run.settings and twin is not None:
            settings = {**twin.settings, "seed": run.typed.get("seed", twin.settings.get("seed"))}
            run = replace(run, settings=settings, choices={**twin.choices, **run.choices}, identity=twin.identity)
        completed.append(run)
    return completed


def _complete(run: Run, known: dict[tuple[str, str], Any], texts: dict[str, tuple[str, str]]) -> Run:
    choices = dict(run.choices)
    for group in ("data", "data/tokenizer", "model", "optimizer", "scheduler") if run.settings else ():
        if group not in choices:
            # What its target is called says less, but nothing wrong.
            target = run.corpus_name if group == "data" else run.settings.get(group.replace("/", "."))
            choices[group] = known.get((group, _section(run, group)), target)
    own = (_text(run), run.corpus_name)
    text, name = own if run.done else texts.get(run.corpus, own)
    return replace(run, choices=choices, corpus=text, corpus_name=name)


def _text(run: Run) -> str:
    """Return the checksum of a run's corpus, or of one that is not done its settings."""
    return str((run.status.summary or {}).get("corpus_sha256") or run.corpus)


def _section(run: Run, group: str) -> str:
    prefix = "data.corpus" if group == "data" else group.replace("/", ".")
    own = {k: v for k, v in run.settings.items() if k == prefix or k.startswith(f"{prefix}.")}
    return canonical({k: v for k, v in own.items() if not is_indifferent(k)})


def _signature(run: Run, about: tuple[str, ...] = ("",)) -> str:
    """Return a text that is equal of runs for which the same was typed, of the settings that begin with `about`."""
    typed = {key: value for key, value in run.typed.items() if key.startswith(about) and not is_indifferent(key)}
    return canonical(typed)


def _typed(path: Path, status: Status) -> list[str]:
    if status.overrides is not None:
        return status.overrides
    try:
        return _read_yaml(path / "overrides.yaml") or []
    except (OSError, ValueError, yaml.YAMLError):
        return []


def _parse(overrides: list[str]) -> dict[str, Any]:
    typed = {}
    for override in overrides if isinstance(overrides, list) else ():
        key, _, text = str(override).lstrip("+").partition("=")
        typed[key.lstrip("~")] = None if key.startswith("~") else _value(text)
    return typed


def _value(text: str) -> Any:
    """Return what was typed as the value that config.yaml would hold."""
    try:
        value = yaml.load(text, LOADER)
        return float(value) if isinstance(value, str) else value  # YAML reads 1e-3 as text
    except yaml.YAMLError:
        return text
    except ValueError:
        return value


def _recorded_choices(path: Path) -> dict[str, Any]:
    return {group: choice for group, choice in read_choices(path).items() if group in GROUPS}


def _read_yaml(path: Path) -> Any:
    return yaml.load(read_text(path), LOADER)
