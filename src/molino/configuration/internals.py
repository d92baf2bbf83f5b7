"""What molino uses of Hydra that Hydra does not promise to keep. Checked on hydra-core 1.3.8.

The sweeps compose hundreds of runs from few files and list their overrides as Hydra's own sweeper does, for which there
is no public way. `tests/configuration/test_hydra_internals.py` fails when one of these has moved.
"""

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime, setup_globals
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.basecontainer import BaseContainer

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


def arguments_parser() -> ArgumentParser:
    """Return what parses a command line into Hydra's flags and overrides."""
    return get_args_parser()


@contextmanager
def composed_once() -> Iterator[None]:
    """Have Hydra compose a command once. It would once more, to look for hydra.mode; here -m alone says it."""
    looks = Hydra.get_mode
    Hydra.get_mode = lambda self, config_name, overrides: None
    try:
        yield
    finally:
        Hydra.get_mode = looks


@contextmanager
def composed(conf: Path, name: str, overrides: list[str], own: str | None = None) -> Iterator[DictConfig]:
    """Yield conf/<name>.yaml as a command would have it composed, Hydra's part included, beside any Hydra at work.

    Interpolations can be resolved meanwhile. Afterwards all that Hydra keeps for a whole process is as it was.

    Args:
        own: a further folder of choices.
    """
    config, job, base = HydraConfig.instance(), JobRuntime.instance(), version.VersionBase.instance()
    before = config.cfg, job.conf.copy(), base.version_base, dict(BaseContainer._resolvers)
    try:
        setup_globals()
        version.setbase("1.3")
        job.set("name", name)
        search_path = create_config_search_path(str(conf))
        if own:
            # Before that of schemas, which Hydra expects to be the last.
            search_path.append(provider="command-line", path=f"file://{Path(own).resolve()}", anchor="main")
        whole = ConfigLoaderImpl(search_path).load_configuration(name, overrides, RunMode.RUN, from_shell=False)
        config.set_config(whole)
        yield whole
    finally:
        config.cfg, job.conf, base.version_base, BaseContainer._resolvers = before


def chooses_group(loader: Any, override: Override) -> bool:
    """Tell whether an override chooses a file of a group."""
    return not isinstance(override.value(), dict) and loader.repository.group_exists(override.key_or_group)


def apply_overrides(overrides: list[Override], config: DictConfig) -> None:
    """Set what overrides of single settings say, in place."""
    ConfigLoaderImpl._apply_overrides_to_config(overrides, config)


def every_combination(overrides: list[Override]) -> list[list[str]]:
    """Return the overrides of each run of a sweep over the values listed."""
    return BasicSweeper.split_arguments(overrides, None)[0]


def trains_here(launcher: Any) -> bool:
    """Tell whether a launcher is Hydra's own, which trains one run after the other in the process of the sweep."""
    # By its name: Hydra's search for plugins imports its own once more, as other classes.
    kind = type(launcher)
    return f"{kind.__module__}.{kind.__qualname__}" == BASIC_LAUNCHER
