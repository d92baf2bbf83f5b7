"""Every combination of the values listed: what `-m` does unless another sweeper is named."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from molino.base.errors import ConfigError
from molino.configuration.build import construct_arguments
from molino.configuration.composer import Composer
from molino.sweeps.launchers import make_launcher
from molino.sweeps.ledger import conclude, launch_all, left, place, record
from molino.sweeps.plan import (
    called,
    combine,
    every_case,
    parse,
    parse_cases,
    run_name,
    split,
    sweep_names,
    told,
    varied,
)


@dataclass(frozen=True)
class Grid:
    """The settings of this sweeper.

    Attributes:
        attempts: how often a run may fail before it is given up.
        params: settings to vary beside those that were typed.
        cases: what is varied together: of each name its cases, and of each case the settings, separated by spaces.
        without: cases that do not go together, each a dict of some names and their cases.
    """

    attempts: int = 3
    params: dict | None = None
    cases: dict | None = None
    without: list | None = None

    def __post_init__(self):
        if self.attempts < 1:
            raise ConfigError(f"hydra.sweeper.attempts={self.attempts} must be at least 1")
        if not all(isinstance(each, dict) and each for each in self.without or ()):
            raise ConfigError("hydra.sweeper.without must be a list of cases, such as [{set: CoLA, method: small}]")


def sweep(context: Any, task: Any, config: DictConfig, arguments: list[str], settings: dict[str, Any]) -> None:
    """Train what is left of a sweep.

    Args:
        context: Hydra's.
        task: what Hydra calls with a composed configuration; its `run` trains one run.
        config: the configuration that was composed of the sweep's command.
        arguments: the settings that were typed.
        settings: of the sweeper; see Grid.

    Raises:
        ConfigError, CheckpointError, HydraException: the sweep makes no sense; nothing was trained.
        SweepFailed: some runs failed.
    """
    grid = Grid(**construct_arguments(Grid, settings, "hydra.sweeper"))
    overrides = parse(arguments, grid.params, context.config_loader)
    swept, fixed = split(overrides)
    cases = parse_cases(grid.cases)
    directory = place(config, sweep_names([*swept, *cases], [*fixed, *told(cases)]))
    composer = Composer(context.config_loader, config)
    # Of values listed twice there is one run.
    telling = [*swept, *cases]
    found = [
        composer.request(
            [*each, *settings, *called(names)],
            run_name([*names, *each], telling),
            varied([*names, *each], telling),
        )
        for each in combine(overrides)
        for names, settings in every_case(cases, grid.without or ())
    ]
    requests = list({request.path: request for request in found}.values())
    launcher = make_launcher(context, task, config, requests)
    try:
        pending = left(requests, grid.attempts, launcher)
        if pending and not launcher.ready(pending):
            return
        record(pending)
        launch_all(launcher, pending)
    finally:
        launcher.close()
    conclude(requests, directory, launcher)
