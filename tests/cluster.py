"""A real Slurm of one node, without systemd, for the tests of what a scheduler does to a run.

What Slurm does on a signal, a preemption or a requeue is not what its manual lets one expect, so a mock would only
repeat our own belief. All of a cluster (configuration, state, logs, munge's key and socket) lies in one folder and its
ports are free ones, so that several pytest processes may have one each. There is no accounting: `sacct` fails, while
`scontrol show job` and `squeue --states=all` know a job for five minutes after its end.
On Debian: `apt install slurmctld slurmd slurm-client munge`.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo", "setpriv")

# Jobs of `main` give way to those of `high`: their steps get SIGCONT and SIGTERM, the job is requeued `grace` s later.
# The waits are as short as they go. A requeued job waits for `cred_expire`: 120 s by default, and if it is below 5.
CONFIGURATION = """\
ClusterName=molino
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait={kill_wait}
MinJobAge=300
EpilogMsgTime=0
CompleteWait=0
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=localhost NodeHostName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES PriorityTier=1 GraceTime={grace} MaxTime=INFINITE State=UP
PartitionName=high Nodes=localhost Default=NO PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no Slurm can be started here, in one line; None if one can."""
    # Debian keeps the daemons where a user's PATH does not look.
    absent = [program for program in PROGRAMS if _program(program) is None]
    if absent:
        return f"no Slurm here: {', '.join(absent)} not found (apt install slurmctld slurmd slurm-client munge)"
    if os.geteuid() != 0:
        return "a Slurm of one's own is started as root only"
    return None


@contextlib.contextmanager
def slurm(
    folder: Path, cpus: int = 4, grace: int = 20, kill_wait: int = 10, user_signal: bool = False
) -> Iterator[dict[str, str]]:
    """Run a cluster of one node in `folder`; yields the environment its commands need, once the node is idle.

    The node claims `cpus` CPUs, whatever the machine has. `grace` and `kill_wait` are seconds: from a preemption's
    SIGTERM to the requeue, and from the SIGTERM of an end to SIGKILL. `user_signal`: a job with `--signal` gets that
    one at its preemption instead of SIGTERM. On leaving, jobs and daemons are killed, and their ends waited for.
    `folder` is made. RuntimeError if the cluster does not come up.
    """
    folder = folder.resolve()
    # The path of a socket is at most 107 bytes; if slurmstepd's is longer, srun waits for ever.
    if len(str(folder)) > 70:
        raise ValueError(f"the folder of a Slurm needs a path of at most 70 characters: {folder}")
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    path = folder / "slurm.conf"
    controller_port, node_port = _free_ports(2)
    path.write_text(
        CONFIGURATION.format(
            folder=folder,
            host=socket.gethostname().split(".")[0],
            controller_port=controller_port,
            node_port=node_port,
            cpus=cpus,
            grace=grace,
            kill_wait=kill_wait,
        )
        + ("SlurmctldParameters=preempt_send_user_signal\n" if user_signal else "")
    )
    variables = {"SLURM_CONF": str(path)}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(_munged(folder))
        _wait((folder / "munge.socket").exists, daemons, f"munged has no socket, see {folder}/munged.out")
        daemons.append(_start(folder, "slurmctld", "-D", "-i", "-f", str(path)))
        daemons.append(_start(folder, "slurmd", "-D", "-N", "localhost", "-f", str(path)))
        _wait(lambda: _node_state(variables) == "idle", daemons, f"no idle node, see {folder}/*.out")
        yield variables
    finally:
        _stop(daemons, path)


def _program(name: str) -> str | None:
    """The path of a program, looked for where the daemons are as well."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _munged(folder: Path) -> subprocess.Popen[bytes]:
    """Start the cluster's own munged, as root: its user `munge` could not enter the folders pytest makes (0700)."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    options = [f"--{option}={folder}/munge.{suffix}" for option, suffix in names.items()]
    # --force: it would rather have a socket everybody can reach; here only root has to.
    return _start(folder, "munged", "--foreground", "--force", *options)


def _start(folder: Path, name: str, *options: str) -> subprocess.Popen[bytes]:
    """Start a daemon in the foreground; should pytest be killed, the kernel ends it (but not the jobs that run)."""
    program = _program(name)
    assert program is not None
    command = ["setpriv", "--pdeathsig", "KILL", program, *options]
    # What it says before it has a log. A session of its own: Ctrl-C is pytest's.
    with (folder / f"{name}.out").open("wb") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # slurmd hands its environment to every slurmstepd, by which _stop knows them.
            env={"PATH": f"{os.environ['PATH']}:/usr/sbin", "SLURM_CONF": str(folder / "slurm.conf")},
        )


def _wait(done: Callable[[], bool], daemons: list[subprocess.Popen[bytes]], complaint: str) -> None:
    """Wait until `done()`; RuntimeError with `complaint` if a daemon ends or after 30 s."""
    end = time.monotonic() + 30
    while not done():
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
            raise RuntimeError(f"the test's Slurm did not start: {complaint}")
        time.sleep(0.1)


def _node_state(variables: dict[str, str]) -> str:
    """The node's state as sinfo words it, empty while the controller does not answer."""
    command = ["sinfo", "--noheader", "--nodes=localhost", "--partition=main", "--format=%t"]
    answer = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    return answer.stdout.strip()


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on; all are held until all are chosen, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _stop(daemons: list[subprocess.Popen[bytes]], path: Path) -> None:
    """Kill the cluster's daemons, then whatever its jobs left: nothing of it is worth an orderly end."""
    for daemon in reversed(daemons):
        daemon.kill()
        daemon.wait()
    # A slurmstepd is no child of slurmd, and outlives it by design. Killing one frees its job's processes, which may
    # start others meanwhile, hence until none is found.
    end = time.monotonic() + 10
    while (left := _processes(path)) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    if left:
        raise RuntimeError(f"processes of the Slurm in {path.parent} are left: {left}")


def _processes(path: Path) -> list[int]:
    """The processes, but for this one, that were started with SLURM_CONF=`path` in their environment."""
    entry = f"SLURM_CONF={path}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            # It may end meanwhile; a zombie has no environment.
            with contextlib.suppress(OSError):
                if entry in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
    return found
