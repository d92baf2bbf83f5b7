"""From what was typed to the runs of a sweep: their overrides, their directories, their settings.

A run's directory follows from what was asked, never from a counter or the clock, so that the same command finds the
same runs: `<sweep>/<what differs>`, where a sweep is called as the person says (`sweep=...`) or else after the settings
it varies and a digest of those it does not.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from molino.base.errors import CheckpointError, ConfigError
from molino.configuration.overrides import quote_value
from molino.configuration.settings import flatten, resolve
from molino.runs.directory import read_config, readable_name
from molino.runs.status import Status
from molino.sweeps.job import refuse_resume

# What says where things lie and what they are called, not what they are.
PLACES = ("paths", "name", "sweep", "debug", "resume")


@dataclass(frozen=True)
class Job:
    """A run that a sweep wants.

    Attributes:
        name: what differs from the other runs.
        path: the run directory.
        overrides: what it is composed of.
        asked: digest of all its settings.
        devices, nodes: over which it is distributed.
        accelerator: what it computes on, as `hardware.accelerator` says.
        relaunches: whether it is distributed by starting the command again for each further process.
    """

    name: str
    path: Path
    overrides: tuple[str, ...]
    asked: str
    devices: int
    nodes: int
    accelerator: str
    relaunches: bool

    @property
    def placed(self) -> list[str]:
        """The overrides that compose the run, and tell Hydra its directory."""
        places = {"hydra.sweep.dir": self.path.parent, "hydra.sweep.subdir": self.path.name}
        return [*self.overrides, *(f"{key}={quote_value(str(value))}" for key, value in places.items())]


def parse(arguments: list[str], params: dict[str, Any] | None, loader: Any) -> list[Override]:
    """Return what was typed, and before it what the sweeper's `params` say, as Hydra's overrides."""
    given = {key: "null" if value is None else value for key, value in (params or {}).items()}
    texts = [*(f"{key}={value}" for key, value in given.items()), *arguments]
    return OverridesParser.create(config_loader=loader).parse_overrides(texts)


def split(overrides: list[Override]) -> tuple[list[str], list[str]]:
    """Return the settings that a sweep varies, and the overrides that all of its runs share.

    Raises:
        ConfigError: the name of the sweep is among those that vary.
    """
    swept = [override.get_key_element() for override in overrides if override.is_sweep_override()]
    fixed = [override.input_line for override in overrides if not override.is_sweep_override()]
    if "sweep" in swept:
        raise ConfigError("sweep= takes one name: give each sweep a command of its own")
    return swept, fixed


def combine(overrides: list[Override]) -> list[list[str]]:
    """Return the overrides of each run: every combination of the values listed.

    Raises:
        ConfigError: a setting has no list of values but an interval, or an empty list.
    """
    for override in overrides:
        if override.is_interval_sweep():
            raise ConfigError(
                f"{override.input_line} has no values to try one by one: list some, or search with hydra/sweeper=optuna"
            )
    combined = BasicSweeper.split_arguments(overrides, None)[0]
    if not combined:
        empty = next((o.input_line for o in overrides if o.is_sweep_override()), "the command")
        raise ConfigError(f"{empty} lists no values: there is nothing to train")
    return combined


def sweep_name(swept: list[str], fixed: list[str], prefix: str = "") -> str:
    """Return the name of a sweep that was given none."""
    text = "\n".join(sorted(o for o in fixed if not o.lstrip("+").startswith(("paths.", "sweep="))))
    return f"{prefix}{readable_name(sorted(swept))}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def run_name(overrides: list[str], swept: list[str]) -> str:
    """Return the name of a run: what differs, in alphabetical order but for the seed, which comes last."""
    varied = [override for override in overrides if override.partition("=")[0] in swept]
    varied.sort(key=lambda override: (override.startswith("seed="), override))
    name = readable_name(varied)
    if any(mark in override.partition("=")[2] for override in varied for mark in "/ "):
        # A directory's name cannot hold them, and a/b is not a-b.
        return f"{name}-{hashlib.sha256(','.join(varied).encode()).hexdigest()[:8]}"
    return name


class Composer:
    """Composes the runs of one sweep: once for each combination of groups, where Hydra would once for each run.

    Args:
        loader: Hydra's.
        master: the configuration of the sweep's command.
    """

    def __init__(self, loader: Any, master: DictConfig):
        self.loader, self.master = loader, master
        self.bases: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}
        self.parser = OverridesParser.create(config_loader=loader)

    def job(self, overrides: list[str], name: str) -> Job:
        """Return the run of these overrides.

        Raises:
            HydraException, OmegaConfBaseException: they do not compose.
        """
        config = self.compose(overrides)
        refuse_resume(config)
        hardware = config.hardware
        processes = hardware.devices * hardware.num_nodes
        return Job(
            name=name,
            path=Path(str(self.master.hydra.sweep.dir)) / name,
            overrides=tuple(overrides),
            asked=digest(config),
            devices=hardware.devices,
            nodes=hardware.num_nodes,
            accelerator=hardware.accelerator,
            relaunches=processes > 1,
        )

    def compose(self, overrides: list[str]) -> DictConfig:
        """Return the configuration of a run, without Hydra's own part."""
        parsed = self.parser.parse_overrides(list(overrides))
        groups = [override for override in parsed if self._chooses(override)]
        config = self._base(groups)[0].copy()
        ConfigLoaderImpl._apply_overrides_to_config([override for override in parsed if override not in groups], config)
        return config

    def settings(self, overrides: list[str]) -> dict[str, Any]:
        """Return the settings of a run as plain values, its interpolations resolved."""
        parsed = self.parser.parse_overrides(list(overrides))
        HydraConfig.instance().set_config(self._base([o for o in parsed if self._chooses(o)])[1])
        return resolve(self.compose(overrides))

    def _chooses(self, override: Override) -> bool:
        """Tell whether an override chooses a file of a group, as Hydra does."""
        return not isinstance(override.value(), dict) and self.loader.repository.group_exists(override.key_or_group)

    def _base(self, groups: list[Override]) -> tuple[DictConfig, DictConfig]:
        """Return what is composed of these choices alone, without Hydra's part and with it."""
        key = tuple(override.input_line for override in groups)
        if key not in self.bases:
            whole = self.loader.load_sweep_config(self.master, list(key))
            config = whole.copy()
            with open_dict(config):
                del config["hydra"]  # much to copy
            self.bases[key] = config, whole
        return self.bases[key]


def digest(config: DictConfig) -> str:
    """Return what tells whether two runs were asked for with the same settings, wherever they lie."""
    settings = {name: value for name, value in OmegaConf.to_container(config).items() if name not in PLACES}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


def refuse_other(job: Job, status: Status, composer: Composer) -> None:
    """Refuse to go on with, or to skip, a run that was asked for with other settings.

    Raises:
        CheckpointError: its directory is taken by such a run.
    """
    if status.asked in (None, job.asked):
        return
    old, new = flatten(read_config(job.path)), flatten(composer.settings(list(job.overrides)))
    absent = "absent"  # which is not null
    both = {key: (old.get(key, absent), new.get(key, absent)) for key in {**old, **new}}
    # What was left to the machine is on record as it was settled.
    changed = [f"{key} {old} -> {new}" for key, (old, new) in both.items() if old != new and new != "auto"]
    changed = [text for text in changed if not text.startswith(PLACES) and ".cache " not in text]
    raise CheckpointError(
        f"{job.path} was trained with other settings ({'; '.join(changed[:3]) or 'of an earlier version'}): give this "
        "sweep a name of its own with sweep=<name>"
    )
