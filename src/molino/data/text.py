"""Texts of any length: strings, and files that are read a piece at a time whenever somebody iterates over them."""

import codecs
import copy
import io
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from molino.base.errors import ConfigError, DataError
from molino.data.archives import File

CHUNK_BYTES = 1 << 20
CHUNK_CHARACTERS = 1 << 20
BYTE_ORDER_MARK = "\ufeff"
# Their codecs ask for a byte order mark when they decode a stream, but not when they decode a whole.
MARKED = {"utf-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)}


class Text(Protocol):
    """What `str` is, and what a text larger than memory can be: `len` counts characters, iterating yields strings that
    make up the text in order, of any size, as often as it is asked to."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[str]: ...


def strings(text: Text) -> Iterator[str]:
    """Yield the strings that make up `text`: of a string they are parts, so that nobody works on it as a whole."""
    if not isinstance(text, str):
        yield from text
        return
    for start in range(0, len(text), CHUNK_CHARACTERS):
        yield text[start : start + CHUNK_CHARACTERS]


class Metered:
    """A text that calls `report` with every string of it that has been read and worked on."""

    def __init__(self, text: Text, report: Callable[[str], None]):
        self.text, self.report = text, report

    def __len__(self) -> int:
        return len(self.text)

    def __iter__(self) -> Iterator[str]:
        for string in strings(self.text):
            yield string
            self.report(string)


class Mark(NamedTuple):
    """A place in a file from which it can be decoded, though a character may be in two parts there."""

    characters: int
    byte: int
    state: tuple[bytes, int]


class FileText:
    """The text of a file, or with `text[start:stop]` a stretch of it: a byte order mark dropped, line ends as they are.

    The file is decoded once when this is made, so that all that is wrong with it shows at once.

    Args:
        path: of the file, or what is packed in one (`data/archives.py`).
        encoding: of the file.
        version: what `file_version` said when the file was first looked at; None for now.
        universal: whether \\r\\n and \\r are read as \\n.
        limit: of the characters only so many, from the start; what comes behind is hardly looked at. None for all.

    Raises:
        ConfigError: Python knows no such encoding.
        DataError: the file cannot be read, has changed since it was first looked at, or is not in this encoding; names
            the file and the offset of the first bad byte. Also while it is read.
    """

    def __init__(
        self,
        path: File,
        encoding: str = "utf-8",
        version: tuple[int, int] | None = None,
        universal: bool = False,
        limit: int | None = None,
    ):
        self.path, self.encoding, self.version = path, encoding, version or file_version(path)
        self.codec, self.universal = _decoder(path, encoding), universal
        self.marks = [Mark(0, 0, self.decoder().getstate())]
        for _, mark in self._decode(self.marks[0]):
            # Only marks behind a character: what begins at another one never holds the byte order mark.
            if mark.characters > self.marks[-1].characters:
                self.marks.append(mark)
            if limit is not None and mark.characters >= limit:
                break
        end = self.marks[-1].characters
        self.start, self.stop = 0, end if limit is None else min(end, limit)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, stretch: slice) -> "FileText":
        start, stop, _ = stretch.indices(len(self))
        part = copy.copy(self)
        part.start, part.stop = self.start + start, self.start + max(start, stop)
        return part

    def __iter__(self) -> Iterator[str]:
        before = self.marks[bisect_right(self.marks, self.start, key=lambda mark: mark.characters) - 1]
        at = before.characters
        for string, mark in self._decode(before):
            if stretch := string[max(self.start - at, 0) : max(self.stop - at, 0)]:
                yield stretch
            at = mark.characters
            if at >= self.stop:
                break

    def decoder(self) -> codecs.IncrementalDecoder:
        """Return what decodes the file from its start."""
        return io.IncrementalNewlineDecoder(self.codec(), translate=True) if self.universal else self.codec()

    def _decode(self, mark: Mark) -> Iterator[tuple[str, Mark]]:
        """Yield what follows `mark`, a chunk at a time, each with the mark behind it."""
        decoder = self.decoder()
        decoder.setstate(mark.state)
        began = mark.characters > 0
        for chunk in self._chunks(mark.byte):
            waiting = decoder.getstate()[0]
            try:
                string = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place = mark.byte - len(waiting) + error.start
                raise not_encoded(self.path, self.encoding, error.object[error.start], place) from error
            if string and not began:
                string, began = string.removeprefix(BYTE_ORDER_MARK), True
            mark = Mark(mark.characters + len(string), mark.byte + len(chunk), decoder.getstate())
            yield string, mark

    def _chunks(self, start: int) -> Iterator[bytes]:
        """Yield the bytes from `start` on, and nothing as the last chunk."""
        chunk = None
        try:
            with self.path.open("rb") as file:
                check_unchanged(self.path, self.version)
                file.seek(start)
                while chunk != b"":
                    chunk = file.read(CHUNK_BYTES)
                    yield chunk
        except OSError as error:
            raise DataError(f"{self.path} cannot be read ({error.strerror})") from error


def decoded(path: File, encoding: str = "utf-8", version: tuple[int, int] | None = None) -> Iterator[str]:
    """Yield the strings of a file that is read once, as far as somebody asks for them; see `FileText`."""
    text = FileText(path, encoding, version, limit=1)
    return (string for string, _ in text._decode(text.marks[0]))


def file_version(path: File) -> tuple[int, int]:
    """Return what changes when a file does: its size and when it was written. Raises DataError if there is no file."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    return found.st_size, found.st_mtime_ns


def check_unchanged(path: File, version: tuple[int, int]) -> None:
    """Raise DataError unless a file is what it was when `file_version` said this of it."""
    if file_version(path) != version:
        raise DataError(f"{path} was changed while it was read; run again when it is complete")


def not_encoded(origin: str | Path, encoding: str, byte: int, offset: int) -> DataError:
    """Return the error that says which byte of `origin` is not in the encoding."""
    return DataError(
        f"{origin} is not {encoding}: byte 0x{byte:02x} at offset {offset:,}; "
        "convert the file or name its encoding with data.corpus.encoding="
    )


def unknown_encoding(encoding: str) -> ConfigError:
    """Return the error that says Python knows no such encoding."""
    return ConfigError(f"encoding={encoding} is unknown; utf-8, utf-16, latin-1 and cp1252 are common")


def read_start(path: File, count: int) -> bytes:
    """Return the first `count` bytes of a file. Raises DataError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error


def _decoder(path: File, encoding: str) -> type[codecs.IncrementalDecoder]:
    try:
        b"a".decode(encoding, "ignore")  # refuses what is a codec but not of text, such as rot13
        name = codecs.lookup(encoding).name
    except LookupError as error:
        raise unknown_encoding(encoding) from error
    if name in MARKED and not read_start(path, 4).startswith(MARKED[name]):
        name = f"{name}-{sys.byteorder[0]}e"
    return codecs.getincrementaldecoder(name)
