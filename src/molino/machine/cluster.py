"""Who starts the processes of a distributed run: the cluster's scheduler or Lightning."""

import os

from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment, SLURMEnvironment


def cluster_plugins(processes: int) -> list[ClusterEnvironment]:
    """Return plugins for lightning.pytorch.Trainer: in a Slurm job, whether Slurm has started this run's processes.

    Lightning would take any job for one whose tasks are the run's processes, and would requeue it on a signal that is
    handled elsewhere (molino.sweeps.slurm).
    """
    if not SLURMEnvironment.detect():
        return []
    if processes > 1 and int(os.environ["SLURM_NTASKS"]) == processes:
        return [SLURMEnvironment(auto_requeue=False)]
    return [LightningEnvironment()]
