"""What Slurm says of jobs: squeue of those that wait, run or have just ended; of others sacct, where it keeps books."""

import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from molino.base.errors import ResourceError
from molino.runs.status import CANCELLED, FAILED, PENDING, RUNNING
from molino.sweeps.jobs import Submission
from molino.sweeps.scheduler import Told

SCRIPT = "job.sh"  # in a submission's folder; Slurm shows its path as the job's command
SECONDS = 60  # for an answer
# Of the words squeue(1) has for states; whatever is in neither has ended.
WAITS = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
RUNS = {
    "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT",
}  # fmt: skip
CODES = ("", "0:0")  # exit codes that tell nothing


class Silent(ResourceError):
    """Slurm does not answer; later it may."""


def ask(submissions: dict[Path, Submission]) -> dict[tuple[Path, int], Told]:
    """Return what Slurm knows of the jobs of submissions, by folder and number.

    Args:
        submissions: by folder. One that has no id, because its command was killed, is looked for by its script.

    Raises:
        ResourceError: Slurm does not answer.
    """
    folders = {submission.id: folder for folder, submission in submissions.items() if submission.id is not None}
    lost = {
        str(folder.absolute() / SCRIPT): folder for folder, submission in submissions.items() if submission.id is None
    }
    told = {}
    # Of one job alone squeue would be shocked not to find it. Others than one's own may be looked at.
    which = ["--me"] if lost else [f"--jobs={','.join([*folders, *folders])}"]
    for job, state, reason, since, command in _squeue([*which, "--states=all"], "%i|%T|%r|%S|%o"):
        base, _, index = job.partition("_")
        folder = folders.get(base) or lost.get(command)
        if folder is not None:
            told[folder, _number(index)] = _told(job, state, reason, since)
    asked = {(folder, index) for folder, each in submissions.items() for index in range(len(each.asked))}
    if folders and asked - told.keys():
        for job, state, code, since in _sacct(folders):
            base, _, index = job.partition("_")
            if base in folders and "[" not in index:
                told.setdefault((folders[base], _number(index)), _told(job, state, "", since, code))
    return told


def find(folder: Path) -> str | None:
    """Return the id of what waits or runs that was submitted from a folder, by its script; None if nothing does.

    Raises:
        ResourceError: Slurm does not answer.
    """
    for job, command in _squeue(["--me"], "%i|%o"):
        if command == str(folder.absolute() / SCRIPT):
            return job.partition("_")[0]
    return None


def settings_of_slurm() -> dict[str, str]:
    """Return the cluster's own settings, by their names.

    Raises:
        ResourceError: Slurm does not answer.
    """
    return dict(re.findall(r"^(\w+)\s+= (.*)$", answer("scontrol", "show", "config"), re.MULTILINE))


def job_now(job: str) -> dict[str, str]:
    """Return what scontrol tells of a job, by its own names; nothing where Slurm does not answer."""
    try:
        words = answer("scontrol", "show", "job", "--oneliner", job).partition("\n")[0].split()
    except ResourceError:
        return {}
    return dict(word.split("=", 1) for word in words if "=" in word)


@dataclass(frozen=True)
class Partition:
    """What some nodes of a partition have.

    Attributes:
        resources: generic ones, such as GPUs.
        minutes: the longest job; None for any.
        cpus: of a node, at least.
    """

    resources: str
    minutes: float | None
    cpus: int


def partitions() -> dict[str, list[Partition]]:
    """Return the partitions, by the kinds of their nodes; the default one also as ``.

    Raises:
        ResourceError: Slurm does not answer.
    """
    found: dict[str, list[Partition]] = {}
    for line in answer("sinfo", "--noheader", "--format=%P|%l|%c|%G").splitlines():
        name, longest, cpus, resources = line.strip().split("|", 3)
        partition = Partition(resources, _minutes(longest), int(re.match(r"\d*", cpus)[0] or 0))
        for each in {name.rstrip("*"), *([""] if name.endswith("*") else [])}:
            found.setdefault(each, []).append(partition)
    return found


def _minutes(text: str) -> float | None:
    """Return minutes that Slurm writes as days-hours:minutes:seconds; None of what has no end."""
    days, _, rest = text.rpartition("-")
    try:
        parts = [int(part) for part in rest.split(":")]
        seconds = sum(part * 60**place for place, part in enumerate(reversed(parts)))
        return int(days or 0) * 1440 + seconds / 60
    except ValueError:
        return None


def answer(*command: str) -> str:
    """Return what a program of Slurm's prints.

    Raises:
        ResourceError: it fails, is not there, or takes too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except FileNotFoundError:
        raise ResourceError(f"there is no {command[0]} here to ask Slurm with") from None
    except subprocess.TimeoutExpired:
        raise Silent(f"Slurm does not answer: {command[0]} took more than {SECONDS} seconds") from None
    if done.returncode:
        raise Silent(f"Slurm does not answer: {command[0]} says {' '.join(done.stderr.split())}")
    return done.stdout


def _squeue(which: list[str], format: str) -> Iterable[list[str]]:
    """Yield the columns of squeue, the tasks of arrays one by one. The last one may hold what parts the others."""
    for line in answer("squeue", *which, "--noheader", "--array", f"--format={format}").splitlines():
        yield line.strip().split("|", format.count("|"))


def _sacct(ids: Iterable[str]) -> Iterable[list[str]]:
    """Yield job, state, exit code and begin of what Slurm keeps books of; nothing where it keeps none."""
    wanted = ["--jobs", ",".join(ids), "--format=JobID,State,ExitCode,Start"]
    try:
        text = answer("sacct", "--noheader", "--parsable2", "--allocations", *wanted)
    except ResourceError:
        return
    for line in text.splitlines():
        yield line.split("|")


def _told(job: str, state: str, reason: str, since: str, code: str = "") -> Told:
    word = state.split()[0] if state else ""
    if word in WAITS:
        return Told(job, PENDING, "" if reason == "None" else reason)
    if word in RUNS:
        return Told(job, RUNNING, reason, since)
    if word == "CANCELLED":
        return Told(job, CANCELLED)
    if word == "COMPLETED":
        word = "COMPLETED, although its setup or template never came to molino"
    why = [word, *([f"exit code {code.partition(':')[0]}"] if code not in CODES else [])]
    return Told(job, FAILED, ", ".join(each for each in (*why, "" if reason == "None" else reason) if each))


def _number(index: str) -> int:
    return int(index) if index.isdigit() else 0
