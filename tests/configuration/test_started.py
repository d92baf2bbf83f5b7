"""What is said where others were started than the hardware asks for."""

import os

import pytest
from ranks import bare, by_hand, mpirun, srun

from molino.base.errors import CheckpointError, ConfigError, Followed
from molino.configuration.request import Request
from molino.configuration.started import check_started


@pytest.fixture
def asked(monkeypatch, tmp_path):
    for name in set(os.environ) - set(bare()):
        monkeypatch.delenv(name)

    def ask(environment: dict[str, str], devices: int = 1, nodes: int = 1, **more) -> None:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        settings = {"hardware": {"devices": devices, "num_nodes": nodes}, "paths": {"outputs": str(tmp_path)}}
        settings["resume"] = more.pop("resume", None)
        check_started(Request(settings, [], {}, **more))

    return ask


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none"}


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "says"),
    [
        (srun(0, (2,)), 1, 1, "srun has started 2 tasks, and hardware asks for one process: add hardware=ddp "
         "hardware.devices=2, or start it by srun --nodes=1 --ntasks=1 --ntasks-per-node=1"),
        (srun(0, (3,)), 2, 1, "srun has started 3 tasks, and hardware asks for 2 (hardware.devices=2): add "
         "hardware.devices=3, or start it by srun --nodes=1 --ntasks=2 --ntasks-per-node=2"),
        (srun(0, (2, 2)), 4, 1, "4 tasks on 2 nodes (2 + 2), and hardware asks for 4 (hardware.devices=4): add "
         "hardware.devices=2 hardware.num_nodes=2, or start it by srun --nodes=1 --ntasks=4 --ntasks-per-node=4"),
        (srun(0, (3, 1)), 2, 2, "4 tasks on 2 nodes (3 + 1), and hardware asks for 4 (hardware.devices=2, "
         "hardware.num_nodes=2): start it by srun --nodes=2 --ntasks=4 --ntasks-per-node=2"),
        (mpirun(0, (2,)), 4, 1, "mpirun has started 2 processes, and hardware asks for 4 (hardware.devices=4): add "
         "hardware.devices=2, or start it by mpirun -n 4, 4 on each node"),
        (by_hand(0, (2,), 9) | TORCHRUN, 4, 1, "torchrun has started 2 processes, .*or start it by torchrun "
         "--nnodes=1 --nproc-per-node=4"),
        (by_hand(0, (1,), 9) | TORCHRUN, 2, 1, "torchrun has started 1 process, .* add hardware.devices=1, or"),
        (by_hand(0, (2,), 9), 1, 1, r"the environment \(WORLD_SIZE\) tells of 2 processes, .* by WORLD_SIZE=1, LOCAL"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "MASTER_ADDR": "first"}, 1, 2,
         "hardware.num_nodes=2, but nobody has started a process on each of them: start it by srun --nodes=2"),
        ({}, 1, 2, "hardware.num_nodes=2, but nobody has started a process on each"),
    ],
)  # fmt: skip
def test_another_number_is_one_line(asked, environment, devices, nodes, says):
    literal = says if ".*" in says else says.replace("(", r"\(").replace(")", r"\)").replace("+", r"\+")
    with pytest.raises(ConfigError, match=literal):
        asked(environment, devices, nodes)


@pytest.mark.parametrize(
    ("environment", "devices", "nodes"),
    [
        (srun(0, (2,)), 2, 1),
        (srun(1, (1, 1)), 1, 2),
        (mpirun(1, (4,)), 4, 1),
        (by_hand(0, (2,), 9) | TORCHRUN, 2, 1),
        (by_hand(0, (1,), 9) | TORCHRUN, 1, 1),
        # Lightning starts the others of a machine.
        ({}, 4, 1),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, 2, 1),
        ({"MASTER_ADDR": "first"}, 1, 2),
    ],
)
def test_the_number_that_is_asked_for_is_right(asked, environment, devices, nodes):
    asked(environment, devices, nodes)


def test_the_first_process_says_it_and_no_other(asked):
    with pytest.raises(Followed) as left:
        asked(srun(1, (2,)))
    assert left.value.exit_code == ConfigError.exit_code


def test_what_another_process_has_settled_is_not_asked_again(asked):
    asked(srun(1, (2,)), settled=True)


def test_a_run_that_is_resumed_has_its_own_hardware(asked, tiny):
    with pytest.raises(ConfigError, match="hardware asks for one process"):
        asked(srun(0, (2,)), devices=2, resume=str(tiny.path))
    with pytest.raises(CheckpointError, match="there is no run nowhere"):
        asked(srun(0, (2,)), devices=2, resume="nowhere")
