"""`hydra/launcher=local`: runs that train at the same time on this machine, each in a process of its own."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import NoReturn

from molino.base.console import say
from molino.base.errors import Interrupted
from molino.configuration.request import Request
from molino.sweeps.attempt import Context
from molino.sweeps.devices import check_numbers, share
from molino.sweeps.display import Display
from molino.sweeps.scheduler import drive
from molino.sweeps.workers import Worker

SECONDS_BETWEEN_LOOKS = 0.5


class Local:
    """Trains runs by workers, which stay until `close`.

    Args:
        context: of the sweep.
        workers, runs_per_gpu, threads: as molino.sweeps.devices.share takes them.
    """

    waits, one_by_one, distributes, scheduler = True, True, True, None

    def __init__(self, context: Context, workers: int | None = None, runs_per_gpu: int = 1, threads: int | None = None):
        # Before any run is recorded as queued.
        check_numbers(workers=workers, runs_per_gpu=runs_per_gpu, threads=threads)
        self.context = context
        self.settings = (workers, runs_per_gpu, threads)
        self.workers: list[Worker] = []
        self.log: Path | None = None

    def ready(self, requests: list[Request]) -> bool:
        return True

    def train(self, requests: Iterator[Request], largest: Request, count: int, at_once: int | None = None) -> None:
        """Train `count` runs, each of which is asked for when a worker is free for it.

        Raises:
            KeyboardInterrupt, Interrupted: a signal came; the runs have saved and ended.
        """
        if not self.workers:
            self.log = largest.path.parent / "workers.log"
            self.workers = [Worker(self.context, each, self.log) for each in share(largest, count, *self.settings)]
        held: list[Request] = []
        with _sigterm_raises(), Display(count) as display:
            try:
                for _ in drive(self, requests, display, held):
                    pass
            except (KeyboardInterrupt, Interrupted) as stop:
                self._stop(signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM, display, held)
                raise

    def room(self, held: int) -> int:
        return len(self.workers) - held

    def submit(self, requests: list[Request]) -> list[Request]:
        """Have free workers begin to train runs."""
        free = [worker for worker in self.workers if worker.request is None]
        for worker, request in zip(free, requests, strict=False):
            worker.start(request)
        return []

    def ask(self, held: list[Request], display: Display) -> list[Request]:
        """Return the runs that have ended; wait for one, but no longer than a person would for news."""
        wait([thing for worker in self._busy() for thing in worker.waitable()], SECONDS_BETWEEN_LOOKS)
        ended = [worker for worker in self._busy() if worker.ended()]
        requests = [worker.request for worker in ended]
        for worker in ended:
            worker.request = None
        return requests

    def cancel(self, held: list[Request], number: int | None = None) -> None:
        """Send a signal to runs; what a worker holds has begun."""
        paths = {request.path for request in held}
        for worker in self._busy():
            if number is not None and worker.request.path in paths:
                worker.interrupt(number)

    def close(self) -> None:
        """Let the workers end; a run that still trains, because the sweep ends in an error, saves first."""
        for worker in self._busy():
            worker.interrupt(signal.SIGTERM)
        for worker in self.workers:
            worker.close()
        self.workers = []
        if self.log is not None and self.log.is_file() and not self.log.stat().st_size:
            self.log.unlink()

    def _stop(self, number: int, display: Display, held: list[Request]) -> None:
        say(
            "stopping: the runs finish their block of steps, save and end (once more ends them at once); the same "
            "command goes on with them"
        )
        while self._busy():
            # The signal may have come when one had just been begun.
            held[:] = [worker.request for worker in self._busy()]
            for request in held:
                if request not in display.running:
                    display.start(request)
            self.cancel(held, number)
            with suppress(KeyboardInterrupt, Interrupted):
                for _ in drive(self, [], display, held):
                    pass

    def _busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.request is not None]


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    def stop(number: int, frame: object) -> NoReturn:
        raise Interrupted("SIGTERM: the runs of the sweep have saved; go on by giving its command again", number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
