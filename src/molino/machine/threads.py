"""How many threads compute. They are set, not found: sums are rounded by their number, and so are a run's weights."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from molino.base.processes import environment, started

# What torch reads when it is imported.
VARIABLE = "OMP_NUM_THREADS"
# Before any run of this process has chosen another number.
THREADS = torch.get_num_threads()


def threads_of_each(processes: int) -> int:
    """Return how many threads each of so many processes on this machine computes with, where no setting says it.

    The environment does, or the job has been given so many processors; else all that this process sees are shared.
    """
    if os.environ.get(VARIABLE):
        return THREADS
    if (given := _given(processes)) is not None:
        return given
    return THREADS if processes == 1 else max(_cores() // processes, 1)


@contextmanager
def threads_as_set() -> Iterator[None]:
    """Keep the number of threads that is set, here and in processes that are started meanwhile.

    Lightning sets another one, by the cores that a process sees, where the environment names none.
    """
    with environment({VARIABLE: str(torch.get_num_threads())}):
        yield


def _given(processes: int) -> int | None:
    """Return how many of the processors that Slurm has given its job are for each process; None outside of jobs."""
    of_task, of_node = (_number(name) for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"))
    if (place := started()) is not None and place.by == "srun":
        return of_task or (max(of_node // max(place.per_node), 1) if of_node else None)
    if "SLURM_STEP_ID" in os.environ and of_task:  # the only task of a step
        return max(of_task // processes, 1)
    return max(of_node // processes, 1) if of_node else None


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and int(text) else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
