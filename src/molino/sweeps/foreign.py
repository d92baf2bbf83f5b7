"""Molino's launchers under a sweeper that is not molino's: Hydra's plain interface."""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides

from molino.runs.directory import readable_name
from molino.runs.status import DONE, read_status
from molino.sweeps.devices import most_demanding
from molino.sweeps.plan import Composer


def launch(runs: Any, job_overrides: Sequence[Sequence[str]]) -> list[JobReturn]:
    """Train a run for each list of overrides; return what Hydra's launchers do.

    Args:
        runs: what trains them, such as molino.sweeps.local.Local.
    """
    composer = Composer(runs.context.hydra.config_loader, runs.context.config)
    jobs = []
    for overrides in job_overrides:
        own = [o for o in filter_overrides(overrides) if not o.lstrip("+").startswith("paths.")]
        jobs.append(composer.job(list(filter_overrides(overrides)), readable_name(own)))
    try:
        runs.train(iter(jobs), most_demanding(jobs), len(jobs))
    finally:
        runs.close()
    return [_returned(job.path, list(job.overrides)) for job in jobs]


def _returned(path: Any, overrides: list[str]) -> JobReturn:
    status = read_status(path)
    if status.state == DONE:
        return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=status.summary["val/loss"])
    error = RuntimeError(f"{path}: {status.state} {status.error or ''}")
    return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)
