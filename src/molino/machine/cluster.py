"""Who starts the processes of a distributed run: Lightning, or somebody who has started this one beside others."""

import os

from lightning.pytorch.plugins.environments import ClusterEnvironment, LightningEnvironment

from molino.base.processes import Place, started


def cluster_plugins(processes: int) -> list[ClusterEnvironment]:
    """Return plugins for lightning.pytorch.Trainer: who has started, or will start, so many processes of a run.

    Lightning would take any job for one whose tasks are the run's processes, and would requeue it on a signal that is
    handled elsewhere.
    """
    place = started()
    return [LightningEnvironment() if place is None or processes == 1 else Started(place)]


class Started(ClusterEnvironment):
    """Processes that are there already. Where the first of them is found the environment says."""

    def __init__(self, place: Place):
        super().__init__()
        self.place = place

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        return started() is not None

    def world_size(self) -> int:
        return self.place.size

    def set_world_size(self, size: int) -> None:
        """It is what it is."""

    def global_rank(self) -> int:
        return self.place.rank

    def set_global_rank(self, rank: int) -> None:
        """It is what it is."""

    def local_rank(self) -> int:
        return self.place.local_rank

    def node_rank(self) -> int:
        return self.place.node
