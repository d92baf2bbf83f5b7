"""Which of several processes this one is, by whoever has started it."""

import os

import pytest
from ranks import bare, by_hand, mpirun, srun

from molino.base.processes import is_further, is_main_process, slurm_job, started

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "GROUP_RANK": "1"}
STEP = {**srun(3, (2, 2)), "SLURM_CLUSTER_NAME": "alps"}
# What the batch script of a job of four tasks sees: it is none of them.
BATCH = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


@pytest.fixture
def environment(monkeypatch):
    def put(values: dict[str, str]) -> None:
        for name in set(os.environ) - set(bare()):
            monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("values", "by", "rank", "local_rank", "node", "per_node"),
    [
        (STEP, "srun", 3, 1, 1, (2, 2)),
        ({**STEP, "SLURM_STEP_TASKS_PER_NODE": "1(x3),2", "SLURM_STEP_NUM_TASKS": "5"}, "srun", 3, 1, 1, (1, 1, 1, 2)),
        (mpirun(1, (2,)), "mpirun", 1, 1, 0, (2,)),
        # Open MPI and Intel's start theirs within a step of one task for each node.
        ({**srun(0, (1, 1)), **mpirun(2, (4,)), "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
         "mpirun", 2, 0, 1, (2, 2)),
        ({**srun(0, (1, 1)), "PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
         "mpirun", 3, 1, 1, (2, 2)),
        # Slurm itself speaks PMI too.
        ({**STEP, "PMI_RANK": "3", "PMI_SIZE": "4"}, "srun", 3, 1, 1, (2, 2)),
        ({**srun(1, (1, 1)), **by_hand(2, (4,), 9), **TORCHRUN, "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"},
         "torchrun", 2, 0, 1, (2, 2)),
        ({**by_hand(0, (1,), 9), **TORCHRUN}, "torchrun", 0, 0, 1, (1,)),
        (by_hand(1, (2,), 9), "RANK", 1, 1, 0, (2,)),
        ({"RANK": "2", "WORLD_SIZE": "3", "MASTER_ADDR": "first"}, "RANK", 2, 0, 2, (1, 1, 1)),
    ],
)  # fmt: skip
def test_the_innermost_starter_says_which_process_this_is(environment, values, by, rank, local_rank, node, per_node):
    environment(values)
    place = started()
    found = (place.by, place.rank, place.local_rank, place.node, place.per_node)
    assert found == (by, rank, local_rank, node, per_node) and place.size == sum(per_node)
    assert is_main_process() == (rank == 0) and is_further() == (rank > 0)


@pytest.mark.parametrize(
    "values",
    [
        {},
        BATCH,
        {**srun(0, (1,)), "SLURM_NTASKS": "4"},
        mpirun(0, (1,)),
        {"PMI_RANK": "0", "PMI_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "first"},
        {"WORLD_SIZE": "4", "MASTER_ADDR": "first"},
    ],
)
def test_a_process_may_be_alone(environment, values):
    environment(values)
    assert started() is None and is_main_process() and not is_further()


def test_what_lightning_starts_is_no_main_process(environment):
    environment({**BATCH, "LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"})
    assert started() is None and not is_main_process()


def test_starts_are_told_apart(environment):
    jobs = []
    for values in (
        STEP,
        {**STEP, "SLURM_STEP_ID": "1"},
        {**STEP, "SLURM_RESTART_COUNT": "1"},
        {**STEP, "SLURM_CLUSTER_NAME": "andes"},
        mpirun(1, (2,)),
        {**mpirun(1, (2,)), "PMIX_NAMESPACE": "prterun-here-2@1"},
        {**by_hand(1, (2,), 9), **TORCHRUN},
        {**by_hand(1, (2,), 8), **TORCHRUN},
        {**by_hand(1, (2,), 9), **TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "1"},
    ):
        environment(values)
        jobs.append(started().job)
    assert len(set(jobs)) == len(jobs)
    # All processes of a start know the same.
    for values in (srun, mpirun):
        names = set()
        for rank in range(2):
            environment(values(rank, (2,)))
            names.add(started().job)
        assert len(names) == 1


def test_a_task_of_an_array_has_a_name_of_its_own(monkeypatch):
    for name, value in {"JOB_ID": "9", "ARRAY_JOB_ID": "9", "ARRAY_TASK_ID": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert slurm_job() == "9_2"
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    assert slurm_job() == "9"
