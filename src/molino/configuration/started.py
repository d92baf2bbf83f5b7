"""Whether the processes that somebody has started for a run are those that its hardware asks for."""

import os
from dataclasses import replace

from molino.base.errors import ConfigError, Followed, MolinoError
from molino.base.processes import Place, is_further, started
from molino.configuration.request import Request
from molino.configuration.settings import resume
from molino.runs import directory

# How each starter is told how many.
OPTIONS = {
    "srun": "srun --nodes={nodes} --ntasks={processes} --ntasks-per-node={devices}",
    "torchrun": "torchrun --nnodes={nodes} --nproc-per-node={devices}",
    "mpirun": "mpirun -n {processes}, {devices} on each node",
    "RANK": "WORLD_SIZE={processes}, LOCAL_WORLD_SIZE={devices}",
}


def check_started(request: Request) -> None:
    """Refuse to train where others were started beside this process than the hardware asks for.

    Raises:
        ConfigError: as above.
        CheckpointError: a run is to be resumed that is not there.
        Followed: it is for the first of them to say so.
    """
    if request.settled:  # somebody has asked already
        return
    try:
        if name := request.settings.get("resume"):
            run = directory.find(str(name), request.settings["paths"]["outputs"])
            request = replace(request, settings=resume(run, request.settings, request.overrides))
        _check(started(), request.devices, request.nodes)
    except MolinoError as error:
        if is_further():
            raise Followed(str(error), error.exit_code) from error
        raise


def _check(place: Place | None, devices: int, nodes: int) -> None:
    if place is None:
        _check_alone(nodes)
    elif place.per_node != (devices,) * nodes:
        right = OPTIONS[place.by].format(nodes=nodes, devices=devices, processes=nodes * devices)
        raise ConfigError(
            f"{_describe(place)}, and hardware asks for {_asked(devices, nodes)}: {_advice(place, devices, nodes)}"
            f"start it by {right}"
        )


def _check_alone(nodes: int) -> None:
    given = os.environ
    # Who starts a process on each node by hand says where the first one is; in a job, which this one is.
    by_hand = "NODE_RANK" in given if "SLURM_JOB_ID" in given else "MASTER_ADDR" in given
    if nodes > 1 and not by_hand:
        raise ConfigError(
            f"hardware.num_nodes={nodes}, but nobody has started a process on each of them: start it by srun "
            f"--nodes={nodes}, or by torchrun"
        )


def _describe(place: Place) -> str:
    what = "task" if place.by == "srun" else "process"
    many = {"task": "tasks", "process": "processes"}[what] if place.size > 1 else what
    counts = " + ".join(map(str, place.per_node))
    where = f" on {len(place.per_node)} nodes ({counts})" if len(place.per_node) > 1 else ""
    who = "the environment (WORLD_SIZE) tells of" if place.by == "RANK" else f"{place.by} has started"
    return f"{who} {place.size} {many}{where}"


def _asked(devices: int, nodes: int) -> str:
    if devices * nodes == 1:
        return "one process"
    where = f", hardware.num_nodes={nodes}" if nodes > 1 else ""
    return f"{devices * nodes} (hardware.devices={devices}{where})"


def _advice(place: Place, devices: int, nodes: int) -> str:
    """Return the settings that go with what was started, where there are any."""
    if len(set(place.per_node)) > 1:
        return ""
    several = ["hardware=ddp"] if devices * nodes == 1 else []
    each = [f"hardware.devices={place.per_node[0]}"] if several or place.per_node[0] != devices else []
    there = [f"hardware.num_nodes={len(place.per_node)}"] if len(place.per_node) != nodes else []
    return f"add {' '.join([*several, *each, *there])}, or "
