"""What `hydra/sweeper=` and `hydra/launcher=` name beside Hydra's own; Hydra looks for plugins in this package only.

Hydra imports this file at every start, so everything else is imported where it is used. Settings are checked there too:
what fails here Hydra would report in its own way.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf


class GridSweeper(Sweeper):
    """Every combination of the values listed; see conf/hydra/sweeper/grid.yaml."""

    def __init__(self, **settings: Any):
        self.settings = _plain(settings)

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.arguments = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        from molino.sweeps.grid import sweep

        sweep(*self.arguments, arguments, self.settings)


class OptunaSweeper(Sweeper):
    """Search by Optuna; see conf/hydra/sweeper/optuna.yaml."""

    def __init__(self, **settings: Any):
        self.settings = _plain(settings)

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.arguments = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        from molino.search import sweep

        sweep(*self.arguments, arguments, self.settings)


class LocalLauncher(Launcher):
    """Runs at the same time, each in a process with its own devices; see conf/hydra/launcher/local.yaml."""

    def __init__(self, **settings: Any):
        self.settings = _plain(settings)

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        from molino.config import check
        from molino.sweeps.context import Context
        from molino.sweeps.local import Local

        check({"_target_": "molino.sweeps.local.Local", **self.settings}, "hydra.launcher", ("context",))
        self.runs = Local(Context(hydra_context, config, task_function), **self.settings)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the runs of a sweeper that is not molino's; molino's own use `runs`."""
        from molino.sweeps.foreign import launch

        return launch(self.runs, job_overrides)


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for name, v in settings.items()}
