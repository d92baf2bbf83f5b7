"""`hydra/launcher=slurm`: a job of a Slurm cluster for each run, submitted as arrays by submitit.

A job that is to give way or runs out of time gets SIGUSR2: the run saves, and submitit has Slurm queue the job again,
which goes on in the same directory. The number of tasks follows from the run's devices, so that Lightning finds the
processes of a distributed run already started.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molino.base.console import say
from molino.base.errors import ConfigError, ResourceError
from molino.base.files import write_text
from molino.configuration.request import Request
from molino.runs.status import QUEUED, fail, read_status
from molino.sweeps.attempt import Context
from molino.sweeps.display import Display

RECORD = "slurm.json"  # in a run directory: its job
FOLDER = ".slurm"  # in a sweep's directory: what submitit sends to the jobs, and what they print
LARGEST_ARRAY = 1000  # Slurm's own default is 1001
SECONDS_BETWEEN_LOOKS = 2.0


@dataclass
class Slurm:
    """Submits runs as jobs.

    Attributes:
        context: of the sweep.
        partition, account, qos: as sbatch takes them; None: the cluster's default.
        minutes: time limit of a job.
        gpus: per node; None: one for each device of runs with hardware.accelerator=gpu.
        cpus: of each process.
        memory: per node, in GB; None: the cluster's default.
        signal_seconds: how long before the time limit a run is told to save.
        requeues: how often a run may run out of time.
        at_once: jobs of an array that may run at the same time.
        wait: stay and show how far the runs are until all have ended, or return when they are submitted.
        setup: shell commands before the run.
        options: further options of sbatch, such as {constraint: a100}.
    """

    context: Context
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    minutes: int = 60
    gpus: int | None = None
    cpus: int = 2
    memory: float | None = None
    signal_seconds: int = 120
    requeues: int = 20
    at_once: int = 256
    wait: bool = False
    setup: list | None = None
    options: dict | None = None

    def __post_init__(self):
        for name in ("minutes", "cpus", "signal_seconds", "at_once"):
            if getattr(self, name) < 1:
                raise ConfigError(f"hydra.launcher.{name}={getattr(self, name)} must be at least 1")
        if missing := [program for program in ("sbatch", "squeue", "scontrol") if shutil.which(program) is None]:
            raise ResourceError(
                f"hydra/launcher=slurm needs Slurm, but there is no {missing[0]} here: run this on a login node of the "
                "cluster (Debian: apt install slurm-client), or choose hydra/launcher=local"
            )
        try:
            import submitit  # noqa: F401
        except ImportError as error:
            raise ResourceError("hydra/launcher=slurm needs submitit: pip install submitit") from error

    one_by_one, distributes = False, True  # submits all it is given

    @property
    def waits(self) -> bool:
        return self.wait

    def train(self, requests: Iterator[Request], largest: Request, count: int) -> None:
        """Submit the runs but for those in the queue already; where asked to, wait for all of them to end."""
        queued = queue_of_slurm()
        waiting = [request for request in requests if recorded(request) not in queued]
        if len(waiting) < count:
            say(f"{count - len(waiting)} runs are in Slurm's queue already")
        for first in range(0, len(waiting), LARGEST_ARRAY):
            self._submit(waiting[first : first + LARGEST_ARRAY])
        if self.wait:
            self._watch(waiting)

    def close(self) -> None:
        """Jobs need nobody."""

    def _submit(self, requests: list[Request]) -> None:
        """Submit an array for all runs of the same shape."""
        shapes = defaultdict(list)
        for request in requests:
            gpus = self.gpus if self.gpus is not None else request.devices * (request.accelerator == "gpu")
            shapes[request.nodes, request.devices if request.processes > 1 else 1, gpus].append(request)
        for (nodes, tasks, gpus), alike in shapes.items():
            executor = self._executor(alike[0].path.parent / FOLDER, nodes, tasks, gpus)
            submitted = _map(executor, Job(self.context), alike)
            for request, slurm_job in zip(alike, submitted, strict=True):
                write_text(request.path / RECORD, json.dumps({"job": slurm_job.job_id}) + "\n")
            say(f"submitted {len(alike)} runs as Slurm job {submitted[0].job_id.partition('_')[0]}")

    def _executor(self, folder: Path, nodes: int, tasks: int, gpus: int) -> Any:
        import submitit

        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=self.requeues)
        options = {"requeue": True, **(self.options or {})}
        parameters = {
            "name": folder.parent.name[:50],
            "timeout_min": self.minutes,
            "nodes": nodes,
            "tasks_per_node": tasks,
            "cpus_per_task": self.cpus,
            "mem_gb": self.memory,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "gpus_per_node": gpus or None,
            "slurm_signal_delay_s": self.signal_seconds,
            "slurm_array_parallelism": self.at_once,
            "slurm_setup": self.setup,
            "slurm_additional_parameters": options,
        }
        executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
        return executor

    def _watch(self, requests: list[Request]) -> None:
        """Show how far the runs are until Slurm has none of them any more."""
        left = list(requests)
        with Display(len(left)) as display:
            for request in left:
                display.start(request)
            try:
                while left:
                    time.sleep(SECONDS_BETWEEN_LOOKS)
                    queued = queue_of_slurm()
                    for request in [request for request in left if recorded(request) not in queued]:
                        left.remove(request)
                        if read_status(request.path).state == QUEUED:
                            logs = request.path.parent / FOLDER
                            fail(request.path, f"its Slurm job ended before it began: see {logs}")
                        display.end(request)
                    display.refresh()
            except KeyboardInterrupt:
                say("the jobs go on; squeue --me shows them, scancel ends them")
                raise


class Job:
    """What a job of the cluster does: train one run. Submitit sends it there, and calls `checkpoint` before the job is
    requeued."""

    def __init__(self, context: Context):
        self.context = context

    def __call__(self, request: Request) -> None:
        self.context.enter()
        try:
            self.context.attempt(request)
        except SystemExit as stopped:
            told = stopped.code == 128 + signal.SIGUSR2
            if not told and not (stopped.code == 128 + signal.SIGTERM and gives_way()):
                raise
            # The run has saved. What submitit does on this signal, to requeue the job, is to be done now.
            os.kill(os.getpid(), signal.SIGUSR2)

    def checkpoint(self, request: Request) -> Any:
        """Return what the requeued job is to do: the same, for the run directory knows how far it is."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, request)


def _map(executor: Any, function: Any, arguments: list[Any]) -> list[Any]:
    """Submit an array; explain why Slurm takes none."""
    from submitit.core.utils import FailedJobError

    try:
        return executor.map_array(function, arguments)
    except FailedJobError as error:
        raise ResourceError(f"Slurm refuses the jobs: {' '.join(str(error).split())}: see hydra.launcher.*") from error


def queue_of_slurm() -> set[str]:
    """Return the jobs of this person that are waiting or running, the tasks of arrays one by one.

    Raises:
        ResourceError: Slurm does not answer.
    """
    command = ["squeue", "--me", "--noheader", "--array", "--format=%i"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ResourceError(f"Slurm does not answer: squeue says {' '.join(done.stderr.split())}")
    return set(done.stdout.split())


def gives_way() -> bool:
    """Tell whether this job was sent SIGTERM because another one needs its place.

    Slurm would requeue it at the end of the time of grace, but only if it were still there. A job that its owner
    cancels gets the same signal, and would come back from a requeue; that one is completing by now.
    """
    command = ["scontrol", "show", "job", "--oneliner", os.environ.get("SLURM_JOB_ID", "")]
    words = subprocess.run(command, capture_output=True, text=True).stdout.split()
    shown = dict(word.split("=", 1) for word in words if "=" in word)
    return shown.get("JobState") == "RUNNING" and shown.get("PreemptTime", "None") != "None"


def recorded(request: Request) -> str | None:
    """Return the Slurm job that a run was submitted as."""
    try:
        return json.loads((request.path / RECORD).read_text("utf-8"))["job"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
