"""What a search needs of Optuna beyond its documented interface. Checked on Optuna 5.0.0 by test_search_internals.py.

A trial that was asked for in another process cannot be asked for again, only made from its id; and a file that Optuna
writes can only be mended while nobody else appends to it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial


def reopen(study: Study, trial: FrozenTrial) -> Trial:
    """Return a trial that was asked for earlier, to report to and to complete."""
    return Trial(study, trial._trial_id)


def complete(trial: Trial, space: dict[str, BaseDistribution]) -> None:
    """Have the study's sampler draw the values that a trial lacks, as Study.ask does."""
    for name, distribution in space.items():
        trial._suggest(name, distribution)


@contextmanager
def locked(journal: Path) -> Iterator[None]:
    """Hold the lock under which JournalFileBackend appends to a file."""
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
