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


class RunsSweeper(Sweeper):
    """What the sweepers share: a function that decides which runs there are, and has them trained."""

    target = ""

    def __init__(self, **settings: Any):
        self.settings = _plain(settings)

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        self.arguments = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        from hydra.utils import get_object

        context, task, config = self.arguments
        get_object(self.target)(context, task, config, arguments, self.settings)


class GridSweeper(RunsSweeper):
    """Every combination of the values listed; see conf/hydra/sweeper/grid.yaml."""

    target = "molino.sweeps.grid.sweep"


class OptunaSweeper(RunsSweeper):
    """Search by Optuna; see conf/hydra/sweeper/optuna.yaml."""

    target = "molino.search.sweep"


class RunsLauncher(Launcher):
    """What the launchers share: `runs`, which trains the runs of molino's own sweepers."""

    target = ""

    def __init__(self, **settings: Any):
        self.settings = _plain(settings)

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        from hydra.utils import get_object

        from molino.configuration.build import check_arguments
        from molino.configuration.composer import Composer
        from molino.sweeps.attempt import Context

        runs = get_object(self.target)
        check_arguments(runs, self.settings, "hydra.launcher", ("context",))
        self.composer = Composer(hydra_context.config_loader, config)
        self.runs = runs(Context(task_function.run, task_function.prepare), **self.settings)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the runs of any other sweeper."""
        from molino.sweeps.foreign import launch

        return launch(self.runs, self.composer, job_overrides)


class LocalLauncher(RunsLauncher):
    """Runs at the same time, each in a process with its own devices; see conf/hydra/launcher/local.yaml."""

    target = "molino.sweeps.local.Local"


class SlurmLauncher(RunsLauncher):
    """Runs as jobs of a Slurm cluster; see conf/hydra/launcher/slurm.yaml."""

    target = "molino.sweeps.slurm.launcher.Slurm"


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for name, v in settings.items()}
