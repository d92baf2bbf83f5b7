"""How many threads compute: what is said, in every process."""

import os

import pytest
import torch
from ranks import bare, srun

from molino.machine import threads
from molino.machine.hardware import Hardware
from molino.machine.threads import THREADS, threads_as_set, threads_of_each

STEP = srun(0, (2,))
BATCH = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "12"}


@pytest.fixture
def environment(monkeypatch):
    for name in set(os.environ) - set(bare()):
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads, "_cores", lambda: 8)
    before = torch.get_num_threads()
    yield lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("values", "processes", "expected"),
    [
        ({}, 1, THREADS),
        ({}, 2, 4),
        ({}, 16, 1),
        ({"OMP_NUM_THREADS": "3"}, 2, THREADS),
        (STEP | {"SLURM_CPUS_PER_TASK": "6", "OMP_NUM_THREADS": "3"}, 2, THREADS),
        (STEP | {"SLURM_CPUS_PER_TASK": "6"}, 2, 6),
        (STEP | {"SLURM_CPUS_ON_NODE": "10"}, 2, 5),
        (srun(0, (1,)) | {"SLURM_CPUS_PER_TASK": "6"}, 1, 6),
        (srun(0, (1,)) | {"SLURM_CPUS_PER_TASK": "6"}, 2, 3),
        # The script of a job, which has all that the job has on its node.
        (BATCH | {"SLURM_CPUS_PER_TASK": "3"}, 1, 12),
        (BATCH | {"SLURM_CPUS_PER_TASK": "3"}, 4, 3),
    ],
)
def test_the_environment_says_how_many(environment, values, processes, expected):
    environment(values)
    assert threads_of_each(processes) == expected


def test_a_setting_comes_first(environment):
    environment(STEP | {"SLURM_CPUS_PER_TASK": "6"})
    Hardware(accelerator="cpu", threads=2).use_threads(2)
    assert torch.get_num_threads() == 2
    Hardware(accelerator="cpu").use_threads(2)
    assert torch.get_num_threads() == 6


def test_nobody_sets_another_number_meanwhile(environment):
    from lightning.fabric.utilities.distributed import _set_num_threads_if_needed

    torch.set_num_threads(3)
    with threads_as_set():
        _set_num_threads_if_needed(1)
        assert torch.get_num_threads() == 3 and os.environ["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in os.environ
    environment({"OMP_NUM_THREADS": "5"})
    with threads_as_set():
        assert os.environ["OMP_NUM_THREADS"] == "3"
    assert os.environ["OMP_NUM_THREADS"] == "5"
