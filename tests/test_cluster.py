"""The Slurm that other tests stand on: two nodes, GPUs in name, accounting with limits."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cluster
import pytest

# As all tests with a cluster, in one process.
pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture
def folder() -> Iterator[Path]:
    # Sockets lie in it: its path has to be short.
    path = Path(tempfile.mkdtemp(prefix="slurm-"))
    yield path / "c"
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    if reason := cluster.missing(accounting=True):
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with cluster.slurm(folder / "c", cpus=4, kill_wait=1, accounting=True, max_array=11) as variables:
            yield os.environ | variables
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def ask(slurm) -> Callable[..., subprocess.CompletedProcess]:
    def run(*command: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def submit(ask) -> Iterator[Callable[..., str]]:
    """Submit a shell command and return the job; what is left of a test's jobs is cancelled."""

    def run(script: str, *options: str) -> str:
        done = ask("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    yield run
    ask("scancel", "--me", "--signal=KILL")
    ask("scancel", "--me")
    until(lambda: not ask("squeue", "--noheader").stdout, "the queue to be empty")


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"waited in vain for: {what}"
        time.sleep(0.1)


def test_two_nodes_are_idle_and_a_job_runs_on_both(ask):
    nodes = ask("sinfo", "--noheader", "--Node", "--partition=main", "--format=%N %t %c %G").stdout
    first, second = cluster.NODES
    assert nodes.splitlines() == [f"{first} idle 4 (null)", f"{second} idle 4 gpu:2"]
    both = ask("srun", "--nodes=2", "--ntasks-per-node=2", "sh", "-c", "echo $SLURM_PROCID $SLURMD_NODENAME")
    assert sorted(both.stdout.splitlines()) == [f"0 {first}", f"1 {first}", f"2 {second}", f"3 {second}"], both.stderr


def test_gpus_are_granted_while_there_are_some(ask, submit):
    granted, node = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES", cluster.NODES[1]
    for options, expected in (
        (["--gres=gpu:1"], [f"{node} 0"]),
        (["--gpus-per-node=2", "--partition=gpu"], [f"{node} 0,1"]),
        (["--gpus-per-task=1", "--ntasks=2"], [f"{node} 0", f"{node} 1"]),
    ):
        assert sorted(ask("srun", *options, "sh", "-c", granted).stdout.splitlines()) == expected
    first, second, third = (submit("sleep 60", "--gres=gpu:1") for _ in range(3))

    def states() -> dict[str, str]:
        return dict(line.split() for line in ask("squeue", "--noheader", "--format=%i %T/%r").stdout.splitlines())

    expected = {first: "RUNNING/None", second: "RUNNING/None", third: "PENDING/Resources"}
    until(lambda: states() == expected, "two jobs to run and the third to wait")
    refused = ask("sbatch", "--gres=gpu:3", "--wrap=true")
    assert refused.returncode == 1 and "Requested node configuration is not available" in refused.stderr


def test_a_limit_holds_until_it_is_lifted(ask, slurm, submit):
    cluster.limit(slurm, MaxSubmitJobs=1)
    submit("true", "--hold")
    refused = ask("sbatch", "--wrap=true")
    assert refused.returncode == 1 and refused.stderr == (
        "sbatch: error: AssocMaxSubmitJobLimit\n"
        "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
        "(job submit limit, user's size and/or time limits)\n"
    )
    cluster.limit(slurm, MaxSubmitJobs=None)
    submit("true", "--hold", "--array=0-10")
    refused = ask("sbatch", "--array=0-11", "--wrap=true")
    assert refused.returncode == 1 and "Invalid job array specification" in refused.stderr


def test_sacct_tells_how_jobs_ended(ask, submit):
    failed, cancelled, done = submit("exit 3"), submit("sleep 60"), submit("true")
    until(lambda: f"{cancelled} RUNNING" in ask("squeue", "--noheader", "--format=%i %T").stdout, "the job to run")
    ask("scancel", cancelled)
    expected = {f"{failed}|FAILED|3:0", f"{cancelled}|CANCELLED by {os.geteuid()}|0:0", f"{done}|COMPLETED|0:0"}

    def told() -> set[str]:
        jobs = ",".join((failed, cancelled, done))
        columns = ("--parsable2", "--noheader", "--allocations", "--format=jobid,state,exitcode")
        return set(ask("sacct", f"--jobs={jobs}", *columns).stdout.splitlines())

    until(lambda: told() == expected, f"sacct to say {expected}")


def test_without_accounting_and_nothing_is_left(folder):
    """Beside the other cluster, if that runs."""
    if reason := cluster.missing():
        pytest.skip(reason)
    with cluster.slurm(folder, cpus=1) as variables:
        environment = os.environ | variables

        def ask(*command: str) -> subprocess.CompletedProcess:
            return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

        assert "accounting storage is disabled" in ask("sacct").stderr
        stubborn = "trap '' TERM; echo $$; sleep 600 & wait"
        ask("sbatch", "--nodes=2", f"--output={folder}/pid", f"--wrap=srun sh -c {stubborn!r}")
        until(lambda: (folder / "pid").exists() and len((folder / "pid").read_text().split()) == 2, "the job to run")
        processes = [Path("/proc") / pid for pid in (folder / "pid").read_text().split()]
    # They are killed by now; whoever inherits them has to notice.
    until(lambda: not any(process.exists() for process in processes), "the job's processes to be gone")


def test_what_is_missing_is_told(monkeypatch):
    monkeypatch.setattr(cluster, "_program", lambda name: None if name == "slurmdbd" else name)
    assert cluster.missing() is None
    assert cluster.missing(accounting=True) == (
        "no Slurm here: slurmdbd not found (apt install slurmctld slurmd slurm-client munge slurmdbd mariadb-server)"
    )
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    assert "wants a user with a name" in cluster.missing()
