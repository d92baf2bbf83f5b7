"""The processes of one run as somebody else starts them: with what srun, mpirun and torchrun put in their way."""

import os
import subprocess
import sys
from pathlib import Path

STARTERS = ("SLURM_", "OMPI_", "PMI", "MPI_", "TORCHELASTIC_")
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR")


def srun(rank: int, per_node: tuple[int, ...], job: str = "7") -> dict[str, str]:
    """What a task sees of its step."""
    node = next(n for n in range(len(per_node)) if rank < sum(per_node[: n + 1]))
    return {
        "SLURM_JOB_ID": job,
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(sum(per_node)),
        "SLURM_STEP_TASKS_PER_NODE": ",".join(map(str, per_node)),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank - sum(per_node[:node])),
        "SLURM_NODEID": str(node),
    }


def mpirun(rank: int, per_node: tuple[int, ...]) -> dict[str, str]:
    """What Open MPI tells a process of one node."""
    return {
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_SIZE": str(sum(per_node)),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(sum(per_node)),
        "PMIX_NAMESPACE": "prterun-here-1@1",
    }


def by_hand(rank: int, per_node: tuple[int, ...], port: int) -> dict[str, str]:
    """What torch itself asks of the environment."""
    size = str(sum(per_node))
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": size}
    return there | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size}


def bare() -> dict[str, str]:
    """The environment without whatever tells of a place, or of threads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(STARTERS)}
    return {name: value for name, value in kept.items() if name not in (*ENVIRONMENT, "OMP_NUM_THREADS", "MASTER_PORT")}


def command(*settings: str, cores: str | None = None) -> list[str]:
    """`molino train`, on some of the machine's cores."""
    pinned = ["taskset", "--cpu-list", cores] if cores else []
    return [*pinned, sys.executable, "-m", "molino", "train", *settings]


def launch(home: Path, environment: dict[str, str], *settings: str, cores: str | None = None) -> subprocess.Popen:
    """Start a process in the folder `home`."""
    home.mkdir(exist_ok=True)
    return subprocess.Popen(
        command(*settings, cores=cores),
        cwd=home,
        env=bare() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(*processes: subprocess.Popen) -> list[tuple[int, str, str]]:
    """The exit status and what was said, of each."""
    said = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, out, err) for process, (out, err) in zip(processes, said, strict=True)]
