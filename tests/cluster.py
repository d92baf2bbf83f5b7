"""A real Slurm of two nodes, without systemd, for the tests of what a scheduler does to a run.

What Slurm does on a signal, a preemption or a requeue is not what its manual lets one expect, so a mock would only
repeat our own belief. Whoever runs the tests runs the cluster too, and is its operator. All of it (configuration,
state, logs, database, munge's key and socket) lies in one folder and its ports are free ones, so that several pytest
processes may have one each. Without accounting `sacct` fails, while `scontrol show job` and `squeue --states=all` know
a job for a while after its end. With it a database of its own knows all jobs, and limits hold.
On Debian: `apt install slurmctld slurmd slurm-client munge slurmdbd mariadb-server`.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Lightning has a run's processes meet at the first node's name, hence names that resolve.
NODES = ("127.0.0.1", "127.0.0.2")
ACCOUNT = "tests"  # of whoever runs the tests, where there is accounting
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo", "setpriv")
PROGRAMS_OF_ACCOUNTING = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db")

# Jobs of `main` give way to those of `high`: their steps get SIGCONT and SIGTERM, the job is requeued `grace` s later.
# The waits are as short as they go. A requeued job waits for `cred_expire`: 120 s by default, and if it is below 5.
# Only the second node has GPUs. Slurm insists on devices, whose numbers it hands out; nobody opens them.
CONFIGURATION = """\
ClusterName=molino
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait={kill_wait}
MinJobAge={min_job_age}
MaxArraySize={max_array}
EpilogMsgTime=0
CompleteWait=0
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=127.0.0.1 NodeHostName={host} Port={port1} CPUs={cpus} RealMemory=8000
NodeName=127.0.0.2 NodeHostName={host} Port={port2} CPUs={cpus} RealMemory=8000 Gres=gpu:2
PartitionName=main Nodes=127.0.0.[1-2] Default=YES PriorityTier=1 GraceTime={grace} MaxTime=INFINITE
PartitionName=high Nodes=127.0.0.[1-2] PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE
PartitionName=short Nodes=127.0.0.[1-2] PriorityTier=1 GraceTime={grace} MaxTime=10
PartitionName=plain Nodes=127.0.0.1 PriorityTier=1 GraceTime={grace} MaxTime=INFINITE
PartitionName=gpu Nodes=127.0.0.2 PriorityTier=1 GraceTime={grace} MaxTime=INFINITE
"""
GPUS = """\
AutoDetect=off
NodeName=127.0.0.2 Name=gpu File=/dev/null
NodeName=127.0.0.2 Name=gpu File=/dev/zero
"""
ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={accounting_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits,qos
AccountingStorageTRES=gres/gpu
"""
SLURMDBD = """\
DbdHost=localhost
DbdPort={accounting_port}
SlurmUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser={user}
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
DebugLevel=verbose
"""


def missing(accounting: bool = False) -> str | None:
    """Why no Slurm, or none with accounting, can be started here, in one line; None if one can."""
    # Debian keeps the daemons where a user's PATH does not look.
    programs = PROGRAMS + PROGRAMS_OF_ACCOUNTING * accounting
    if absent := [program for program in programs if _program(program) is None]:
        packages = "slurmctld slurmd slurm-client munge" + " slurmdbd mariadb-server" * accounting
        return f"no Slurm here: {', '.join(absent)} not found (apt install {packages})"
    try:
        _user()
    except KeyError:
        return f"no Slurm here: it wants a user with a name, and {os.geteuid()} has none (add it to /etc/passwd)"
    return None


@contextlib.contextmanager
def slurm(
    folder: Path,
    cpus: int = 4,
    grace: int = 20,
    kill_wait: int = 10,
    user_signal: bool = False,
    accounting: bool = False,
    min_job_age: int = 300,
    max_array: int = 1001,
) -> Iterator[dict[str, str]]:
    """Run a cluster of two nodes in `folder`; yields the environment its commands need, once the nodes are idle.

    Each node claims `cpus` CPUs, whatever the machine has. `grace` and `kill_wait` are seconds: from a preemption's
    SIGTERM to the requeue, and from the SIGTERM of an end to SIGKILL. `user_signal`: a job with `--signal` gets that
    one at its preemption instead of SIGTERM. `accounting`: a database keeps the jobs, and `limit` sets limits.
    `min_job_age`: seconds until the controller forgets a job that has ended; below 10 it takes about 10. The largest
    index of an array is `max_array` - 1. On leaving, jobs and daemons are killed, and their ends waited for. `folder`
    is made. RuntimeError if the cluster does not come up.
    """
    folder = folder.resolve()
    # The path of a socket is at most 107 bytes; if slurmstepd's is longer, srun waits for ever.
    if len(str(folder)) > 70:
        raise ValueError(f"the folder of a Slurm needs a path of at most 70 characters: {folder}")
    for name in ("state", *NODES):
        (folder / name).mkdir(parents=True)
    path = folder / "slurm.conf"
    names = ("controller_port", "accounting_port", "port1", "port2")
    values = dict(zip(names, _free_ports(4), strict=True)) | {
        "folder": folder,
        "host": socket.gethostname().split(".")[0],
        "user": _user(),
        "cpus": cpus,
        "grace": grace,
        "kill_wait": kill_wait,
        "min_job_age": min_job_age,
        "max_array": max_array,
    }
    further = "SlurmctldParameters=preempt_send_user_signal\n" if user_signal else ""
    path.write_text((CONFIGURATION + further + ACCOUNTING * accounting).format(**values))
    (folder / "gres.conf").write_text(GPUS.format(**values))
    variables = {"SLURM_CONF": str(path)}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(_munged(folder))
        _wait((folder / "munge.socket").exists, daemons, f"munged has no socket, see {folder}/munged.out")
        if accounting:
            _account(folder, SLURMDBD.format(**values), daemons)
        daemons.append(_start(folder, "slurmctld", "-D", "-i", "-f", str(path)))
        daemons.extend(_start(folder, "slurmd", "-D", "-N", node, "-f", str(path), out=node) for node in NODES)
        _wait(lambda: _states(variables) == ["idle"] * len(NODES), daemons, f"no idle nodes, see {folder}/*.out")
        yield variables
    finally:
        _stop(daemons, path)


def limit(variables: dict[str, str], **limits: int | None) -> None:
    """Set limits of whoever runs the tests, such as `MaxSubmitJobs=2`; None lifts one. They hold when this returns."""
    words = [f"{name}={-1 if value is None else value}" for name, value in limits.items()]
    _sacctmgr(variables, "modify", "user", _user(), "set", *words)


def _account(folder: Path, configuration: str, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Start a database and slurmdbd, and enter the cluster, an account and its user."""
    data, database = folder / "database", folder / "mysql.socket"
    # Nothing of it has to outlive a crash, nor to be kept from anybody who reaches the socket.
    small = ("--innodb-log-file-size=4M", "--innodb-buffer-pool-size=16M", "--innodb-flush-method=nosync")
    options = ("--no-defaults", f"--datadir={data}", f"--user={_user()}", "--innodb-flush-log-at-trx-commit=0", *small)
    asked = ("--skip-test-db", "--skip-name-resolve", "--auth-root-authentication-method=normal")
    install = ["mariadb-install-db", *options, *asked]
    with (folder / "mariadb-install-db.out").open("wb") as out:
        subprocess.run(install, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, check=True)
    closed = ("--skip-networking", "--skip-grant-tables", f"--socket={database}", f"--pid-file={folder}/mariadbd.pid")
    daemons.append(_start(folder, "mariadbd", *options, *closed))
    _wait(lambda: _listens(database), daemons, f"no database, see {folder}/mariadbd.out")
    path = folder / "slurmdbd.conf"
    path.touch(0o600)  # it insists
    path.write_text(configuration)
    daemons.append(_start(folder, "slurmdbd", "-D"))
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    _wait(lambda: _answers(variables, "sacctmgr", "show", "cluster"), daemons, f"see {folder}/slurmdbd.log")
    _sacctmgr(variables, "add", "cluster", "molino")
    _sacctmgr(variables, "add", "account", ACCOUNT)
    _sacctmgr(variables, "add", "user", _user(), f"account={ACCOUNT}")
    _sacctmgr(variables, "modify", "user", _user(), "set", f"DefaultAccount={ACCOUNT}")  # root has one already


def _program(name: str) -> str | None:
    """The path of a program, looked for where the daemons are as well."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _munged(folder: Path) -> subprocess.Popen[bytes]:
    """Start the cluster's own munged, as oneself: its user `munge` could not enter the folders pytest makes (0700)."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    options = [f"--{option}={folder}/munge.{suffix}" for option, suffix in names.items()]
    # --force: it would rather have a socket everybody can reach; here only one user has to.
    return _start(folder, "munged", "--foreground", "--force", *options)


def _start(folder: Path, name: str, *options: str, out: str = "") -> subprocess.Popen[bytes]:
    """Start a daemon in the foreground; should pytest be killed, the kernel ends it (but not the jobs that run).

    What it says before it has a log is in `out`.out, by default named as the program.
    """
    program = _program(name)
    assert program is not None
    command = ["setpriv", "--pdeathsig", "KILL", program, *options]
    # slurmd hands its environment to every slurmstepd, by which _stop knows them.
    variables = {"PATH": f"{os.environ['PATH']}:/usr/sbin", "SLURM_CONF": str(folder / "slurm.conf")}
    # Where slurmdbd finds the database; it cannot be told in its configuration.
    variables["MYSQL_UNIX_PORT"] = str(folder / "mysql.socket")
    with (folder / f"{out or name}.out").open("wb") as said:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is pytest's
            env=variables,
        )


def _wait(done: Callable[[], bool], daemons: list[subprocess.Popen[bytes]], complaint: str) -> None:
    """Wait until `done()`; RuntimeError with `complaint` if a daemon ends or after 60 s."""
    end = time.monotonic() + 60
    while not done():
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
            raise RuntimeError(f"the test's Slurm did not start: {complaint}")
        time.sleep(0.1)


def _states(variables: dict[str, str]) -> list[str]:
    """The nodes' states as sinfo words them, empty while the controller does not answer."""
    command = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%t"]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True).stdout.split()


def _listens(path: Path) -> bool:
    """Whether somebody takes connections at this socket."""
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(path)) == 0


def _answers(variables: dict[str, str], *command: str) -> bool:
    """Whether this command succeeds."""
    return subprocess.run(command, env=os.environ | variables, capture_output=True).returncode == 0


def _sacctmgr(variables: dict[str, str], *words: str) -> None:
    """Change what slurmdbd knows; RuntimeError with sacctmgr's words if it does not."""
    done = subprocess.run(["sacctmgr", "-i", *words], env=os.environ | variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"sacctmgr {' '.join(words)}: {done.stdout}{done.stderr}")


def _user() -> str:
    """The name of whoever runs the tests; KeyError if there is none."""
    return pwd.getpwuid(os.geteuid()).pw_name


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
