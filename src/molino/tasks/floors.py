"""The floors of a task, through the cache: counted once for all runs with the same text, tokenizer and task.

<cache>/counts/<digest of text and tokenizer>/floors-<digest of the rest>.json
"""

import hashlib
import inspect
import json
from dataclasses import asdict
from pathlib import Path

from molino.base.console import working
from molino.base.files import lock, sha256_file, write_text
from molino.data.counts import counts_directory
from molino.data.tokens import HINT, TokenizedCorpus
from molino.models.model import is_ours
from molino.runs.measures import Floor
from molino.tasks.check import check_floors
from molino.tasks.task import Task

# Raised whenever the floors of molino's own tasks come out otherwise than before.
VERSION = 1


def known_floors(task: Task, text: TokenizedCorpus, split: str, block_size: int) -> list[Floor] | None:
    """Return the floors of a split; None where nobody has counted them yet."""
    return _read(_path(task, text, split, block_size))


def count_floors(task: Task, text: TokenizedCorpus, split: str, block_size: int) -> list[Floor]:
    """Return the floors of a split, counted now if nobody has done so; of processes that come at once one counts.

    Raises:
        ConfigError: a task of people's own returns something else.
        ResourceError: the cache cannot be written.
    """
    path = _path(task, text, split, block_size)
    if (found := _read(path)) is None:
        with working("counting what a model has to beat"), lock(path.with_suffix(".lock"), hint=HINT):
            if (found := _read(path)) is None:
                found = task.floors(text, split, block_size)
                check_floors(task, found)
                write_text(path, json.dumps([asdict(floor) for floor in found], indent=2) + "\n")
    return found


def _path(task: Task, text: TokenizedCorpus, split: str, block_size: int) -> Path:
    kind = type(task)
    # One of people's own may change.
    version = VERSION if is_ours(task) else sha256_file(Path(inspect.getfile(kind)))
    settings = {name: value for name, value in vars(task).items() if not name.startswith("_")}
    asked = json.dumps([kind.__qualname__, version, settings, split, block_size], sort_keys=True, default=str)
    return counts_directory(text) / f"floors-{hashlib.sha256(asked.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> list[Floor] | None:
    """Return the floors in a file; None where it is absent or damaged."""
    try:
        floors = [Floor(**each) for each in json.loads(path.read_text("utf-8"))]
        sound = all(isinstance(floor.tag, str) and isinstance(floor.value, int | float) for floor in floors)
    except (OSError, ValueError, TypeError):
        return None
    return floors if sound else None
