"""What a job does: `python -m molino.sweeps.slurm.inside <folder of its submission>`.

It stands between the batch script and the processes of the run, which srun starts on all nodes: hears how each of them
ended, and has Slurm queue the job again where the run can go on. It loads no torch, and outlives whatever they die of.
"""

import os
import platform
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from molino.base.console import say
from molino.base.files import is_locked
from molino.base.processes import HANDED, slurm_job
from molino.configuration.request import Request
from molino.runs.directory import LOCK, is_done
from molino.runs.status import CANCELLED, FAILED, Status, cut_off, fail, read_status
from molino.sweeps.attempt import LOG
from molino.sweeps.jobs import Job, read_job, read_request, read_submission, write_job
from molino.sweeps.slurm.asking import job_now

# What srun says of tasks that did not end well, such as "srun: error: node2: tasks 1,3: Killed".
ENDED = re.compile(r"srun: error: (?P<node>[^ :]+): tasks? (?P<tasks>[\d,-]+): (?P<how>.*)")
EXITED = re.compile(r"Exited with exit code (\d+)")
SAVED = {128 + number: number for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)}
# The same signals end a process that has not begun to train.
UNHEARD = {signal.strsignal(number): number for number in SAVED.values()}
# Why a run was told to save, beside CANCELLED.
TIME, GIVES_WAY, REQUEUED = "ran out of time", "gives way to another job", "queued again by somebody"
LABELLED = re.compile(r"^ *(\d+): ?(.*)$", re.DOTALL)


@dataclass
class Heard:
    """What came of the processes of a run.

    Attributes:
        status: the exit status of srun.
        first: the process that ended first of those that did not end well, on which node and how; None if all did.
        last: the last line of each process that said something.
        refused: why srun has started none of them.
    """

    status: int = 0
    first: tuple[int, str, str] | None = None
    last: dict[int, str] = field(default_factory=dict)
    refused: str = ""

    @property
    def saved(self) -> int | None:
        """The signal upon which the run saved, if it had begun, and ended."""
        how = self.first[2] if self.first else ""
        code = EXITED.match(how)
        return SAVED.get(int(code[1])) if code else UNHEARD.get(how)

    @property
    def died(self) -> str | None:
        """Which process was ended from outside, and how; None where none was."""
        if self.first is None or self.saved is not None or EXITED.match(self.first[2]):
            return None
        task, node, how = self.first
        return f"process {task} on {node} was ended: {how}"


def main(folder: str) -> int:
    """Train the run of this job, and see to what comes next."""
    submission = read_submission(Path(folder))
    index = int(os.environ.get("SLURM_ARRAY_TASK_ID", 0)) if submission.array else 0
    told: list[int] = []
    for number in SAVED.values():
        signal.signal(number, lambda number, frame: told.append(number))
    request = read_request(Job("slurm", Path(folder), index))
    job = read_job(request.path)
    if job is None or (job.submission.name, job.index) != (Path(folder).name, index):
        say(f"{request.path} has been given to another job: nothing is left to do here")
        return 0
    if is_done(request.path):
        write_job(request.path, job, began=True, ended="done")
        return 0
    job = write_job(request.path, job, began=True, ended=None)
    before = read_status(request.path)
    heard = train(request, submission.settings)
    if heard.first is None and signal.SIGTERM in told:
        # Told to end as well, srun waits for its processes for five seconds. They have longer, and are saving.
        while is_locked(request.path / LOCK):
            time.sleep(0.2)
        heard.first = 0, platform.node(), f"Exited with exit code {128 + signal.SIGTERM}"
    return after(request, job, heard, before, submission.settings)


def train(request: Request, settings: dict[str, Any]) -> Heard:
    """Have srun start the processes of a run; return what came of them."""
    several = request.processes > 1
    # Each process chooses among all the GPUs of its node by its number there.
    unbound = ["--gpu-bind=none"] if settings["gpus_per_task"] is not None else []
    command = [
        "srun", "--kill-on-bad-exit=1", "--export=ALL", f"--cpus-per-task={settings['cpus']}",
        *(["--label"] if several else []), *unbound, *settings["srun"],
        sys.executable, "-m", "molino", "train", *request.overrides,
    ]  # fmt: skip
    environment = os.environ | {HANDED: request.to_text(), "PYTHONUNBUFFERED": "1"}
    request.path.mkdir(parents=True, exist_ok=True)
    heard = Heard()
    with (request.path / LOG).open("ab") as log:
        run = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
        )
        for line in run.stdout:
            log.write(_hear(line.decode(errors="replace"), heard, several).encode())
            log.flush()
        heard.status = run.wait()
    return heard


def _hear(line: str, heard: Heard, several: bool) -> str:
    """Note what a line says of the end of processes; return it as a log has it."""
    if ended := ENDED.match(line):
        first = int(re.split("[,-]", ended["tasks"])[0])
        heard.first = heard.first or (first, ended["node"], ended["how"].strip())
        return line
    if line.startswith("srun: "):
        heard.refused = heard.refused or line.strip()
        return line
    task, text = 0, line
    if several and (labelled := LABELLED.match(line)):
        task, text = int(labelled[1]), labelled[2]
    if text.strip():
        heard.last[task] = text.strip()
    return text if task == 0 else f"[{task}] {text}"


def after(request: Request, job: Job, heard: Heard, before: Status, settings: dict[str, Any]) -> int:
    """Record what became of the run, or have its job queued again; return the exit status of the job."""
    run = request.path
    if is_done(run):
        write_job(run, job, ended="done")
        return 0
    if heard.saved is not None:
        why = why_ended() if heard.saved == signal.SIGTERM else TIME
        if why == CANCELLED:
            cut_off(run, "its job was cancelled", before.failures)
            write_job(run, job, ended=CANCELLED)
        elif why != REQUEUED:
            # Those that give way may do so as often as they must.
            timeouts = job.timeouts + (why == TIME)
            often = f"ran out of time{_often(timeouts)} (hydra.launcher.requeues={settings['requeues']})"
            job = write_job(run, job, timeouts=timeouts)
            _again(request, job, timeouts <= settings["requeues"], often if why == TIME else why, before)
    elif heard.died is not None:
        deaths = job.deaths + 1
        cut_off(run, heard.died, before.failures)
        why = f"lost a process{_often(deaths)} (hydra.launcher.deaths={settings['deaths']}), last: {heard.died}"
        _again(request, write_job(run, job, deaths=deaths), deaths <= settings["deaths"], why, before)
    else:
        _failed(run, heard, before)
        write_job(run, job, ended=FAILED)
    return heard.status


def _often(times: int) -> str:
    return f" {times} times" if times > 1 else ""


def _again(request: Request, job: Job, allowed: bool, why: str, before: Status) -> None:
    """Have the job queued again, or record why it is not."""
    run = request.path
    if allowed:
        done = subprocess.run(["scontrol", "requeue", slurm_job()], capture_output=True, text=True)
        if done.returncode == 0:
            say(f"job {slurm_job()} is queued again: {why}")
            return
        why = f"{why}; Slurm does not queue it again: {' '.join(done.stderr.split())}"
    cut_off(run, f"{why}: give the command again to go on", before.failures)
    write_job(run, job, ended="given up")


def _failed(run: Path, heard: Heard, before: Status) -> None:
    """Record a failure that the run itself has not, or of which it knows only an echo."""
    status = read_status(run)
    task = heard.first[0] if heard.first else 0
    told = status.state == FAILED and status.failures > before.failures
    if task != 0:
        reason = f"process {task} on {heard.first[1]} failed first: {heard.last.get(task, heard.first[2])}"
        if told:
            cut_off(run, reason, before.failures)
        fail(run, reason)
    elif heard.status and not told and status.state != "running":
        said = heard.refused if heard.refused and heard.first is None else heard.last.get(0, "")
        fail(run, f"its process ended with status {heard.status}: {said}: see {run / LOG}")


def why_ended() -> str:
    """Return why this job was sent SIGTERM.

    Slurm would queue one again that gives way at the end of the time of grace, but only if it were still there. A job
    that its owner cancels gets the same signal, and would come back from a requeue.
    """
    shown = job_now(slurm_job())
    if int(shown.get("Restarts", 0)) > int(os.environ.get("SLURM_RESTART_COUNT", 0)):
        return REQUEUED
    if shown.get("Reason") == "TimeLimit":
        return TIME
    if shown.get("JobState") in ("RUNNING", "SIGNALING") and shown.get("PreemptTime", "None") != "None":
        return GIVES_WAY
    return CANCELLED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
