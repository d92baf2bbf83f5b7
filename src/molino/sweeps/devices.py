"""How a machine is shared by the runs of a sweep that train at the same time."""

import os
import shutil
import subprocess

from molino.base.errors import ConfigError, ResourceError
from molino.configuration.request import Request


def gpus() -> list[str]:
    """Return the names by which CUDA_VISIBLE_DEVICES knows this machine's GPUs, without loading torch."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    done = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return [str(number) for number, line in enumerate(done.stdout.splitlines()) if line.startswith("GPU ")]


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_demanding(requests: list[Request]) -> Request:
    """Return the run that wants most of a machine: GPUs before cores, then the number of them."""
    return max(requests, key=lambda each: (each.accelerator != "cpu", each.processes))


def check_numbers(**numbers: int | None) -> None:
    """Refuse settings of the launcher that are below 1; None leaves them to `share`.

    Raises:
        ConfigError: one is.
    """
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ConfigError(f"hydra.launcher.{name}={value} must be at least 1")


def share(
    largest: Request, count: int, workers: int | None, runs_per_gpu: int, threads: int | None
) -> list[dict[str, str]]:
    """Return the environment of each worker: which GPUs it sees, and how many threads it computes with.

    Args:
        largest: the run that wants most; each worker gets enough for it.
        count: of runs; no more workers than those.
        workers: how many train at the same time; None: as many as there are GPUs (times `runs_per_gpu`) or cores.
        threads: of each process; None: the cores are shared out.

    Raises:
        ResourceError: a run wants more GPUs than there are.
    """
    devices, found = largest.devices, [] if largest.accelerator == "cpu" else gpus()
    if found and devices > len(found):
        raise ResourceError(f"hardware.devices={devices}, but there are {len(found)} GPUs here")
    # Neighbouring GPUs belong together.
    groups = [",".join(found[first : first + devices]) for first in range(0, len(found) - devices + 1, devices)]
    places = groups * runs_per_gpu if groups else [""] * max(cores() // devices, 1)
    places = [places[number % len(places)] for number in range(min(workers or len(places), count))]
    each = threads or max(cores() // (len(places) * devices), 1)
    return [{"OMP_NUM_THREADS": str(each)} | ({"CUDA_VISIBLE_DEVICES": place} if place else {}) for place in places]
