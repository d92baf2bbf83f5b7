"""Downloads against a server on this machine: resumed, verified, shared, and never half there."""

import errno
import hashlib
import multiprocessing
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from molino.base.errors import DataError, ResourceError
from molino.data.download import RemoteFile, fetch

CONTENTS = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENTS).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENTS at /file; `ranges` and `cut_at` decide how well, `requests` keeps each Range header."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges, self.cut_at, self.requests = True, None, []

    def remote_file(self, path="/file", sha256=SHA256):
        return RemoteFile(f"http://127.0.0.1:{self.server_port}{path}", sha256, "corpus/file.txt")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        if self.path != "/file":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.ranges else 0
        if start >= len(CONTENTS):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENTS) - start))
        self.end_headers()
        self.wfile.write(CONTENTS[start : self.server.cut_at])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(cache):
    """What lies in the cache, but for locks."""
    return sorted(path.name for path in (cache / "downloads").iterdir() if path.suffix != ".lock")


def test_a_file_is_downloaded_once(server, tmp_path):
    path = fetch(server.remote_file(), tmp_path, None)
    assert path.read_bytes() == CONTENTS
    assert names(tmp_path) == [f"{SHA256[:16]}-file.txt"]
    assert fetch(server.remote_file(), tmp_path, None) == path
    assert server.requests == [None]


def test_a_cut_off_download_goes_on(server, tmp_path):
    server.cut_at = 300_000
    with pytest.raises(DataError, match=r"300,000 of 1,048,576 bytes arrived.*run again"):
        fetch(server.remote_file(), tmp_path, None)
    assert names(tmp_path) == [f"{SHA256[:16]}-file.txt.part"]
    server.cut_at = None
    assert fetch(server.remote_file(), tmp_path, None).read_bytes() == CONTENTS
    assert server.requests == [None, "bytes=300000-"]
    assert names(tmp_path) == [f"{SHA256[:16]}-file.txt"]


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.cut_at, server.ranges = 300_000, False
    with pytest.raises(DataError, match="cut off"):
        fetch(server.remote_file(), tmp_path, None)
    server.cut_at = None
    assert fetch(server.remote_file(), tmp_path, None).read_bytes() == CONTENTS


def test_a_part_that_was_already_whole_is_taken(server, tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / f"{SHA256[:16]}-file.txt.part").write_bytes(CONTENTS)
    assert fetch(server.remote_file(), tmp_path, None).read_bytes() == CONTENTS


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    wanted = "0" * 64
    with pytest.raises(DataError) as error:
        fetch(server.remote_file(sha256=wanted), tmp_path, None)
    assert wanted in str(error.value) and SHA256 in str(error.value) and "127.0.0.1" in str(error.value)
    assert names(tmp_path) == []


def test_an_address_that_is_gone(server, tmp_path):
    with pytest.raises(DataError, match=r"HTTP 404.*raw/corpus/file\.txt.*MOLINO_MIRROR"):
        fetch(server.remote_file("/gone"), tmp_path, None)
    assert names(tmp_path) == []


def test_without_network_the_file_to_bring_is_named(tmp_path):
    file = RemoteFile("http://127.0.0.1:9/file", SHA256, "corpus/file.txt")
    with pytest.raises(DataError, match=r"raw/corpus/file\.txt.*MOLINO_MIRROR") as error:
        fetch(file, tmp_path, tmp_path / "no mirror")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="no public address"):
        fetch(RemoteFile(None, SHA256, "corpus/file.txt"), tmp_path, None)


def test_a_mirror_is_used_in_place_and_verified(tmp_path):
    place = tmp_path / "mirror" / "raw" / "corpus" / "file.txt"
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENTS)
    file = RemoteFile("http://127.0.0.1:9/file", SHA256, "corpus/file.txt")
    assert fetch(file, tmp_path / "cache", tmp_path / "mirror") == place
    assert not (tmp_path / "cache").exists()
    place.write_bytes(CONTENTS[:-1])
    with pytest.raises(DataError, match="damaged"):
        fetch(file, tmp_path / "cache", tmp_path / "mirror")


def test_a_home_directory_is_understood(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch(server.remote_file(), "~/cache", "~/mirror").parent == tmp_path / "cache" / "downloads"


def test_a_damaged_cache_is_noticed(server, tmp_path):
    fetch(server.remote_file(), tmp_path, None).write_bytes(b"rot")
    with pytest.raises(DataError, match=r"damaged.*delete"):
        fetch(server.remote_file(), tmp_path, None)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_read_only_cache_says_what_to_set(server, tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, "refused")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ResourceError, match=r"set MOLINO_CACHE or paths\.cache"):
        fetch(server.remote_file(), tmp_path / "cache", None)


def test_a_full_disk_keeps_the_part(server, tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("molino.data.download.os.fsync", full)
        with pytest.raises(ResourceError, match=r"no space left.*MOLINO_CACHE"):
            fetch(server.remote_file(), tmp_path, None)
    assert names(tmp_path) == [f"{SHA256[:16]}-file.txt.part"]
    assert fetch(server.remote_file(), tmp_path, None).read_bytes() == CONTENTS


def _fetch_in_process(file, cache, results):
    results.put(fetch(file, cache, None).read_bytes() == CONTENTS)


def test_two_processes_share_one_download(server, tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (server.remote_file(), tmp_path, results)
    processes = [context.Process(target=_fetch_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [results.get(timeout=5) for _ in processes] == [True, True]
    assert len(server.requests) == 1


def test_progress_is_plain_lines_without_a_terminal(server, tmp_path, capsys):
    fetch(server.remote_file(), tmp_path, None)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("downloading file.txt: ") and captured.err.endswith(" of 1.0 MB\n")


def test_progress_is_a_bar_on_a_terminal(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetch(server.remote_file(), tmp_path, None)
    assert "file.txt" in capsys.readouterr().err
