"""The processes of `hydra/launcher=local`: each trains one run at a time, with devices and threads of its own.

A worker stays for many runs, so that the interpreter and torch are started once. A run that is distributed over several
processes is a command of its own instead: Lightning starts the further processes by repeating it.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from molino.base.processes import HANDED, environment
from molino.configuration.request import Request
from molino.runs.status import CUT_OFF, NOT_BEGUN, RUNNING, fail, read_status
from molino.sweeps.attempt import LOG, PARENT, Context, leave_with, output_to


class Worker:
    """A place where one run at a time is trained.

    Args:
        context: of the sweep.
        environment: what sets this place apart: its GPUs, its threads.
        log: the file for whatever the process says outside of its runs.

    Attributes:
        request: the run that it is training.
    """

    def __init__(self, context: Context, environment: dict[str, str], log: Path):
        self.context, self.log = context, log
        self.environment = environment | {PARENT: str(os.getpid())}
        self.request: Request | None = None
        self.process: Any = None
        self.command: subprocess.Popen | None = None
        self.connection: Connection | None = None

    def start(self, request: Request) -> None:
        """Begin to train a run."""
        self.request = request
        if request.processes > 1:
            self.command = self._start_command(request)
            return
        if self.process is None:
            self._start_process()
        self.connection.send(request)

    def waitable(self) -> list[Any]:
        """Return what multiprocessing.connection.wait can wait for: the run's end or the process's."""
        return [] if self.command is not None else [self.connection, self.process.sentinel]

    def ended(self) -> bool:
        """Tell whether the run has ended; if its process died of it, record that."""
        if self.command is not None:
            if (status := self.command.poll()) is None:
                return False
            self.command = None
            self._record_death(status)
            return True
        with contextlib.suppress(EOFError, OSError):
            if self.connection.poll():
                self.connection.recv()
                return True
        if self.process.is_alive():
            return False
        status = self.process.exitcode
        self._drop_process()
        self._record_death(status)
        return True

    def interrupt(self, number: int) -> None:
        """Send a signal to the run, if there is one."""
        with contextlib.suppress(ProcessLookupError):
            if self.command is not None:
                os.killpg(self.command.pid, number)
            elif self.request is not None and self.process is not None:
                os.kill(self.process.pid, number)

    def close(self) -> None:
        """Let the process end, and wait for it."""
        if self.command is not None:
            self.command.wait()
        if self.process is not None:
            with contextlib.suppress(OSError):
                self.connection.send(None)
            self.process.join()
            self._drop_process()

    def _start_process(self) -> None:
        # Fresh interpreters: a fork of this process would share its threads' locks, and CUDA does not survive one.
        processes = multiprocessing.get_context("spawn")
        connection, other = processes.Pipe()
        process = processes.Process(target=_work, args=(other, self.context, self.log))
        with environment(self.environment):
            process.start()
        other.close()
        self.process, self.connection = process, connection

    def _start_command(self, request: Request) -> subprocess.Popen:
        request.path.mkdir(parents=True, exist_ok=True)
        variables = os.environ | self.environment | {HANDED: request.to_text()}
        with (request.path / LOG).open("ab") as log:
            command = [sys.executable, "-m", "molino", "train", *request.overrides]
            return subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)

    def _drop_process(self) -> None:
        self.connection.close()
        self.process.close()
        self.connection = self.process = None

    def _record_death(self, status: int) -> None:
        """Record a run as failed whose process ended without a word; one that was stopped can go on."""
        state = read_status(self.request.path).state
        # The last is the first process's word for the death of another.
        codes = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGKILL)
        stopped = status in codes
        if state in (NOT_BEGUN, RUNNING, CUT_OFF) and status != 0 and not stopped:
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            said = f" and {self.log}" if self.log.is_file() and self.log.stat().st_size else ""
            fail(self.request.path, f"its process {how}: see {self.request.path / LOG}{said}")


def _work(connection: Connection, context: Context, log: Path) -> None:
    """Train runs until there are none: the whole life of a worker's process."""
    os.setpgid(0, 0)  # Ctrl-C is for the sweep's own process, which tells the others
    leave_with(int(os.environ[PARENT]))
    with contextlib.suppress(KeyboardInterrupt, EOFError), output_to(log):
        context.enter()
        # The runs are claimed by this process, which has no other parent to watch from now on.
        del os.environ[PARENT]
        while (request := connection.recv()) is not None:
            context.attempt(request)
            connection.send(None)
