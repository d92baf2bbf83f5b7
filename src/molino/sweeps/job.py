"""One run of a sweep, in whatever process: it claims its directory, goes on where an earlier one stopped, and records
what became of it. What is done already is not done again."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from molino.base.console import say
from molino.base.errors import ConfigError
from molino.runs.directory import Busy, announced, assigned, is_done, is_main_process, read_summary, readable_name
from molino.runs.status import claim

# The process that started this one for a run of its sweep; a run does not outlive its sweep.
PARENT = "MOLINO_PARENT"


def in_directory(run: Callable[[Any], float], config: Any) -> float | None:
    """Train the run of `config`: in a directory of its own, or in the one that its sweep has for it.

    Returns the held-out loss; of a run that another process is training, None.
    """
    hydra = HydraConfig.get()
    path = assigned()
    if hydra.mode == RunMode.MULTIRUN:
        refuse_resume(config)
        path = directory_of(hydra)
    elif path is None and config.sweep is not None:
        raise ConfigError(f"sweep={config.sweep} names a sweep, and this is a single run: add -m")
    if path is None or not is_main_process():
        with announced(path):
            # The first process finds the same and has nothing to share.
            return None if path is not None and is_done(path) else run(config)
    if PARENT in os.environ:
        leave_with(int(os.environ[PARENT]))
    try:
        with announced(path), claim(path):
            # Of two sweeps that are after the same run the second comes here when the first has ended it.
            return read_summary(path)["val/loss"] if is_done(path) else run(config)
    except Busy as busy:
        say(str(busy))
        return None


def refuse_resume(config: Any) -> None:
    """Refuse `resume=` in a sweep.

    Raises:
        ConfigError: it is there.
    """
    if config.resume:
        raise ConfigError("resume= goes on with one run; to go on with a sweep, give its command again")


def directory_of(hydra: Any) -> Path:
    """Return the directory of a run in a multirun. A sweeper that says none gets one named after the overrides."""
    subdir = str(hydra.sweep.subdir)
    if subdir == ".":
        subdir = readable_name([o for o in hydra.overrides.task if not o.startswith("paths.")])
    return Path(str(hydra.sweep.dir)) / subdir


def leave_with(parent: int) -> None:
    """Send this process SIGTERM when `parent` dies, so that it saves and ends."""
    import signal

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Append whatever this process and its children print to the file `log`."""
    import sys

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
