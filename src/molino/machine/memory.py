"""Memory of the process: freed memory is used again, not given back and asked for anew at every step."""

import contextlib
import ctypes
import gc

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = -1


def keep_freed_memory() -> None:
    """Have glibc keep what is freed from now on for the next tensor; on other systems this does nothing.

    By itself glibc gives tensors of more than some megabytes back to the system when they are freed, which then fills
    every page of the next ones with zeros: up to a fifth of a step on CPUs, see docs/speed.md. In return a process
    stays as large as it was at its largest since this was called, and grows larger by what lies between tensors. What
    is free now, as after an earlier run or the preparation of a corpus, is given back.
    """
    # Trainers, their modules and optimizers refer to each other in circles.
    gc.collect()
    # Not every C library has these.
    with contextlib.suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, NEVER)
        library.malloc_trim(0)
