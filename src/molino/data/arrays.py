"""Arrays that are written to a .npy file as they come, in constant memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from molino.base.files import atomic_write


class Appender:
    """A flat array in an open .npy file, which numpy reads once `close` has told its length.

    Attributes:
        length: how many elements have been written.
    """

    def __init__(self, file: BinaryIO, dtype: type[np.integer]):
        self.file, self.dtype, self.length = file, np.dtype(dtype), 0
        self._write_header()

    def append(self, elements: np.ndarray | Sequence[int]) -> None:
        elements = np.asarray(elements, self.dtype)
        self.file.write(elements.data)
        self.length += len(elements)

    def close(self) -> None:
        self.file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        # It has the same size whatever the length: numpy leaves room for growth.
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.file, header)


@contextmanager
def append_array(path: Path, dtype: type[np.integer], hint: str = "") -> Iterator[Appender]:
    """Write a flat array of unknown length, under a temporary name until it is whole; as `files.atomic_write`."""
    with atomic_write(path, hint) as file:
        array = Appender(file, dtype)
        yield array
        array.close()
