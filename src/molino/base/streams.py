"""Standard streams as services, schedulers and other people's locales leave them: closed, or not UTF-8."""

import os
import sys
from contextlib import suppress

STREAMS = ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"))


def open_streams() -> None:
    """Open the standard streams that are closed on the null device, and have all of them escape what they cannot write.

    A run's output is its directory: it is no reason to end that nobody listens. Where a descriptor were left free the
    next file would get its number, and with it whatever is printed.
    """
    for number, name, mode in STREAMS:
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    escape_unwritable()


def escape_unwritable() -> None:
    """Have what standard output and error cannot write in their encoding appear as an escape, and end nothing."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # put in place of the real one by whoever reads it
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """Return a text in which what would command a terminal is an escape: names and models' texts may be anybody's."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
