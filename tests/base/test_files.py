"""Files are whole or absent, whatever happens while they are written."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from molino.base.errors import ConfigError, ResourceError
from molino.base.files import (
    atomic_write,
    explain_os_errors,
    lock,
    make_directory,
    remove_orphans,
    sha256_file,
    whole_folder,
    write_text,
)

START = (
    "import sys, time, resource, signal; from pathlib import Path; from molino.base.files import atomic_write, lock\n"
)


@pytest.fixture
def old(tmp_path):
    """A file that already exists."""
    path = tmp_path / "file.txt"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def start():
    """Start a Python process that says a line when it is where the test wants it; killed when the test ends."""
    processes = []

    def start(code: str, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-c", START + code, *map(str, arguments)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_what_is_written_takes_the_name(old):
    with atomic_write(old) as file:
        file.write(b"new")
        file.flush()
        assert old.read_bytes() == b"old"
    assert old.read_bytes() == b"new"
    assert list(old.parent.iterdir()) == [old]


def test_folders_are_made_and_text_is_utf8(tmp_path):
    write_text(tmp_path / "a" / "b" / "file.txt", "¡señor!\r\n")
    assert (tmp_path / "a" / "b" / "file.txt").read_bytes() == "¡señor!\r\n".encode()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "ours", "")
        (tmp_path / "usual").write_text("")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "no")])
def test_an_error_in_the_middle_leaves_what_was(old, error):
    with pytest.raises(type(error)) as raised, atomic_write(old) as file:
        file.write(b"half")
        raise error
    assert raised.value is error
    assert old.read_bytes() == b"old"
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left to write .*file.txt; free some or choose another place; set paths.outputs$"),
        (errno.EDQUOT, "no space left"),
        (errno.EACCES, r"file.txt cannot be written \(Permission denied\); choose another place; set paths.outputs$"),
        (errno.EROFS, r"file.txt cannot be written \(Read-only file system\)"),
    ],
)
@pytest.mark.parametrize("step", ["tempfile.mkstemp", "os.fsync", "pathlib.Path.replace"])
def test_disks_that_refuse_are_one_line(old, monkeypatch, number, message, step):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(step, refuse)
    with pytest.raises(ResourceError, match=message), atomic_write(old, "; set paths.outputs") as file:
        file.write(b"new")
    assert old.read_bytes() == b"old"
    assert list(old.parent.iterdir()) == [old]


def test_a_disk_that_fills_up_in_the_middle(old, start):
    code = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with atomic_write(Path(sys.argv[1])) as file:
    for _ in range(100):
        file.write(bytes(10_000))
"""
    process = start(code, old)
    assert "ResourceError: no space left" in process.communicate()[1]
    assert process.returncode == 1
    assert old.read_bytes() == b"old"
    assert list(old.parent.iterdir()) == [old]


def test_a_file_where_a_folder_should_be(old):
    for path in (old / "file", old / "folder" / "file"):
        with pytest.raises(ResourceError, match="cannot be written"):
            write_text(path, "")
    with pytest.raises(ResourceError, match="cannot be written"):
        write_text(old.parent, "")


def test_contents_are_synced_before_the_name_is_taken(old, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor):
        events.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def spy_replace(self, target):
        events.append(("rename", str(self)))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write_text(old, "new")
    temporary = events[0][1]
    assert Path(temporary).parent == old.parent
    assert events == [("sync", temporary), ("rename", temporary), ("sync", str(old.parent))]


def test_a_killed_writer_leaves_the_old_file_whole(old, start):
    code = """
with atomic_write(Path(sys.argv[1])) as file:
    file.write(bytes(1_000_000))
    file.flush()
    print("written", flush=True)
    time.sleep(60)
"""
    process = start(code, old)
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert old.read_bytes() == b"old"
    (orphan,) = [path for path in old.parent.iterdir() if path != old]
    assert orphan.stat().st_size == 1_000_000
    (old.parent / ".hidden").touch()
    (old.parent / "mine.tmp").touch()
    remove_orphans(old.parent)
    assert sorted(path.name for path in old.parent.iterdir()) == [".hidden", "file.txt", "mine.tmp"]


def test_a_lock_is_held_against_other_processes_until_death(tmp_path, start):
    path = tmp_path / "folder" / ".lock"
    code = """
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
    first = start(code, path)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(BlockingIOError), lock(path, wait=0):
        pass
    second = start(code, path)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert second.stdout.readline() == "held\n"  # it waited, and got the lock
    with pytest.raises(BlockingIOError), lock(path, wait=0):
        pass


def test_a_lock_is_given_back(tmp_path):
    with pytest.raises(ValueError, match="inside"), lock(tmp_path / ".lock"):
        raise ValueError("inside")
    with lock(tmp_path / ".lock", wait=0), pytest.raises(BlockingIOError), lock(tmp_path / ".lock", wait=0):
        pass


def test_a_lock_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "x.lock"
    with (
        pytest.raises(ResourceError, match=r"cannot be written.*; set MOLINO_CACHE"),
        lock(path, hint="; set MOLINO_CACHE"),
    ):
        pass


def test_a_directory_that_cannot_be():
    with pytest.raises(ResourceError, match=r"^/proc/x/y cannot be made \(No such file or directory\); .*; set it$"):
        make_directory(Path("/proc/x/y"), "; set it")


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(FileNotFoundError), explain_os_errors(tmp_path):
        (tmp_path / "absent").read_bytes()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_sha256(tmp_path, size):
    contents = os.urandom(size)
    (tmp_path / "file").write_bytes(contents)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(contents).hexdigest()


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_folder_is_whole_and_as_public_as_the_process_makes_files(tmp_path, mask):
    before = os.umask(mask)
    try:
        with whole_folder(tmp_path / "parent" / "new") as folder:
            (folder / "inner").mkdir()
            for file in (folder / "a", folder / "inner" / "b"):
                file.write_text("x", "utf-8")
                file.chmod(0o600)
            assert not (tmp_path / "parent" / "new").exists()
    finally:
        os.umask(before)
    made = tmp_path / "parent" / "new"
    modes = {path.relative_to(made).name: path.stat().st_mode & 0o777 for path in (made, *made.rglob("*"))}
    assert modes == {"": 0o777 & ~mask, "a": 0o666 & ~mask, "inner": 0o777 & ~mask, "b": 0o666 & ~mask}
    assert [path.name for path in made.parent.iterdir()] == ["new"]


def test_a_folder_that_is_there_gives_way_only_where_it_may(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "old").write_text("x", "utf-8")
    with pytest.raises(ConfigError, match="nothing is overwritten"), whole_folder(place) as folder:
        (folder / "new").write_text("x", "utf-8")
    with pytest.raises(KeyError), whole_folder(place, replaces=True) as folder:
        raise KeyError
    assert [path.name for path in place.iterdir()] == ["old"] and list(tmp_path.iterdir()) == [place]
    with whole_folder(place, replaces=True) as folder:
        (folder / "new").write_text("x", "utf-8")
    assert [path.name for path in place.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [place]
