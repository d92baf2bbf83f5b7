"""A run of several processes, trained by a command of its own: the program that calls is none to start once more."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from molino.base.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MolinoError,
    NonFiniteError,
    ResourceError,
)  # fmt: skip
from molino.base.processes import HANDED
from molino.configuration.request import Request
from molino.runs import directory
from molino.runs.status import read_status

ERRORS = {kind.exit_code: kind for kind in (ConfigError, DataError, CheckpointError, ResourceError, NonFiniteError)}


def train_apart(request: Request) -> Path:
    """Train a run by `molino train`; return its directory.

    Raises:
        MolinoError: as the command would have said.
        KeyboardInterrupt: it was interrupted; the run has been saved.
    """
    settings = request.settings
    path = request.path
    if settings["resume"]:
        path = directory.find(settings["resume"], settings["paths"]["outputs"])
    elif path is None:
        name = f"{settings['name']}_{datetime.now():%Y%m%d-%H%M%S}"
        path = directory.create(settings["paths"]["outputs"], name)
        request = request.at(path)
    environment = os.environ | {HANDED: request.to_text()}
    # In a session of its own: a terminal sends Ctrl-C to all of a program's processes, a notebook to the first alone.
    process = subprocess.Popen([sys.executable, "-m", "molino", "train"], env=environment, start_new_session=True)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise KeyboardInterrupt(f"interrupted; go on with resume={path}") from None
    if status:
        error = read_status(path).error or f"molino train ended with status {status}"
        if not (path / directory.CONFIG).is_file():
            _remove(path)
        raise ERRORS.get(status, MolinoError)(error)
    return path


def _remove(path: Path) -> None:
    """Remove what is left of a run that never began."""
    for file in path.iterdir():
        with suppress(OSError):
            file.unlink()
    with suppress(OSError):
        path.rmdir()
