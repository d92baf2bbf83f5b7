"""The study of a search: Optuna's record of all trials, in `study.journal` of the sweep's directory.

Optuna's own tools read it too:

    optuna.load_study(study_name="<sweep>", storage=JournalStorage(JournalFileBackend("<sweep>/study.journal")))
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial

from molino.base.errors import CheckpointError, ConfigError
from molino.base.files import make_directory
from molino.configuration.settings import flatten
from molino.search.internals import locked, reopen

JOURNAL = "study.journal"
PRUNERS = ("median", "halving")


@dataclass(frozen=True)
class Pruner:
    """Which trials end early, in plain values, for the processes that train them.

    Attributes:
        name: `median` (worse than the median of the others at the same step) or `halving` (successive halving).
        startup_trials: trials that end as planned before any is pruned (median).
        warmup_steps: optimizer steps before which no run is pruned.
    """

    name: str | None
    startup_trials: int = 5
    warmup_steps: int = 0

    def build(self) -> optuna.pruners.BasePruner:
        """Return Optuna's pruner.

        Raises:
            ConfigError: there is none of this name.
        """
        if self.name is None:
            return optuna.pruners.NopPruner()
        if self.name == "median":
            return optuna.pruners.MedianPruner(self.startup_trials, self.warmup_steps)
        if self.name == "halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=max(self.warmup_steps, 1))
        raise ConfigError(f"hydra.sweeper.pruner={self.name} is unknown: choose {', '.join(PRUNERS)} or null")


def open_study(
    directory: Path,
    identity: dict[str, Any],
    typed: list[str],
    direction: str,
    unlike: Callable[[optuna.Study], bool],
) -> optuna.Study:
    """Return the study of a sweep, new or as an earlier command left it.

    Args:
        identity: what must not change between the commands, in plain values.
        typed: what was typed that all runs share, to tell what has changed.
        unlike: tells whether the runs of a study had other settings. Asked where those are said in other words.

    Raises:
        CheckpointError: the study was made for something else, or is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    make_directory(directory, "; set paths.outputs")
    mend(directory / JOURNAL)
    with explain_damage(directory):
        kept, name = storage(directory), directory.name
        if name in optuna.get_all_study_names(kept):
            study = optuna.load_study(study_name=name, storage=kept)
        else:
            study = optuna.create_study(study_name=name, storage=kept, direction=direction, load_if_exists=True)
        if "identity" not in study.user_attrs:
            study.set_user_attr("identity", identity)
            study.set_user_attr("typed", typed)
        stored = study.user_attrs
    changed = _changes(stored["identity"], json.loads(json.dumps(identity)))
    if stored["identity"].get("settings") != identity["settings"] and unlike(study):
        changed.append(f"{' '.join(stored.get('typed') or ['no settings'])} -> {' '.join(typed or ['no settings'])}")
    if changed:
        raise CheckpointError(
            f"{directory} holds a search for something else ({'; '.join(changed)}): give this one a name of its own "
            "with sweep=<name>"
        )
    if stored["identity"] != identity:
        study.set_user_attr("identity", identity)
    return study


def load_study(directory: Path, pruner: Pruner) -> optuna.Study:
    """Return the study of a sweep for one of its runs.

    Raises:
        CheckpointError: it is not there or is damaged.
    """
    # Optuna would make an empty one.
    if not (directory / JOURNAL).is_file():
        raise CheckpointError(f"there is no {directory / JOURNAL}")
    with explain_damage(directory):
        return optuna.load_study(study_name=directory.name, storage=storage(directory), pruner=pruner.build())


def load_trial(directory: Path, number: int, pruner: Pruner) -> Trial:
    """Return a trial of the study of a sweep, to report to.

    Raises:
        CheckpointError: the study is not there or is damaged.
        IndexError: it has no trial of this number.
    """
    study = load_study(directory, pruner)
    return reopen(study, study.get_trials(deepcopy=False)[number])


def storage(directory: Path) -> JournalStorage:
    """Return where the study of a sweep is kept: a file that many processes may append to, also on network drives."""
    return JournalStorage(JournalFileBackend(str(directory / JOURNAL)))


def mend(journal: Path) -> None:
    """Cut off a last line without its end, as a full disk leaves one: whatever came after it would be unreadable."""
    if not _torn(journal):
        return
    with locked(journal):
        if _torn(journal):
            content = journal.read_bytes()
            os.truncate(journal, content.rfind(b"\n") + 1)


@contextmanager
def explain_damage(directory: Path) -> Iterator[None]:
    """Turn what Optuna says of a journal that it cannot read into one line."""
    try:
        yield
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"{directory / JOURNAL} cannot be read ({type(error).__name__}: {error}): delete it, and the search asks "
            "again for what its runs have done"
        ) from error


def _torn(journal: Path) -> bool:
    if not journal.is_file() or journal.stat().st_size == 0:
        return False
    with journal.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return what differs of two identities but their settings, of which only a digest is known."""
    old, new = ({k: v for k, v in flatten(each).items() if k != "settings"} for each in (old, new))
    return [f"{key} {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)]
