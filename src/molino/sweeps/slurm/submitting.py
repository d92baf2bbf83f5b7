"""From runs to jobs in Slurm's queue: arrays of runs of one shape, as large as the cluster takes them."""

import secrets
import shutil
import subprocess
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from molino.base.console import say
from molino.base.errors import ResourceError
from molino.base.files import make_directory, write_text
from molino.configuration.request import Request
from molino.sweeps.jobs import RECORD, Job, Submission, write_job, write_submission
from molino.sweeps.slurm import asking, script

# In what sbatch says when somebody has as many jobs as may be; see slurm.conf(5), sacctmgr(1).
FULL = ("submit limit", "SubmitLimit", "SubmitJobs", "MaxSubmit", "SubmitJobPer")
LOST = ("Unable to contact slurm controller", "Socket timed out")
Shape = tuple[int, int, Any]


def by_shape(requests: list[Request], launcher: Any) -> dict[Shape, list[Request]]:
    """Return runs by what they want of nodes: how many, tasks and GPUs on each."""
    shapes: dict[Shape, list[Request]] = defaultdict(list)
    for request in requests:
        tasks = request.devices if request.processes > 1 else 1
        shapes[request.nodes, tasks, gpus_of(request, launcher)].append(request)
    return shapes


def gpus_of(request: Request, launcher: Any) -> int | str | None:
    """Return how many GPUs a run wants of a node: one for each device, where nobody says how many."""
    if launcher.gpus is not None or launcher.gpus_per_task is not None or launcher.gres is not None:
        return launcher.gpus
    wants = request.accelerator == "gpu" or (request.accelerator == "auto" and launcher.has_gpus)
    return request.devices if wants else None


def options_of(requests: list[Request], launcher: Any) -> script.Options:
    """Return the options of sbatch for runs of one shape."""
    ((nodes, tasks, gpus),) = by_shape(requests, launcher)
    several = len(requests) > 1
    asked = launcher.asked() | {"gpus": gpus, "job_name": launcher.job_name or requests[0].path.parent.name[:50]}
    shape = {
        "nodes": nodes,
        "ntasks-per-node": tasks,
        "array": f"0-{len(requests) - 1}%{launcher.at_once}" if several else None,
        "signal": f"USR2@{launcher.signal_seconds}",
        # A % of the folder's own is none of Slurm's words.
        "output": str(logs_of(launcher, requests[0])).replace("%", "%%") + ("/%A_%a.log" if several else "/%j.log"),
        "open-mode": "append",
    }
    return script.sbatch_options(asked, shape, launcher.options)


def script_of(requests: list[Request], launcher: Any, folder: Path) -> str:
    """Return the batch script for runs of one shape.

    Args:
        folder: of their submission.
    """
    lines = script.directives(options_of(requests, launcher))
    template = script.read_template(launcher.template, launcher.setup)
    return script.compose(lines, launcher.setup, folder, launcher.context.folder, launcher.cpus, template)


def logs_of(launcher: Any, request: Request) -> Path:
    """Return the folder for what jobs print outside of their runs."""
    return Path(launcher.logs).expanduser().absolute() if launcher.logs else request.path.parent.absolute() / ".slurm"


def submit(requests: list[Request], launcher: Any, folder: Path, lock: int) -> tuple[list[Request], str]:
    """Submit runs; return those for which there is no place, and why, in Slurm's words.

    Args:
        folder: for submissions.
        lock: the descriptor of its lock, which whoever calls holds.

    Raises:
        ResourceError: Slurm refuses them.
    """
    left, why = [], ""
    for alike in by_shape(requests, launcher).values():
        size = min(len(alike), launcher.largest_array) if not left else 0
        while alike and size:
            if refused := _submit(alike[:size], launcher, folder, lock):
                why, size = refused, size // 2
            else:
                alike = alike[size:]
        left += alike
    return left, why


def check(requests: list[Request], launcher: Any, folder: Path) -> None:
    """Ask Slurm whether it would take runs, and submit none.

    Raises:
        ResourceError: it would not, for another reason than that there is no place now.
    """
    for alike in by_shape(requests, launcher).values():
        part = alike[: launcher.largest_array]
        done = subprocess.run(
            ["sbatch", "--test-only", *script.arguments(options_of(part, launcher))],
            input=script_of(part, launcher, folder), capture_output=True, text=True, errors="replace",
            env=script.environment(),
        )  # fmt: skip
        said = _said(done.stderr)
        if done.returncode and not any(words in said for words in FULL):
            raise ResourceError(f"Slurm refuses the jobs: {said}: those that wait stay as they are")


def _submit(requests: list[Request], launcher: Any, folder: Path, lock: int) -> str | None:
    """Submit an array; return why there is no place for it, or nothing.

    Raises:
        ResourceError: Slurm refuses it for another reason.
    """
    home = folder / secrets.token_hex(4)
    make_directory(home)
    several = len(requests) > 1
    logs = logs_of(launcher, requests[0])
    make_directory(logs, "; set hydra.launcher.logs")
    for index, request in enumerate(requests):
        write_text(home / f"{index}.yaml", request.to_text())
    write_text(home / asking.SCRIPT, script_of(requests, launcher, home.absolute()))
    asked = [request.asked for request in requests]
    submission = Submission(None, launcher.asked(), asked, several, str(logs))
    write_submission(home, submission)
    for index, request in enumerate(requests):
        make_directory(request.path)
        write_job(request.path, Job("slurm", home, index))
    # Should this process be killed, sbatch holds the lock until it has ended, and the next command finds what it did.
    told = script.arguments(options_of(requests, launcher))
    done = subprocess.run(
        ["sbatch", "--parsable", *told, str(home.absolute() / asking.SCRIPT)],
        capture_output=True, text=True, errors="replace", env=script.environment(), pass_fds=[lock],
    )  # fmt: skip
    said = _said(done.stderr)
    if any(words in said for words in LOST):
        # It may have come through: what lies here tells the next look at the queue.
        raise asking.Silent(f"Slurm does not answer: sbatch says {said}")
    number = done.stdout.strip().partition(";")[0] if done.returncode == 0 else asking.find(home)
    if not number:
        for request in requests:
            (request.path / RECORD).unlink(missing_ok=True)
        shutil.rmtree(home)
        if any(words in said for words in FULL):
            return said
        raise ResourceError(f"Slurm refuses the jobs: {said}: see hydra.launcher.*")
    write_submission(home, replace(submission, id=number))
    say(
        f"submitted {len(requests)} run{'s' * several} as Slurm job {number}"
        + (f" ({said})" if done.stderr.strip() else "")
    )
    return None


def _said(text: str) -> str:
    """Return what sbatch says, in a line."""
    return " ".join(text.replace("sbatch: error:", "").split()) or "sbatch says nothing"
