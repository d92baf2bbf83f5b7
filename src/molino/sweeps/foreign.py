"""Molino's launchers under a sweeper that is not molino's: Hydra's plain interface."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides

from molino.base.errors import ConfigError
from molino.configuration.composer import Composer
from molino.configuration.request import Request
from molino.runs.directory import readable_name
from molino.runs.status import DONE, read_status
from molino.sweeps.devices import most_demanding


def launch(runs: Any, composer: Composer, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Train a run for each list of overrides; return what Hydra's launchers do.

    Args:
        runs: what trains them, such as molino.sweeps.local.Local.

    Raises:
        ConfigError: it does not wait for them, as other sweepers do.
    """
    if not runs.waits:
        raise ConfigError("this sweeper waits for its runs: add hydra.launcher.wait=true")
    every = [list(filter_overrides(overrides)) for overrides in job_overrides]
    requests = [composer.request(overrides, name_of(overrides)) for overrides in every]
    try:
        if not runs.ready(requests):
            return []
        runs.train(iter(requests), most_demanding(requests), len(requests))
    finally:
        runs.close()
    return [_returned(request) for request in requests]


def directory_of(hydra: Any) -> Path:
    """Return the directory of a run that a launcher of Hydra's trains. A sweeper that says none gets one named after
    the overrides."""
    subdir = str(hydra.sweep.subdir)
    return Path(str(hydra.sweep.dir)) / (name_of(list(hydra.overrides.task)) if subdir == "." else subdir)


def name_of(overrides: list[str]) -> str:
    """Return the name of a run of which nobody says what its sweep varies."""
    return readable_name([o for o in overrides if not o.lstrip("+").startswith("paths.")])


def _returned(request: Request) -> JobReturn:
    status, overrides = read_status(request.path), request.overrides
    if status.state == DONE:
        return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=status.summary[request.monitor])
    error = RuntimeError(f"{request.path}: {status.state} {status.error or ''}")
    return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)
