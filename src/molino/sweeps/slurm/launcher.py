"""`hydra/launcher=slurm`: a job of a Slurm cluster for each run, submitted as arrays.

A job that runs out of time gets SIGUSR2, one that is to give way SIGTERM: the run saves, Slurm queues the job again, it
goes on in the same directory (molino.sweeps.slurm.inside). The number of tasks follows from the run's devices.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from molino.base.console import say
from molino.base.files import lock, make_directory
from molino.configuration.request import Request
from molino.runs.status import CANCELLED, DONE, PENDING, RUNNING, Status, read_status
from molino.sweeps.attempt import Context
from molino.sweeps.display import Display
from molino.sweeps.jobs import Job, Submission, read_job, read_submission
from molino.sweeps.scheduler import drive
from molino.sweeps.slurm import checks, submitting
from molino.sweeps.slurm.asking import Silent, answer
from molino.sweeps.standing import settled

FOLDER = ".slurm"  # in a sweep's directory: a folder for each submission, and the lock of whoever submits
# Settings that say how a command submits, and nothing of the job.
OF_COMMAND = ("context", "wait", "retry", "print", "at_once")
# Seconds between two looks at the queue: often at first, then as seldom as a cluster's administrator would like.
SOON, SELDOM = 2.0, 30.0


@dataclass
class Slurm:
    """Submits runs as jobs; conf/hydra/launcher/slurm.yaml tells what each setting means.

    Attributes:
        context: of the sweep.
    """

    context: Context
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    reservation: str | None = None
    comment: str | None = None
    job_name: str | None = None
    minutes: int = 60
    cpus: int = 2
    memory: float | None = None
    memory_per_cpu: float | None = None
    memory_per_gpu: float | None = None
    gpus: int | str | None = None
    gpus_per_task: int | str | None = None
    gres: str | None = None
    mail_user: str | None = None
    mail_type: str | None = None
    signal_seconds: int = 120
    requeues: int = 20
    deaths: int = 3
    at_once: int = 256
    wait: bool = False
    retry: str | None = None
    print: bool = False
    logs: str | None = None
    setup: list | None = None
    srun: list | None = None
    template: str | None = None
    options: dict | None = None
    # What is no setting: whether Slurm takes no more, and that was said; whether it is silent; when there were news;
    # where runs stood; how many are to be there at a time.
    full: bool = field(default=False, init=False)
    told: bool = field(default=False, init=False)
    silent: bool = field(default=False, init=False)
    news: float = field(default=0.0, init=False)
    known: dict[Path, Status] = field(default_factory=dict, init=False)
    most: int | None = field(default=None, init=False)
    # Of the cluster; see `ready`.
    largest_array: int = field(default=1, init=False)
    has_gpus: bool = field(default=False, init=False)

    one_by_one, distributes, scheduler = True, True, "slurm"

    def __post_init__(self):
        self.setup, self.srun, self.options = self.setup or [], self.srun or [], self.options or {}
        checks.check_settings(self)

    @property
    def waits(self) -> bool:
        return self.wait

    def asked(self) -> dict[str, Any]:
        """Return what is asked of a job, for the record."""
        return {
            each.name: getattr(self, each.name) for each in fields(self) if each.init and each.name not in OF_COMMAND
        }

    def ready(self, requests: list[Request]) -> bool:
        """Check all that can be checked before anything is submitted, and prepare what the runs need; tell whether they
        are to be trained, and not only shown.

        Raises:
            ConfigError, DataError, ResourceError, CheckpointError: something is wrong with one of them.
        """
        checks.check_cluster(self, requests)
        if self.print:
            folder = requests[0].path.parent.absolute() / FOLDER / "<submission>"
            for alike in submitting.by_shape(requests, self).values():
                print(submitting.script_of(alike, self, folder))
            return False
        self.context.prepare([request for request in requests if not self._has_job(request)])
        return True

    def train(self, requests: Iterator[Request], largest: Request, count: int, at_once: int | None = None) -> None:
        """Submit the runs but for those that Slurm has already; where asked to, wait for all of them to end.

        Args:
            at_once: how many Slurm is to have at a time; None for all it takes.
        """
        self.most, held = at_once, []
        try:
            with Display(count, self.look) as display:
                for _ in drive(self, requests, display, held):
                    if not self.wait:
                        return
        except KeyboardInterrupt:
            say("the jobs go on; squeue --me shows them, scancel ends them")
            raise

    def close(self) -> None:
        """Jobs need nobody."""

    def room(self, held: int) -> int:
        return 0 if self.full else (self.most or held + checks.MOST_RUNS) - held

    def submit(self, requests: list[Request]) -> list[Request]:
        """Submit runs, but for those that Slurm has; return those that it has no place for."""
        folder = requests[0].path.parent / FOLDER
        make_directory(folder)
        try:
            with lock(folder / "lock") as held:
                self.known |= settled(request.path for request in requests)
                new = self._new(requests)
                left, why = submitting.submit(new, self, folder, held)
        except Silent as error:
            if not self.wait:
                raise
            self._remark(error)
            self.full = True
            return requests
        refused = {request.path for request in left}
        self.known |= {request.path: Status(PENDING) for request in new if request.path not in refused}
        self.full = bool(left)
        if left and not (self.wait and self.told):
            self.told = True
            later = "give the command again for them, or add hydra.launcher.wait=true"
            rest = "they follow as others end" if self.wait else later
            say(f"{len(left)} runs are left, for which Slurm has no place now ({why}): {rest}")
        return left

    def ask(self, held: list[Request], display: Display) -> list[Request]:
        pause = min(max((time.monotonic() - self.news) / 10, SOON), SELDOM) if self.news else SOON
        until = time.monotonic() + pause
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 1.0))
            # What has ended well needs nobody to be asked.
            if any((request.path / "summary.json").is_file() for request in held):
                break
        try:
            now = settled(request.path for request in held)
        except Silent as error:
            self._remark(error)
            return []
        self.silent = False
        if not self.news or any(now[path].state != self.known[path].state for path in now if path in self.known):
            self.news = time.monotonic()
        self.known |= now
        ended = [request for request in held if now[request.path].state not in (PENDING, RUNNING)]
        # Others may have left places that one held none of.
        self.full = self.full and bool(held) and not ended
        return ended

    def _remark(self, error: Silent) -> None:
        """Say once that Slurm does not answer."""
        if not self.silent:
            say(f"{error}: it is asked again until it does")
        self.silent = True

    def cancel(self, held: list[Request], number: int | None = None) -> None:
        """Have Slurm end jobs that wait; where a signal is named also those that run."""
        if jobs := [name for request in held if (name := _name(request.path))]:
            answer("scancel", *([] if number else ["--state=PENDING"]), *jobs)

    def look(self, run: Path) -> Status:
        """Return where a run stood when Slurm was asked last."""
        return self.known.get(run) or read_status(run)

    def _new(self, requests: list[Request]) -> list[Request]:
        """Return the runs that are to be submitted: of those that wait with other settings the jobs are cancelled."""
        states = (PENDING, RUNNING, CANCELLED)
        of = {state: [each for each in requests if self.known[each.path].state == state] for state in states}
        corrected = self._withdraw([request for request in of[PENDING] if self._corrected(request)])
        there = {request.path for request in (*of[PENDING], *of[RUNNING])} - corrected
        if there:
            say(f"{len(there)} runs are in Slurm's queue already, or are being trained")
        # What has ended since it was looked for is no more to do either.
        there |= {request.path for request in requests if self.known[request.path].state == DONE}
        stay = {request.path for request in of[CANCELLED] if self.retry != CANCELLED}
        if stay:
            say(f"{len(stay)} runs were cancelled, and stay so: add hydra.launcher.retry=cancelled to train them")
        return [request for request in requests if request.path not in there | stay]

    def _withdraw(self, requests: list[Request]) -> set[Path]:
        """Cancel jobs that wait; return the directories of the runs for which that was not too late."""
        if not requests:
            return set()
        submitting.check(requests, self, requests[0].path.parent / FOLDER)
        self.cancel(requests)
        still = settled(request.path for request in requests)
        self.known |= still
        withdrawn = {request.path for request in requests if still[request.path].state != RUNNING}
        say(f"{len(withdrawn)} runs that wait are submitted anew, with what is said now")
        return withdrawn

    def _has_job(self, request: Request) -> bool:
        """Tell whether a job that is not known to have ended is to train just this."""
        job, submission = _submitted(request.path)
        return submission is not None and job.ended is None and submission.asked[job.index] == request.asked

    def _corrected(self, request: Request) -> bool:
        """Tell whether a run waits with other settings than are asked for now."""
        job, submission = _submitted(request.path)
        return submission is not None and (
            submission.settings != self.asked()
            or submission.asked[job.index] != request.asked
            or submission.logs != str(submitting.logs_of(self, request))  # its folder has moved
        )


def _submitted(run: Path) -> tuple[Job | None, Submission | None]:
    """Return the job that a run was given last, and what was submitted with it."""
    job = read_job(run)
    submission = read_submission(job.submission) if job else None
    there = submission is not None and 0 <= job.index < len(submission.asked)
    return (job, submission) if there else (None, None)


def _name(run: Path) -> str | None:
    """Return what Slurm calls the job of a run."""
    job, submission = _submitted(run)
    return submission.job(job.index) if submission else None
