"""`molino.train`: a run by the same settings as on the command line."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from molino.api.apart import train_apart
from molino.api.aside import Explained, put_back
from molino.api.run import Run
from molino.base.errors import ConfigError, DataError
from molino.base.files import make_directory, write_text
from molino.base.processes import started as place_of_process
from molino.configuration.composer import compose
from molino.configuration.request import Request
from molino.training.run import open_run
from molino.verbs import train as verb


def train(overrides: Sequence[str] = (), *, corpus: str | None = None, quiet: bool = False) -> Run:
    """Train a model and return its run; as `molino train` with these settings.

    Args:
        overrides: such as ["model=bigram", "data=quijote", "trainer.max_steps=500"]; also `--config-dir=<folder>`.
        corpus: a text to train on, in place of `data=...`. It is kept in the cache, where the run finds it again.
        quiet: print nothing.

    Raises:
        MolinoError: a setting, the text, the machine or another run does not allow it; in one line.
        KeyboardInterrupt: Ctrl-C, or the notebook's stop; the run has been saved and can be gone on with.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides={overrides!r} is one text: give a list, such as [{overrides!r}]")
    if (place := place_of_process()) is not None and place.size > 1:
        raise ConfigError(
            f"a Python program is one process, and {place.by} has started {place.size} of this one: start one, or "
            f"have {place.by} start `molino train`"
        )
    arguments = [str(override) for override in overrides]
    with Explained(), put_back(arguments, quiet):
        request = compose("train", arguments) if corpus is None else _on_text(arguments, corpus)
        started = time.perf_counter()
        if request.processes > 1:
            return Run(train_apart(request))
        with open_run(request) as run:
            if run.summary is None:
                verb.train(run, started)
        return Run(run.path)


def _on_text(arguments: list[str], corpus: str) -> Request:
    """Return what is asked for with a text that is given, kept as a file that its content names."""
    if named := [each for each in arguments if each.partition("=")[0] in ("data", "data.path", "resume", "continue")]:
        raise ConfigError(f"corpus= and {named[0]} name two texts: give one of them")
    if not isinstance(corpus, str):
        raise ConfigError(f"corpus= must be a text, not a {type(corpus).__name__}")
    if not corpus:
        raise DataError("corpus= is empty: give a text to train on")
    try:
        content = corpus.encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"U+{ord(corpus[error.start]):04X}"
        raise DataError(f"corpus= holds half a character ({half}) at {error.start}: decode it anew") from error
    # Where the cache is the settings say.
    request = compose("train", ["data=text", "data.path=.", *arguments])
    folder = Path(request.settings["paths"]["cache"]) / "texts"
    file = folder / f"{hashlib.sha256(content).hexdigest()[:16]}.txt"
    make_directory(folder)
    if not file.is_file():
        write_text(file, corpus)
    data = request.settings["data"]
    settings = request.settings | {"data": data | {"corpus": data["corpus"] | {"path": str(file)}}}
    overrides = [f"data.path={file}" if each == "data.path='.'" else each for each in request.overrides]
    return replace(request, settings=settings, overrides=overrides)
