"""Every combination of the values listed: what `-m` does unless another sweeper is named."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from molino.base.errors import ConfigError
from molino.configuration.build import build
from molino.sweeps.ledger import check_launcher, close, conclude, launch_all, make_launcher, place, queue
from molino.sweeps.plan import Composer, combine, parse, run_name, split, sweep_name


@dataclass(frozen=True)
class Grid:
    """The settings of this sweeper.

    Attributes:
        attempts: how often a run may fail before it is given up.
        params: settings to vary beside those that were typed.
    """

    attempts: int = 3
    params: dict | None = None

    def __post_init__(self):
        if self.attempts < 1:
            raise ConfigError(f"hydra.sweeper.attempts={self.attempts} must be at least 1")


def sweep(
    context: Any, task_function: Callable[..., Any], config: DictConfig, arguments: list[str], settings: dict[str, Any]
) -> None:
    """Train what is left of a sweep.

    Args:
        context: Hydra's.
        config: the configuration that was composed of the sweep's command.
        arguments: the settings that were typed.
        settings: of the sweeper; see Grid.

    Raises:
        ConfigError, CheckpointError, HydraException: the sweep makes no sense; nothing was trained.
        SweepFailed: some runs failed.
    """
    grid: Grid = build({"_target_": "molino.sweeps.grid.Grid", **settings}, "hydra.sweeper")
    overrides = parse(arguments, grid.params, context.config_loader)
    swept, fixed = split(overrides)
    directory = place(config, sweep_name(swept, fixed))
    composer = Composer(context.config_loader, config)
    # Of values listed twice there is one run.
    jobs = list(
        {run.path: run for run in (composer.job(each, run_name(each, swept)) for each in combine(overrides))}.values()
    )
    launcher = make_launcher(context, task_function, config)
    check_launcher(jobs, launcher)
    try:
        launch_all(launcher, queue(jobs, grid.attempts, composer))
    finally:
        close(launcher)
    conclude(jobs, directory, launcher)
