"""How a call from Python leaves the process: as it found it; and what it raises, in one line."""

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator

import torch

from molino.base.console import console
from molino.base.errors import Interrupted
from molino.base.messages import explain
from molino.machine.memory import return_freed_memory

# Those that are quietened while a run trains.
LOGGERS = ("lightning.pytorch", "lightning.fabric", "lightning.fabric.strategies.launchers.subprocess_script")


class Explained:
    """Within it, what goes wrong is raised as an error of molino's, which says so in one line; a defect as it is.

    Raises:
        KeyboardInterrupt: a run was interrupted; it says how to go on with it.
    """

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Interrupted) and error.exit_code == 128 + signal.SIGINT:
            raise KeyboardInterrupt(str(error)) from None
        if isinstance(error, Exception) and (told := explain(error)) is not None:
            # Where in molino it was noticed is nothing to the person.
            raise told.with_traceback(None) from None


@contextlib.contextmanager
def put_back(arguments: list[str], quiet: bool = False) -> Iterator[None]:
    """Put back what training sets for the whole process: torch's settings and random state, signal handlers, loggers,
    warnings, the environment.

    Args:
        arguments: what a command would have been called with; a run records it.
        quiet: print nothing meanwhile.
    """
    threads, matmul, dtype = torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.get_default_dtype()
    denormals, environment, argv, silent = _flushes_denormals(), dict(os.environ), sys.argv, console.quiet
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    handlers = _handlers()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    sys.argv, console.quiet = ["molino", *arguments], silent or quiet
    try:
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            yield
    finally:
        sys.argv, console.quiet = argv, silent
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(matmul)
        torch.set_default_dtype(dtype)
        torch.set_flush_denormal(denormals)
        return_freed_memory()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def _flushes_denormals() -> bool:
    """Tell whether torch takes the smallest numbers for 0. It can be set, but not asked."""
    return (torch.tensor(1e-40) * 1.0).item() == 0.0


def _handlers() -> dict[int, object]:
    """Return the handlers that can be set again: Python takes none from other threads, and knows not all there are."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    known = {number: signal.getsignal(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}}
    return {number: handler for number, handler in known.items() if handler is not None}
