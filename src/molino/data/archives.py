"""Reading archives without trusting them. Nothing is ever extracted to disk."""

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from molino.base.errors import DataError

LIMIT_BYTES = 1 << 30
BUFFER_BYTES = 1 << 20
# Text is hardly ever packed to a tenth: what claims to hold more than this many times its size was made to do harm.
MOST_TIMES = 100
PACKERS = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ZIP = ".zip"
FOREIGN = "__MACOSX/"  # what some systems put beside each member, by the same name
# What the decompressors raise: of an encrypted .zip RuntimeError, of an unknown method NotImplementedError.
DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, NotImplementedError)
TAR_OPENERS = {".tar": io.FileIO, ".tgz": gzip.open, ".tar.gz": gzip.open, ".tar.bz2": bz2.open, ".tar.xz": lzma.open}


class File(Protocol):
    """What of a Path reading takes, so that what is packed in a file can stand for one."""

    @property
    def suffix(self) -> str: ...

    def stat(self) -> Any: ...

    def open(self, mode: str = "rb") -> Any: ...


class Unpacked:
    """The bytes of what is packed, as they are read; a user's mistake is told as one.

    Raises:
        DataError: while it is read: it is damaged, or holds more than text can.
    """

    def __init__(self, name: object, stream: BinaryIO, limit: int):
        self.name, self.stream, self.limit = name, stream, limit

    def __enter__(self) -> "Unpacked":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def read(self, size: int = -1) -> bytes:
        try:
            contents = self.stream.read(size if size >= 0 else self.limit + 1)
            place = self.stream.tell()
        except DAMAGED as error:
            raise damaged(self.name, error) from error
        if place > self.limit:
            raise DataError(f"{self.name} holds more than {self.limit:,} bytes of data; is it the right file?")
        return contents

    def seek(self, place: int) -> None:
        try:
            self.stream.seek(place)
        except DAMAGED as error:
            raise damaged(self.name, error) from error


class Compressed:
    """A compressed file, one of PACKERS, that is read as what is packed in it."""

    def __init__(self, path: Path):
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path.stem).suffix

    def stat(self) -> Any:
        return self.path.stat()

    def open(self, mode: str = "rb") -> Unpacked:
        return Unpacked(self, PACKERS[self.path.suffix.lower()](self.path, mode), most_bytes(self.path))


class Member:
    """A file in a .zip."""

    def __init__(self, archive: "Zip", entry: zipfile.ZipInfo):
        self.archive, self.entry = archive, entry

    def __str__(self) -> str:
        return f"{self.archive.path}/{self.entry.filename}"

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.entry.filename).suffix

    def stat(self) -> Any:
        return self.archive.path.stat()

    def open(self, mode: str = "rb") -> Unpacked:
        try:
            # Not more than the archive says it holds, which has been looked at.
            return Unpacked(self, self.archive.opened.open(self.entry), most_bytes(self.archive.path))
        except DAMAGED as error:
            raise damaged(self, error) from error


class Zip:
    """A .zip of files, opened once for all that is read of it."""

    def __init__(self, path: Path):
        self.path = path

    @cached_property
    def opened(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except DAMAGED as error:
            raise damaged(self.path, error) from error

    def members(self) -> list[Member]:
        """Return the files in it, in the order of their paths.

        Raises:
            DataError: it is damaged, a member is a link or lies outside of it, or it holds more than texts can.
        """
        found, total = [], 0
        for member in self.opened.infolist():
            _check_member(self.path, member.filename, is_plain=not stat.S_ISLNK(member.external_attr >> 16))
            if not member.is_dir() and not member.filename.startswith(FOREIGN):
                found.append(member)
                total += member.file_size
        if total > most_bytes(self.path):
            raise DataError(f"{self.path} says that it holds {total:,} bytes of data; is it the right file?")
        return [Member(self, each) for each in sorted(found, key=lambda each: PurePosixPath(each.filename))]


def most_bytes(path: Path) -> int:
    """Return how many bytes the text that is packed in a file may have."""
    return max(LIMIT_BYTES, MOST_TIMES * path.stat().st_size)


def damaged(name: object, error: Exception) -> DataError:
    """Return the error that says that something packed cannot be read, and why."""
    return DataError(f"{name} is damaged or not what its name says ({error}); get it again, or rename it")


def read_members(archive: Path, wanted: str, limit: int = LIMIT_BYTES) -> Iterator[tuple[str, bytes]]:
    """Yield name and contents of the members whose whole name matches the regular expression `wanted`.

    Reads .zip, .tar (plain or compressed) and .gz, whose only member is named like the file without `.gz`, in one
    pass and in the order of the archive.

    Raises:
        DataError: the archive is damaged or of another kind, a member is a link, a device or lies outside the archive
            (an absolute path or `..`), or the contents read exceed `limit` bytes.
    """
    pattern = re.compile(wanted)
    left = limit
    try:
        for name, stream in _streams(archive, pattern):
            contents = stream.read(left + 1)
            left -= len(contents)
            if left < 0:
                raise DataError(f"{archive} holds more than {limit:,} bytes of data; is it the right file?")
            yield name, contents
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        raise DataError(f"{archive} is damaged or not an archive ({error}); delete it and get it again") from error


def _streams(archive: Path, pattern: re.Pattern) -> Iterator[tuple[str, BinaryIO]]:
    name = archive.name
    if name.endswith(".zip"):
        yield from _zip_streams(archive, pattern)
    elif name.endswith(tuple(TAR_OPENERS)):
        yield from _tar_streams(archive, pattern)
    elif name.endswith(".gz"):
        if pattern.fullmatch(archive.stem):
            with gzip.open(archive) as stream:
                yield archive.stem, stream
    else:
        raise DataError(f"{archive} is no archive: .zip, .tar, .tar.gz, .tar.bz2, .tar.xz and .gz are known")


def _zip_streams(path: Path, pattern: re.Pattern) -> Iterator[tuple[str, BinaryIO]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            _check_member(path, member.filename, is_plain=not stat.S_ISLNK(member.external_attr >> 16))
            if pattern.fullmatch(member.filename) and not member.is_dir():
                with archive.open(member) as stream:
                    yield member.filename, stream


def _tar_streams(path: Path, pattern: re.Pattern) -> Iterator[tuple[str, BinaryIO]]:
    opener = next(opener for suffix, opener in TAR_OPENERS.items() if path.name.endswith(suffix))
    # Opening the decompressor here, with a large buffer, takes half the time of tarfile's own for 50,000 small members.
    with opener(path, "rb") as raw, tarfile.open(fileobj=io.BufferedReader(raw, BUFFER_BYTES), mode="r|") as archive:
        for member in archive:
            _check_member(path, member.name, is_plain=member.isfile() or member.isdir())
            if pattern.fullmatch(member.name) and member.isfile():
                yield member.name, archive.extractfile(member)


def _check_member(archive: Path, name: str, is_plain: bool) -> None:
    # Nothing is extracted, so such members could do no harm here; an archive that has them is not what it claims to be.
    if name.startswith(("/", "\\")) or ".." in PurePosixPath(name.replace("\\", "/")).parts or not is_plain:
        raise DataError(f"{archive} holds {name!r}, a link or a path outside the archive; it is not to be trusted")
