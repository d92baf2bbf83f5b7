"""Memory of the process: freed memory is used again, not given back and asked for anew at every step."""

import contextlib
import ctypes
import gc

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = -1
# What they are by themselves.
MMAP_MAX, TRIM_THRESHOLD = 65536, 128 * 1024


def keep_freed_memory() -> None:
    """Have glibc keep what is freed from now on for the next tensor; on other systems this does nothing.

    By itself glibc gives tensors of more than some megabytes back to the system when they are freed, which then fills
    every page of the next ones with zeros: up to a fifth of a step on CPUs, see docs/speed.md. In return a process
    stays as large as it was at its largest since this was called, and grows larger by what lies between tensors. What
    is free now, as after an earlier run or the preparation of a corpus, is given back.
    """
    # Trainers, their modules and optimizers refer to each other in circles.
    gc.collect()
    _tell_malloc(0, NEVER)


def return_freed_memory() -> None:
    """Have glibc give back what is freed, as by itself, also what is free now."""
    _tell_malloc(MMAP_MAX, TRIM_THRESHOLD)


def _tell_malloc(mmap_max: int, trim_threshold: int) -> None:
    # Not every C library has these.
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, mmap_max)
        library.mallopt(M_TRIM_THRESHOLD, trim_threshold)
        library.malloc_trim(0)
