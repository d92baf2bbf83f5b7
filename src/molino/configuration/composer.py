"""From Hydra's configurations to requests: of one command, and of the many runs of a sweep."""

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, open_dict

from molino.base.errors import ConfigError
from molino.configuration.choices import CONF
from molino.configuration.internals import apply_overrides, chooses_group, composed
from molino.configuration.origins import check_continued, check_named, force, with_origin
from molino.configuration.overrides import (
    check_config_dir,
    check_groups,
    check_hydras,
    check_resumed,
    quote,
    quote_value,
    take_config_dir,
)  # fmt: skip
from molino.configuration.request import Request
from molino.configuration.settings import resolve


def request_of(config: DictConfig, hydra: Any) -> Request:
    """Return what a composed configuration asks for.

    Args:
        hydra: Hydra's part of it.
    """
    return with_origin(Request(resolve(config), list(hydra.overrides.task), choices_of(hydra)), compose)


def compose(verb: str, arguments: list[str]) -> Request:
    """Return what a command with these arguments would ask for. Nothing that Hydra keeps for a whole process changes.

    Raises:
        ConfigError: they are none for a single command.
        HydraException, OmegaConfBaseException: they do not compose.
    """
    own, overrides = take_config_dir([*arguments])
    if flags := [override for override in overrides if override.startswith("-")]:
        raise ConfigError(f"{flags[0]} is for the command line: this is one run; leave it out")
    if own is not None:
        check_config_dir(Path(own), CONF)
    overrides = [quote(override, verb) for override in overrides]
    check_typed(verb, overrides)
    with composed(CONF, verb, force(overrides), own) as config:
        hydra = config.hydra
        with open_dict(config):
            del config["hydra"]
        if config.get("sweep") is not None:
            raise ConfigError(f"sweep={config.sweep} names a sweep, and this is a single run")
        return request_of(config, hydra)


def check_typed(verb: str, overrides: list[str], multirun: bool = False) -> None:
    """Refuse what cannot be typed together, before it is composed.

    Raises:
        ConfigError: there is such a thing.
    """
    check_hydras(overrides)
    check_groups(overrides, CONF)
    if verb == "train":
        check_named(overrides)
        if not multirun:
            check_resumed(overrides)
        check_continued(overrides)


def choices_of(hydra: Any) -> dict[str, str | None]:
    """Return the choice taken of each group, but for Hydra's own: {"model": "gpt", ...}."""
    return {group: choice for group, choice in hydra.runtime.choices.items() if not group.startswith("hydra/")}


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
        self.parsed: dict[str, Override] = {}  # most of what runs are asked for they share
        self._current: DictConfig | None = None

    @property
    def directory(self) -> Path:
        """Where the runs of the sweep lie."""
        return Path(str(self.master.hydra.sweep.dir))

    def request(self, overrides: list[str], name: str, varied: list[str] | None = None) -> Request:
        """Return the run of these overrides, in the directory `name` of the sweep.

        Args:
            varied: what tells it from the others.

        Raises:
            ConfigError: it is no run for a sweep.
            HydraException, OmegaConfBaseException: they do not compose.
        """
        config, hydra = self._compose(overrides)
        refuse_resume(config.resume)
        # What a setting says of Hydra, as the run's name does, is said of this run's choices.
        if hydra is not self._current:
            HydraConfig.instance().set_config(hydra)
            self._current = hydra
        choices, path = choices_of(hydra.hydra), self.directory / name
        asked = Request(resolve(config), list(overrides), choices, path, varied=varied)
        return with_origin(asked, compose)

    def compose(self, overrides: list[str]) -> DictConfig:
        """Return the configuration of a run, without Hydra's own part."""
        return self._compose(overrides)[0]

    def _compose(self, overrides: list[str]) -> tuple[DictConfig, DictConfig]:
        for text in (text for text in overrides if text not in self.parsed):
            (self.parsed[text],) = self.parser.parse_overrides([text])
        parsed = [self.parsed[text] for text in overrides]
        groups = [override for override in parsed if chooses_group(self.loader, override)]
        base, whole = self._base(groups)
        config = base.copy()
        apply_overrides([override for override in parsed if override not in groups], config)
        return config, whole

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


def for_hydra(request: Request) -> list[str]:
    """Return the overrides of which Hydra composes a run of a sweep, in its directory."""
    places = {"hydra.sweep.dir": request.path.parent, "hydra.sweep.subdir": request.path.name}
    return [*request.overrides, *(f"{key}={quote_value(str(value))}" for key, value in places.items())]


def refuse_resume(resume: Any) -> None:
    """Refuse `resume=` in a sweep.

    Raises:
        ConfigError: it is there.
    """
    if resume:
        raise ConfigError("resume= goes on with one run; to go on with a sweep, give its command again")
