"""Where runs stand: the one place that asks both their directories and whatever schedules them.

Nothing waits that the scheduler does not know, and what ended before molino's own first line has failed. Sweeps given
again, `wait=true`, searches, `molino results` and Python's list of runs all ask here.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from molino.base.errors import CheckpointError, ResourceError
from molino.runs.status import CANCELLED, CUT_OFF, DONE, FAILED, PENDING, RUNNING, Status, fail, read_statuses
from molino.sweeps.jobs import (
    RECORD,
    SUBMISSION,
    Job,
    Submission,
    read_job,
    read_submission,
    write_job,
    write_submission,
)
from molino.sweeps.scheduler import Told
from molino.sweeps.slurm import asking

Asked = Callable[[dict[Path, Submission]], dict[tuple[Path, int], Told]]
# By the name of a scheduler: what tells of the jobs of submissions, each by its folder and number, what it knows.
ASKED: dict[str, Asked] = {"slurm": asking.ask}
UNKNOWN = ""
RETRY = "hydra.launcher.retry=cancelled submits it again"
LONGEST_LINE = 300  # characters of a log in an error


def statuses(runs: Iterable[Path], surely: bool = False) -> dict[Path, Status]:
    """Return where runs stand.

    Args:
        surely: a scheduler that does not answer is an error, not a remark.

    Raises:
        ResourceError: as above.
    """
    return {run: status for run, (status, _) in _look(runs, surely).items()}


def settled(runs: Iterable[Path]) -> dict[Path, Status]:
    """Return where runs stand, and record in their directories how those jobs ended that could not tell.

    Raises:
        ResourceError: a scheduler does not answer.
        CheckpointError: the record of a job is damaged.
    """
    found = {}
    for run, (status, job) in _look(runs, surely=True).items():
        if job is not None and (submission := read_submission(job.submission)).id is None:
            # Its command was killed before it could say so.
            write_submission(job.submission, replace(submission, id=status.job.partition("_")[0]))
        if job is not None and job.ended is None and status.state in (CANCELLED, FAILED, CUT_OFF):
            if status.state == FAILED and not job.began:
                fail(run, status.error or "")
                status = replace(status, failures=status.failures + 1)
            write_job(run, job, ended=status.state)
        found[run] = status
    return found


def end_of(log: Path | None, lines: int = 10) -> list[str]:
    """Return the last lines of a log that say something; none of one that is not there."""
    with suppress(OSError):
        if log is not None:
            text = log.read_bytes()[-20_000:].decode(errors="replace")
            return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
    return []


def _look(runs: Iterable[Path], surely: bool) -> dict[Path, tuple[Status, Job | None]]:
    found = read_statuses(runs)
    jobs = {run: job for run, status in found.items() if status.state != DONE and (job := read_job(run))}
    known = {folder: read_submission(folder) for folder in {job.submission for job in jobs.values()}}
    told, silent = _ask(jobs.values(), known, surely)
    known |= {folder: replace(known[folder], id=says.job.partition("_")[0]) for (folder, _), says in told.items()}
    looked: dict[Path, tuple[Status, Job | None]] = {}
    for run, status in found.items():
        job = jobs.get(run)
        damaged = _damaged(run, job, known) if status.state != DONE else None
        if damaged is not None and not surely:
            looked[run] = replace(status, state=UNKNOWN, reason=f"{damaged} is damaged or gone"), None
            continue
        if damaged is not None:
            raise CheckpointError(
                f"{damaged} is damaged or gone: whether {run.name} has a job only squeue --me tells; end it with "
                f"scancel, if there is one, and delete {run / RECORD}"
            )
        submission = known[job.submission] if job else None
        if job is None or submission is None or submission.id is None:
            looked[run] = status, None  # a submission that nobody has received
            continue
        status = replace(status, job=submission.job(job.index), log=submission.log(job.index))
        says = told.get((job.submission, job.index))
        looked[run] = _stand(status, job, says, silent.get(job.scheduler)), job
    return looked


def _damaged(run: Path, job: Job | None, known: dict[Path, Submission | None]) -> Path | None:
    """Return the record of a run's job that cannot be read, or of one that has not ended and is gone."""
    if job is None:
        return run / RECORD if (run / RECORD).is_file() else None
    return job.submission / SUBMISSION if known[job.submission] is None and job.ended is None else None


def _ask(
    jobs: Iterable[Job], known: dict[Path, Submission | None], surely: bool
) -> tuple[dict[tuple[Path, int], Told], dict[str, str]]:
    """Return what schedulers say of jobs, and why those are silent that are."""
    told, silent = {}, {}
    those: dict[str, dict[Path, Submission]] = defaultdict(dict)
    for job in jobs:
        # What has ended for good is not asked for again.
        if job.ended is None and job.scheduler in ASKED and (submission := known[job.submission]) is not None:
            those[job.scheduler][job.submission] = submission
    for scheduler, submissions in those.items():
        try:
            told |= ASKED[scheduler](submissions)
        except ResourceError as error:
            if surely:
                raise
            silent[scheduler] = str(error)
    return told, silent


def _stand(status: Status, job: Job, told: Told | None, silent: str | None) -> Status:
    """Return where a run stands that has a job."""
    if status.state == RUNNING:
        return replace(status, reason=f"since {told.since}" if told and told.since else "")
    if job.ended is not None:
        return replace(status, state=CANCELLED, reason=RETRY) if job.ended == CANCELLED else status
    if silent is not None:
        return replace(status, state=UNKNOWN, reason=silent)
    if told is not None and told.state in (PENDING, RUNNING):
        reason = told.reason if told.state == PENDING else f"since {told.since}"
        return replace(status, state=told.state, reason=reason, error=None)
    if told is not None and told.state == CANCELLED:
        return replace(status, state=CANCELLED, reason=RETRY)
    how = f"ended ({told.reason})" if told is not None else "is gone from the queue"
    if job.began:
        # Its node died, or it was killed with all that was in it.
        return status if status.state == FAILED else replace(status, state=CUT_OFF, error=f"job {status.job} {how}")
    said = end_of(status.log, lines=1)
    if told is None and not said:
        return replace(status, state=CANCELLED, reason=f"it has left the queue without a trace; {RETRY}")
    last = f": {said[0][:LONGEST_LINE]}" if said else ""
    return replace(status, state=FAILED, error=f"job {status.job} {how} before molino began{last}: see {status.log}")
