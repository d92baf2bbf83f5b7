"""Memory of the process: freed memory is used again, not given back and asked for anew at every step."""

import contextlib
import ctypes

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = -1


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next tensor, from now on; on other systems this does nothing.

    By itself glibc gives tensors of more than some megabytes back to the system when they are freed, which then fills
    every page of the next ones with zeros: a tenth to a fifth of a step on CPUs, see docs/speed.md. In return a process
    stays as large as it was at its largest, and grows larger by what lies between tensors.
    """
    # Not every C library has it.
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)
