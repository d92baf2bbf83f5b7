"""What a run's directory knows of the job that has it: `job.json`, and the folder of the submission that it names.

A submission's folder is written before the scheduler is asked for anything, and the scheduler knows a job by the script
that lies there. So a command that is killed while it submits neither submits again nor loses what it submitted.
"""

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from molino.base.files import read_text, write_text
from molino.configuration.request import Request

RECORD = "job.json"  # in a run directory
SUBMISSION = "submission.json"  # in a submission's folder


@dataclass(frozen=True)
class Job:
    """A run's job.

    Attributes:
        scheduler: which one has it.
        submission: the folder of what was submitted with it.
        index: its number there.
        began: whether it came as far as molino's own first line.
        ended: how it ended for good; None before that, and where nobody could tell.
        timeouts, deaths: how often it ran out of time, and lost a process.
    """

    scheduler: str
    submission: Path
    index: int
    began: bool = False
    ended: str | None = None
    timeouts: int = 0
    deaths: int = 0

    @property
    def request(self) -> Path:
        """The file with what the job is to train."""
        return self.submission / f"{self.index}.yaml"


@dataclass(frozen=True)
class Submission:
    """What was submitted together.

    Attributes:
        id: what the scheduler calls it; None while it has not answered.
        settings: of the launcher.
        asked: of each run, by its index, what was asked for; see Request.asked.
        array: whether its jobs are numbered.
        logs: the folder for what they print outside of their runs.
    """

    id: str | None
    settings: dict[str, Any]
    asked: list[str]
    array: bool
    logs: str

    def job(self, index: int) -> str | None:
        """Return what the scheduler calls a job."""
        return f"{self.id}_{index}" if self.array and self.id else self.id

    def log(self, index: int) -> Path:
        """Return the file for what a job prints outside of its run."""
        return Path(self.logs) / f"{self.job(index)}.log"


def read_job(run: Path) -> Job | None:
    """Return the job that a run was given last; None of one that has had none, or whose record is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(read_text(run / RECORD))
        # Folders move together.
        job = Job(**content | {"submission": run.parent / content["submission"]})
        texts, numbers = (job.scheduler, job.ended or ""), (job.index, job.timeouts, job.deaths)
        if all(isinstance(each, str) for each in texts) and all(isinstance(each, int) for each in numbers):
            return job
    return None


def write_job(run: Path, job: Job, **changed: Any) -> Job:
    """Record a run's job, with some values changed."""
    job = replace(job, **changed)
    place = job.submission.relative_to(run.parent)
    write_text(run / RECORD, json.dumps(asdict(job) | {"submission": str(place)}, indent=2) + "\n")
    return job


def read_submission(folder: Path) -> Submission | None:
    """Return what was submitted from a folder; None where that is not to be read."""
    with suppress(OSError, ValueError, TypeError):
        submission = Submission(**json.loads(read_text(folder / SUBMISSION)))
        sound = submission.id is None or re.fullmatch(r"\w[\w.]*", submission.id)
        kinds = {"settings": dict, "asked": list, "array": bool, "logs": str}
        if sound and all(isinstance(getattr(submission, name), kind) for name, kind in kinds.items()):
            return submission
    return None


def write_submission(folder: Path, submission: Submission) -> None:
    """Record what was submitted from a folder."""
    write_text(folder / SUBMISSION, json.dumps(asdict(submission), indent=2) + "\n")


def read_request(job: Job) -> Request:
    """Return what a job is to train."""
    return Request.from_text(read_text(job.request))
