"""Files pinned by their checksum: from the cache, from a mirror or from the internet, in this order.

A mirror is a folder laid out as `raw/<corpus>/<file>`, for machines without internet. Its files are used in place.
A download can be cut off anywhere: what has arrived waits in a `.part` file and the next call goes on from there; the
file takes its name only after its checksum has been verified.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rich import progress
from rich.console import Console

from molino.base.errors import ConfigError, DataError
from molino.base.files import explain_os_errors, lock, sha256_file
from molino.data.archives import read_members

CACHE_HINT = "; set MOLINO_CACHE or paths.cache"
MIRROR_ADVICE = "and set MOLINO_MIRROR or paths.mirror to that mirror folder"
CHUNK_BYTES = 1 << 18
NETWORK_TIMEOUT_SECONDS = 30
SECONDS_BETWEEN_LINES = 5


@dataclass(frozen=True)
class RemoteFile:
    """A file known by its contents.

    Attributes:
        url: where it can be downloaded; None if only a mirror has it.
        sha256: checksum of its bytes, in hex.
        mirror_path: where a mirror keeps it, below `<mirror>/raw/`.
        member: its name in the archive at `url`; None where there is no archive.
    """

    url: str | None
    sha256: str
    mirror_path: str
    member: str | None = None

    def __post_init__(self):
        # Both become parts of paths, and a configuration may be somebody else's.
        if not (isinstance(self.sha256, str) and re.fullmatch("[0-9a-f]{64}", self.sha256)):
            raise ConfigError(
                f"sha256={self.sha256} is no checksum: give the 64 hexadecimal digits that sha256sum prints"
            )
        path = PurePosixPath(self.mirror_path) if isinstance(self.mirror_path, str) else None
        if not (path and path.name) or path.is_absolute() or ".." in path.parts:
            raise ConfigError(f"mirror_path={self.mirror_path} has to be a path below <mirror>/raw")
        if not (self.url is None or (isinstance(self.url, str) and self.url.startswith(("http://", "https://")))):
            raise ConfigError(f"url={self.url} has to begin with https:// or http://, or be null")

    @property
    def name(self) -> str:
        return PurePosixPath(self.mirror_path).name


def at_hand(file: RemoteFile, cache: str | Path, mirror: str | Path | None) -> Path | None:
    """Return where `file` lies in the cache or the mirror, without looking into it; None if it is in neither."""
    places = [_cached(file, cache)]
    if mirror is not None:
        places.append(Path(mirror).expanduser() / "raw" / file.mirror_path)
    return next((place for place in places if place.is_file()), None)


def fetch(file: RemoteFile, cache: str | Path, mirror: str | Path | None) -> Path:
    """Return the path of a copy of `file` whose checksum has just been verified, downloading it if need be.

    Several processes may ask for one file at once: one downloads, the others wait for it.

    Raises:
        DataError: the file cannot be had, or a copy of it has the wrong checksum.
        ResourceError: the cache cannot be written.
    """
    path = at_hand(file, cache, mirror)
    if path is None:
        return _download(file, _cached(file, cache))
    found = sha256_file(path)
    if found != file.sha256:
        raise DataError(f"{path} is damaged: its sha256 is {found}, not {file.sha256}; replace or delete it")
    return path


def _cached(file: RemoteFile, cache: str | Path) -> Path:
    # The checksum in the name keeps apart files that share a name, and versions of one file.
    return Path(cache).expanduser() / "downloads" / f"{file.sha256[:16]}-{file.name}"


def _download(file: RemoteFile, target: Path) -> Path:
    part = target.with_name(f"{target.name}.part")
    with lock(target.with_name(f"{target.name}.lock"), hint=CACHE_HINT):
        if target.is_file():  # Another process fetched it while this one waited for the lock.
            return target
        _receive(file, part)
        if file.member is not None:
            _unpack(file, part)
        found = sha256_file(part)
        if found != file.sha256:
            part.unlink()
            raise DataError(
                f"{file.url} does not hold the expected file: sha256 {found}, not {file.sha256}; "
                "the download was deleted, run again or report that the address has changed"
            )
        with explain_os_errors(target, CACHE_HINT):
            part.replace(target)
    return target


def _unpack(file: RemoteFile, part: Path) -> None:
    """Put a member of the archive that has been received in its place."""
    archive = part.with_name(f"{part.stem}-{PurePosixPath(file.url).name}")
    with explain_os_errors(archive, CACHE_HINT):
        part.replace(archive)
        try:
            found = dict(read_members(archive, re.escape(file.member)))
            part.write_bytes(found.get(file.member, b""))
        finally:
            archive.unlink()


def _receive(file: RemoteFile, part: Path) -> None:
    """Bring `part` to full length, going on from what is there."""
    done = part.stat().st_size if part.exists() else 0
    response = _open(file, done)
    if response is None:
        return
    with response:
        if response.status != 206:  # The server sends the whole file, whatever was asked for.
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with explain_os_errors(part, CACHE_HINT), part.open("ab" if done else "wb") as sink:
            with _progress(file.name, done, total) as advance:
                for chunk in _chunks(response, file):
                    sink.write(chunk)
                    advance(len(chunk))
            sink.flush()
            os.fsync(sink.fileno())
    received = part.stat().st_size
    if total is not None and received < total:
        raise _cut_off(file, f"{received:,} of {total:,} bytes arrived")


def _open(file: RemoteFile, done: int) -> HTTPResponse | None:
    """Ask for what comes after the first `done` bytes; None if there is no more."""
    if file.url is None:
        raise DataError(f"{file.name} has no public address; put it at <mirror>/raw/{file.mirror_path} {MIRROR_ADVICE}")
    headers = {"User-Agent": "molino"}
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        return urlopen(Request(file.url, headers=headers), timeout=NETWORK_TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        if error.code == 416 and done:  # Nothing lies beyond: the part is whole, or wrong, as its checksum will tell.
            return None
        raise _unreachable(file, f"HTTP {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _unreachable(file, str(getattr(error, "reason", error))) from error


def _chunks(response: HTTPResponse, file: RemoteFile) -> Iterator[bytes]:
    # Errors of the network are caught here, so that those of the disk around it keep their own message.
    try:
        while chunk := response.read(CHUNK_BYTES):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _cut_off(file, str(error) or type(error).__name__) from error


def _cut_off(file: RemoteFile, why: str) -> DataError:
    return DataError(f"the download of {file.url} was cut off ({why}); run again and it goes on from there")


def _unreachable(file: RemoteFile, why: str) -> DataError:
    return DataError(
        f"cannot download {file.url} ({why}); run where there is internet, or put the file at "
        f"<mirror>/raw/{file.mirror_path} {MIRROR_ADVICE}"
    )


@contextmanager
def _progress(name: str, done: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a download on stderr, as a bar on a terminal and as a line now and then elsewhere.

    Yields a function to be called with the number of bytes of each new piece.
    """
    if not sys.stderr.isatty():
        yield _plain_lines(name, done, total)
        return
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn())
    rates = (progress.TransferSpeedColumn(), progress.TimeRemainingColumn())
    with progress.Progress(*columns, *rates, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"downloading {name}", total=total, completed=done)
        yield lambda size: bar.advance(task, size)


def _plain_lines(name: str, done: int, total: int | None) -> Callable[[int], None]:
    of_total = f" of {total / 1e6:,.1f}" if total else ""
    said = 0.0

    def advance(size: int) -> None:
        nonlocal done, said
        done += size
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            print(f"downloading {name}: {done / 1e6:,.1f}{of_total} MB", file=sys.stderr, flush=True)

    return advance
