"""This process among those that work together: alone, or one of several that somebody has started for one run."""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

# In the environment of a process that is started by a command: the request that it is to train, in place of what its
# command says.
HANDED = "MOLINO_REQUEST"
# How the starters of MPI programs tell a process its place. Open MPI; MPICH, Intel's and Cray's.
MPI = (
    {
        "rank": ("OMPI_COMM_WORLD_RANK",),
        "size": ("OMPI_COMM_WORLD_SIZE",),
        "local_rank": ("OMPI_COMM_WORLD_LOCAL_RANK",),
        "local_size": ("OMPI_COMM_WORLD_LOCAL_SIZE",),
    },
    {
        "rank": ("PMI_RANK",),
        "size": ("PMI_SIZE",),
        "local_rank": ("MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
        "local_size": ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
    },
)
# What tells one start by mpirun from another, as far as it says so, and the job of a scheduler that it belongs to.
MPI_JOBS = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_hnp_uri")
JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Place:
    """The place of a process among those that were started together.

    Attributes:
        by: what has started them: `srun`, `torchrun`, `mpirun`; or `RANK`, where the environment is all that tells.
        job: what tells this start from any other, as far as all of its processes know it.
        rank, size: of all.
        local_rank: among those of its node.
        node: the number of its node.
        per_node: how many there are on each node.
    """

    by: str
    job: str
    rank: int
    size: int
    local_rank: int
    node: int
    per_node: tuple[int, ...]


def started() -> Place | None:
    """Return this process's place among those that somebody has started; None where it is alone, or where Lightning
    has started it for another one.

    What lies further in decides: torchrun and mpirun start theirs within a step of Slurm's.
    """
    return _by_torchrun() or _by_mpirun() or _by_srun()


def is_main_process() -> bool:
    """Tell whether this process writes the run directory: the first of a distributed run, or the only one."""
    if (place := started()) is not None:
        return place.rank == 0
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))


def is_further() -> bool:
    """Tell whether somebody has started this process beside a first one, which is asked for the same."""
    place = started()
    return place is not None and place.rank > 0


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment, for this process and those that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def slurm_job() -> str:
    """Return what Slurm calls the job of this process; nothing outside of jobs.

    By its plain number the last task of an array stands for all of them.
    """
    array, task = (os.environ.get(f"SLURM_ARRAY_{what}") for what in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def _by_torchrun() -> Place | None:
    """Also what does as torchrun does, as operators of Kubernetes do."""
    rank, size, given = _number("RANK"), _number("WORLD_SIZE"), os.environ
    elastic = "TORCHELASTIC_RUN_ID" in given
    if rank is None or size is None or not (elastic or (size > 1 and "MASTER_ADDR" in given)):
        return None
    local_size = _number("LOCAL_WORLD_SIZE") or (size if elastic else 1)
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    words = [given.get(name, "") for name in names]
    if given.get("MASTER_ADDR") in LOOPBACK:
        words.append(socket.gethostname())
    node = _number("GROUP_RANK")
    return Place(
        by="torchrun" if elastic else "RANK",
        job=_joined("torchrun", *words),
        rank=rank,
        size=size,
        local_rank=_number("LOCAL_RANK") or 0,
        node=rank // local_size if node is None else node,
        per_node=_evenly(size, local_size),
    )


def _by_mpirun() -> Place | None:
    for names in MPI:
        found = {what: next(filter(_is_number, map(_number, each)), None) for what, each in names.items()}
        rank, size, local_rank, local_size = found.values()
        # Slurm, too, tells its tasks their PMI_RANK, but not which it is on its node.
        if rank is None or size is None or size == 1 or (local_rank is None and "SLURM_STEP_ID" in os.environ):
            continue
        local_size = local_size or size
        words = [os.environ.get(name, "") for name in (*MPI_JOBS, *JOBS, "SLURM_RESTART_COUNT")]
        if local_size == size:
            words.append(socket.gethostname())
        local_rank = rank % local_size if local_rank is None else local_rank
        # Which node it is nobody says; nothing but messages depends on it.
        node, per_node = rank // local_size, _evenly(size, local_size)
        return Place("mpirun", _joined("mpirun", *words), rank, size, local_rank, node, per_node)
    return None


def _by_srun() -> Place | None:
    """A step of several tasks. The batch script itself is a task of a job, whose further ones nobody has started."""
    rank, size, given = _number("SLURM_PROCID"), _number("SLURM_STEP_NUM_TASKS"), os.environ
    if "SLURM_STEP_ID" not in given or rank is None or size is None or size == 1:
        return None
    names = ("SLURM_CLUSTER_NAME", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return Place(
        by="srun",
        job=_joined("srun", *(given.get(name, "0") for name in names)),
        rank=rank,
        size=size,
        local_rank=_number("SLURM_LOCALID") or 0,
        node=_number("SLURM_NODEID") or 0,
        per_node=_counts(given.get("SLURM_STEP_TASKS_PER_NODE", str(size))),
    )


def _counts(text: str) -> tuple[int, ...]:
    """Return the numbers that Slurm writes as `2(x3),1`."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return tuple(int(count) for count, times in found for _ in range(int(times or 1)))


def _evenly(size: int, local_size: int) -> tuple[int, ...]:
    whole, rest = divmod(size, local_size)
    return (local_size,) * whole + ((rest,) if rest else ())


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else None


def _is_number(value: int | None) -> bool:
    return value is not None


def _joined(*words: str) -> str:
    """Return words as a part of a file's name."""
    return re.sub(r"[^\w.]+", "-", "-".join(filter(None, words)))[:100]
