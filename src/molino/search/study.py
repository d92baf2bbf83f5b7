"""The study of a search: Optuna's record of all trials, in `study.journal` of the sweep's directory.

Optuna's own tools read it too:

    optuna.load_study(study_name="<sweep>", storage=JournalStorage(JournalFileBackend("<sweep>/study.journal")))
"""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from molino.errors import CheckpointError, ConfigError
from molino.files import make_directory
from molino.search.space import values

JOURNAL = "study.journal"
SAMPLERS, PRUNERS = ("tpe", "random", "grid", "cmaes"), ("median", "halving")


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
    direction: str,
    sampler: optuna.samplers.BaseSampler,
    pruner: Pruner,
) -> optuna.Study:
    """Return the study of a sweep, new or as an earlier command left it.

    Args:
        identity: what must not change between the commands, in plain values.

    Raises:
        ConfigError: the direction is none.
        CheckpointError: the study was made for something else.
    """
    if direction not in ("minimize", "maximize"):
        raise ConfigError(f"hydra.sweeper.direction={direction} is unknown: choose minimize or maximize")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    make_directory(directory, "; set paths.outputs")
    study = optuna.create_study(
        storage=storage(directory),
        study_name=directory.name,
        direction=direction,
        sampler=sampler,
        pruner=pruner.build(),
        load_if_exists=True,
    )
    if not study.user_attrs:
        study.set_user_attr("identity", identity)
    identity = json.loads(json.dumps(identity))
    stored = study.user_attrs.get("identity", {})
    changed = [f"{key} {stored.get(key)} -> {value}" for key, value in identity.items() if stored.get(key) != value]
    if study.direction.name.lower() != direction:
        changed.append(f"direction {study.direction.name.lower()} -> {direction}")
    if changed:
        raise CheckpointError(
            f"{directory} holds a search for something else ({'; '.join(changed)}): give this one a name of its own "
            "with sweep=<name>"
        )
    return study


def storage(directory: Path) -> JournalStorage:
    """Return where the study of a sweep is kept: a file that many processes may append to, also on network drives."""
    return JournalStorage(JournalFileBackend(str(directory / JOURNAL)))


def make_sampler(name: str, seed: int, startup_trials: int, space: dict[str, BaseDistribution]) -> Any:
    """Return Optuna's sampler.

    Raises:
        ConfigError: there is none of this name, it needs a package, or the space is not for it.
    """
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup_trials)
    if name == "grid":
        listed = {key: values(distribution) for key, distribution in space.items()}
        if endless := [key for key, options in listed.items() if options is None]:
            raise ConfigError(f"hydra.sweeper.sampler=grid needs values to list: give {endless[0]} as choice or range")
        return optuna.samplers.GridSampler(listed, seed=seed)
    if name == "cmaes":
        if importlib.util.find_spec("cmaes") is None:
            raise ConfigError("hydra.sweeper.sampler=cmaes needs a package: pip install cmaes")
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup_trials)
    raise ConfigError(f"hydra.sweeper.sampler={name} is unknown: choose {', '.join(SAMPLERS)}")
