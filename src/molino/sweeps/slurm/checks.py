"""What can be known before anything is submitted: settings that cannot be, and what the cluster has."""

import os
import shutil
from pathlib import Path
from typing import Any

from molino.base.console import say
from molino.base.errors import ConfigError, ResourceError
from molino.base.files import make_directory
from molino.configuration.request import Request
from molino.runs.status import CANCELLED
from molino.sweeps.slurm import asking, script, submitting

MOUNTS = Path("/proc/mounts")
PROGRAMS = ("sbatch", "squeue", "scontrol", "scancel", "sinfo")
MOST_RUNS = 1_000_000  # more than a cluster takes
LEAST = {"minutes": 1, "cpus": 1, "signal_seconds": 1, "at_once": 1, "requeues": 0, "deaths": 0}
MEMORIES = ("memory", "memory_per_cpu", "memory_per_gpu")
GPUS = ("gpus", "gpus_per_task", "gres")
# File systems that no other machine sees.
OWN_DISKS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "f2fs"}


def check_settings(launcher: Any) -> None:
    """Refuse settings that make no job, on whatever cluster.

    Raises:
        ConfigError: there are some.
        ResourceError: there is no Slurm here.
    """
    for name, least in LEAST.items():
        if getattr(launcher, name) < least:
            raise ConfigError(f"hydra.launcher.{name}={getattr(launcher, name)} must be at least {least}")
    for name in MEMORIES:
        if getattr(launcher, name) is not None and getattr(launcher, name) <= 0:
            raise ConfigError(f"hydra.launcher.{name}={getattr(launcher, name)} must be more than 0 GB")
    for names in (MEMORIES, GPUS):
        if sum(getattr(launcher, name) is not None for name in names) > 1:
            raise ConfigError(f"hydra.launcher.{', '.join(names[:-1])} and {names[-1]} exclude each other: give one")
    if launcher.signal_seconds >= launcher.minutes * 60:
        raise ConfigError(
            f"hydra.launcher.signal_seconds={launcher.signal_seconds} is no less than the job's time, "
            f"hydra.launcher.minutes={launcher.minutes}: it would be told to save before it begins"
        )
    if launcher.retry not in (None, CANCELLED):
        raise ConfigError(f"hydra.launcher.retry={launcher.retry} is unknown: choose cancelled")
    for name in ("setup", "srun"):
        if not all(isinstance(each, str) for each in getattr(launcher, name)):
            raise ConfigError(f"hydra.launcher.{name} must be a list of texts, such as ['module load cuda']")
    if any(word in each.split("=")[0] for each in launcher.srun for word in ("--ntasks", "--nodes", "--array")):
        raise ConfigError("hydra.launcher.srun: tasks and nodes follow from hardware; leave them out")
    script.check_options(launcher.options, launcher.asked())
    script.read_template(launcher.template, launcher.setup)
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        raise ResourceError(
            f"hydra/launcher=slurm needs Slurm, but there is no {missing[0]} here: run this on a login node of the "
            "cluster (Debian: apt install slurm-client), or choose hydra/launcher=local"
        )


def check_cluster(launcher: Any, requests: list[Request]) -> None:
    """Refuse what this cluster has not got, and remember what it has.

    Raises:
        ConfigError: there is no such partition, or it has not got what is asked for.
        ResourceError: Slurm does not answer, or a folder cannot be written.
    """
    found = asking.partitions()
    names = (launcher.partition or "").split(",")
    if unknown := [name for name in names if name and name not in found]:
        raise ConfigError(
            f"hydra.launcher.partition={unknown[0]} is no partition of this cluster"
            f"{script.unknown(unknown[0], sorted(filter(None, found)))}"
        )
    _check_partition(launcher, requests, [each for name in names for each in found.get(name, [])])
    settings = asking.settings_of_slurm()
    # A task's number is below it.
    launcher.largest_array = max(int(settings.get("MaxArraySize", 1001)), 1)
    logs = submitting.logs_of(launcher, requests[0])
    make_directory(logs, "; set hydra.launcher.logs")
    if "\\" in str(logs):
        raise ConfigError(f"Slurm cannot write to {logs}, for the backslash in its name: set hydra.launcher.logs")
    if not os.access(logs, os.W_OK):
        raise ResourceError(f"{logs} cannot be written: set hydra.launcher.logs")
    _remark_on_places(requests[0])


def _check_partition(launcher: Any, requests: list[Request], kinds: list[asking.Partition]) -> None:
    """Refuse what none of the nodes has that are asked for, and remember whether there are GPUs."""
    where = f"partition {launcher.partition}" if launcher.partition else "the default partition"
    launcher.has_gpus = any("gpu" in each.resources for each in kinds)
    wanting = next((r for r in requests if r.accelerator == "gpu"), None)
    if wanting is not None and not launcher.has_gpus and launcher.gres is None:
        raise ConfigError(
            f"{wanting.name} asks for a GPU, and {where} has none: choose hydra.launcher.partition=<one with GPUs>"
        )
    limits = [each.minutes for each in kinds]
    if limits and None not in limits and launcher.minutes > max(limits):
        raise ConfigError(f"hydra.launcher.minutes={launcher.minutes}, and {where} allows {max(limits):.0f}")
    largest = max(requests, key=lambda each: each.devices)
    cpus = launcher.cpus * (largest.devices if largest.processes > 1 else 1)
    if kinds and cpus > (most := max(each.cpus for each in kinds)):
        raise ConfigError(f"{largest.name} takes {cpus} cores of a node (hydra.launcher.cpus), and {where} has {most}")


def _remark_on_places(request: Request) -> None:
    """Say which folders may not be seen by the nodes."""
    nodes = set(asking.answer("sinfo", "--noheader", "--Node", "--format=%n").split())
    if nodes == {os.uname().nodename} or not MOUNTS.is_file():
        return  # a cluster of one machine
    paths = request.settings.get("paths") or {}
    for name in ("outputs", "cache"):
        place = Path(str(paths.get(name, "."))).absolute()
        kind = _file_system(place)
        if kind in OWN_DISKS:
            say(f"paths.{name}={place} lies on a disk of this machine ({kind}): the nodes have to see it as well")


def _file_system(path: Path) -> str:
    """Return the kind of the file system that a path lies on."""
    mounts = [line.split()[1:3] for line in MOUNTS.read_text().splitlines()]
    return max(
        ((place, kind) for place, kind in mounts if path.is_relative_to(place.replace("\\040", " "))),
        key=lambda each: len(each[0]),
        default=("", ""),
    )[1]
