"""The seam between sweeps and whatever trains their runs elsewhere: a process of this machine, a job of a cluster.

Another scheduler (PBS, LSF, a cloud) is a file beside these: a class with these methods, which conf/hydra/launcher/
names, and a function that tells where its jobs stand, which molino.sweeps.standing lists.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from molino.configuration.request import Request
from molino.sweeps.display import Display


@dataclass(frozen=True)
class Told:
    """What a scheduler says of a job.

    Attributes:
        job: what the scheduler calls it.
        state: `pending`, `running`, `cancelled` by its owner, or `failed`: it has ended, but for the good ends, which
            the run's directory tells.
        reason: the scheduler's own words for that.
        since: when it began to run, as the scheduler writes it.
    """

    job: str
    state: str
    reason: str = ""
    since: str = ""


class Scheduler(Protocol):
    """What runs are handed to, and asked about."""

    def room(self, held: int) -> int:
        """Return how many runs it would take now, beside those it holds."""

    def submit(self, requests: list[Request]) -> list[Request]:
        """Hand over runs; return those that it has no place for yet."""

    def ask(self, held: list[Request], display: Display) -> list[Request]:
        """Wait for something to happen, but not long; have it shown, and return the runs that have ended."""

    def cancel(self, held: list[Request], number: int | None = None) -> None:
        """Take back runs that have not begun; where a signal is named, end those that have by it: they save."""


def drive(scheduler: Scheduler, requests: Iterable[Request], display: Display, held: list[Request]) -> Iterator[None]:
    """Hand runs over as there is room for them, until all have ended; yield whenever something may have happened.

    Args:
        requests: each is asked for when there is room for it.
        held: those that the scheduler has. It is kept up to date for whoever stops in between.
    """
    requests, back = iter(requests), []
    while True:
        while (room := scheduler.room(len(held))) > 0:
            batch = [*back, *islice(requests, max(room - len(back), 0))]
            back = scheduler.submit(batch) if batch else []
            refused = {request.path for request in back}
            for request in (request for request in batch if request.path not in refused):
                held.append(request)
                display.start(request)
            if back or not batch:
                break
        display.refresh()
        yield
        if not (held or back):
            return
        ended = scheduler.ask(held, display)
        gone = {request.path for request in ended}
        held[:] = [request for request in held if request.path not in gone]
        for request in ended:
            display.end(request)
