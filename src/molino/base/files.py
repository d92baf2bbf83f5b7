"""Files that are whole or absent: atomic writes, locks and checksums. Standard library only."""

import errno
import fcntl
import hashlib
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from molino.base.errors import ConfigError, ResourceError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Also a file where a folder should be, or the other way round.
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG)


@contextmanager
def explain_os_errors(path: Path, hint: str = "") -> Iterator[None]:
    """Turn 'no space left', 'permission denied' and the like around `path` into a one-line ResourceError."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            raise ResourceError(f"no space left to write {path}; free some or choose another place{hint}") from error
        if error.errno in UNWRITABLE:
            raise ResourceError(f"{path} cannot be written ({error.strerror}); choose another place{hint}") from error
        raise


def make_directory(path: Path, hint: str = "") -> None:
    """Make a directory and what is missing above it.

    Raises:
        ResourceError: it cannot be made; `hint` is added to the message.
    """
    with explain_os_errors(path, hint):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # as below /proc, where nothing can be made
            raise ResourceError(f"{path} cannot be made ({error.strerror}); choose another place{hint}") from error


def read_text(path: Path) -> str:
    """Return the text of a file. What is no regular file is refused: to open a pipe would wait for its other end.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return Path(path).read_text("utf-8")


def whole_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text to which lines are appended. A last one without its end is left out: whoever wrote it
    is at it still, or was killed.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
    """
    with path.open(newline="", encoding="utf-8") as file:
        yield from (line for line in file if line.endswith("\n"))


@contextmanager
def atomic_write(path: Path, hint: str = "") -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; on success it is synced and takes the name `path`.

    The temporary file lies in the directory of `path`, so that the rename never crosses file systems, and both file
    and directory are synced, so that what exists under `path` is whole even after a power cut. On any error the
    temporary file is removed and an earlier `path` stays as it was.

    Raises:
        ResourceError: the disk is full or the directory cannot be written; `hint` is added to the message.
    """
    path = Path(path)
    make_directory(path.parent, hint)
    with explain_os_errors(path, hint):
        try:
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        except FileNotFoundError as error:  # as below /proc, where nothing can be made
            raise ResourceError(f"{path} cannot be made ({error.strerror}); choose another place{hint}") from error
        try:
            os.fchmod(descriptor, 0o666 & ~_umask())
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
            _sync_directory(path.parent)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, atomically."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    """Write `text` behind what a file holds, as UTF-8. A process that is killed meanwhile may leave a part of it.

    Raises:
        ResourceError: the disk is full or the file cannot be written.
    """
    with explain_os_errors(path), path.open("ab") as file:
        file.write(text.encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def whole_folder(target: Path, hint: str = "", replaces: bool = False) -> Iterator[Path]:
    """Yield a new folder beside `target` that takes its place, and its name, once it has been filled.

    On any error the new one is removed and an earlier `target` stays as it was. Its files may be read by whoever may
    read what else is written: some libraries make theirs private.

    Args:
        replaces: an earlier `target` gives way.

    Raises:
        ConfigError: there is a `target`, which is not to give way.
        ResourceError: the disk is full or the place cannot be written; `hint` is added to the message.
    """
    make_directory(target.parent, hint)
    with explain_os_errors(target, hint):
        workplace = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        new, old = workplace / "new", workplace / "old"
        try:
            new.mkdir()
            yield new
            for file in filter(Path.is_file, new.rglob("*")):
                file.chmod(0o666 & ~_umask())
            if target.exists():
                if not replaces:
                    raise ConfigError(f"{target} exists: choose another name, nothing is overwritten")
                target.rename(old)
            try:
                new.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
        finally:
            shutil.rmtree(workplace, ignore_errors=True)


def remove_orphans(directory: Path) -> None:
    """Delete the temporary files that killed processes left in `directory`. Call it only under the directory's lock."""
    for orphan in Path(directory).glob(".*.tmp"):
        orphan.unlink(missing_ok=True)


@contextmanager
def lock(path: Path, wait: float = math.inf, hint: str = "") -> Iterator[int]:
    """Hold an exclusive lock on the file `path` (made if absent). The kernel frees it when the process dies.

    Yields its descriptor: a child to which that is passed holds the lock as well.

    Args:
        wait: seconds for which another process may go on holding it.

    Raises:
        BlockingIOError: another process still holds the lock after `wait` seconds.
        ResourceError: the file cannot be made.
    """
    make_directory(path.parent, hint)
    with explain_os_errors(path, hint):
        file = path.open("a")
    try:
        _lock_file(file, wait)
        yield file.fileno()
    finally:
        file.close()


def is_locked(path: Path) -> bool:
    """Tell whether a process holds the lock on the file `path`."""
    try:
        with Path(path).open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _lock_file(file: TextIO, wait: float) -> None:
    if wait == math.inf:
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def sha256_file(path: Path) -> str:
    """Return the hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # Some network file systems refuse to sync a directory; the rename itself is still atomic.
    finally:
        os.close(descriptor)
