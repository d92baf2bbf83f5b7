"""One run of a sweep, in whatever process: what becomes of it is told, and the others go on."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from molino.base.console import say
from molino.base.errors import Interrupted
from molino.base.messages import complain, explain
from molino.base.streams import escape_unwritable
from molino.configuration.door import ALLOW
from molino.configuration.overrides import wants_traceback
from molino.configuration.request import Request
from molino.runs.status import Busy

LOG = "log.txt"  # in a run directory: what its process printed
# The process that started this one for a run of its sweep; a run does not outlive its sweep.
PARENT = "MOLINO_PARENT"
Train = Callable[[Request], Any]


def attempt(train: Train, request: Request, name: str | None = None) -> int:
    """Train a run; return 0, or the exit status of what went wrong, which has been told.

    Args:
        name: what the run is called then; None for what its directory is called.

    Raises:
        Interrupted: a signal is meant for all the runs of a sweep.
    """
    try:
        train(request)
    except Interrupted:
        raise
    except Busy as busy:
        say(str(busy))
    except Exception as error:
        return _tell(error, name or request.name)
    return 0


def _tell(error: Exception, name: str) -> int:
    """Say what went wrong in the run that is called `name`; return the exit status for it."""
    explained = explain(error)
    if explained is None or wants_traceback():
        traceback.print_exception(error)
    else:
        complain(type(explained)(f"{name}: {explained}"))
    return getattr(explained, "exit_code", 1)


@dataclass
class Context:
    """What a process needs to train runs of a sweep's command beside the runs themselves. It is sent there.

    Attributes:
        train: trains one run.
        prepare: checks runs as far as another machine can, and prepares what their text is read from.
        arguments, folder: the command, and where it was typed.
        allowed: the packages of people's own that are let in. A scheduler may hand on no environment.
    """

    train: Train
    prepare: Callable[[list[Request]], None]
    arguments: list[str] = field(default_factory=lambda: list(sys.argv))
    folder: str = field(default_factory=lambda: str(Path.cwd()))
    allowed: str = field(default_factory=lambda: os.environ.get(ALLOW, ""))

    def enter(self) -> None:
        """Make this process one of the sweep's."""
        os.chdir(self.folder)
        sys.argv = list(self.arguments)
        os.environ[ALLOW] = self.allowed
        escape_unwritable()

    def attempt(self, request: Request) -> None:
        """Train a run; whatever it prints goes to `log.txt` in its directory. A signal ends the process."""
        with output_to(request.path / LOG):
            try:
                attempt(self.train, request)
            except Interrupted as stop:
                complain(stop)
                sys.exit(stop.exit_code)


def leave_with(parent: int) -> None:
    """Send this process SIGTERM when `parent` dies, so that it saves and ends."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Append whatever this process and its children print to the file `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush(), sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        for number, original in zip((1, 2), saved, strict=True):
            os.dup2(original, number)
            os.close(original)
