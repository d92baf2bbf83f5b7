"""Standard output that nobody reads to its end."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def until_nobody_reads() -> Iterator[None]:
    """Leave quietly, as programs do that SIGPIPE ends, when whoever read the output has seen enough."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Nothing is left to be said, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
