"""Archives are read without trusting them."""

import gzip
import io
import tarfile
import zipfile

import pytest

from molino.base.errors import DataError
from molino.data.archives import read_members


def make_tar(path, members, mode="w:gz", links=()):
    with tarfile.open(path, mode) as archive:
        for name, contents in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(contents)
            archive.addfile(header, io.BytesIO(contents))
        for name, kind, target in links:
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, target
            archive.addfile(header)
    return path


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w:"), ("tgz", "w:gz"), ("tar.bz2", "w:bz2"), ("tar.xz", "w:xz")])
def test_tar_yields_the_wanted_members_in_order(tmp_path, suffix, mode):
    path = make_tar(tmp_path / f"a.{suffix}", {"x/2.txt": b"two", "x/1.txt": b"one", "x/1.dat": b"no"}, mode)
    assert list(read_members(path, r"x/\d\.txt")) == [("x/2.txt", b"two"), ("x/1.txt", b"one")]


def test_the_whole_name_must_match(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", {"a.txt": b"1", "a.txt.bak": b"2"})
    assert [name for name, _ in read_members(path, r"a\.txt")] == ["a.txt"]


def test_zip_and_gz(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("dir/text", "hola")
        archive.writestr("other", "no")
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"hola"))
    assert list(read_members(tmp_path / "a.zip", "dir/.*")) == [("dir/text", b"hola")]
    assert list(read_members(tmp_path / "text.gz", "text")) == [("text", b"hola")]
    assert list(read_members(tmp_path / "text.gz", "other")) == []


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil.txt", "..\\evil.txt"])
def test_paths_outside_the_archive_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="not to be trusted"):
        list(read_members(make_tar(tmp_path / "a.tar.gz", {name: b"x"}), ".*"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(DataError, match="not to be trusted"):
        list(read_members(tmp_path / "a.zip", ".*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    path = make_tar(tmp_path / "a.tar.gz", {}, links=[("link.txt", kind, "/etc/passwd")])
    with pytest.raises(DataError, match=r"link\.txt"):
        list(read_members(path, r".*\.txt"))


def test_links_in_a_zip_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        member = zipfile.ZipInfo("link.txt")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DataError, match=r"link\.txt"):
        list(read_members(tmp_path / "a.zip", ".*"))


def test_contents_are_capped_over_all_members(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", {"1": b"x" * 600, "2": b"x" * 400})
    assert len(list(read_members(path, ".*", limit=1000))) == 2
    with pytest.raises(DataError, match="more than 999 bytes"):
        list(read_members(path, ".*", limit=999))
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(10_000_000)))
    with pytest.raises(DataError, match=r"more than 1,000 bytes"):
        list(read_members(tmp_path / "bomb.gz", ".*", limit=1000))


@pytest.mark.parametrize("suffix", ["zip", "gz", "tar.gz", "tar.bz2", "tar"])
def test_damaged_archives_are_one_line(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"this is no archive at all" * 100)
    with pytest.raises(DataError, match="damaged") as error:
        list(read_members(path, ".*"))
    assert "\n" not in str(error.value)


def test_a_cut_off_archive_is_damaged(tmp_path):
    whole = make_tar(tmp_path / "a.tar.gz", {"1": bytes(range(256)) * 4000}).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        list(read_members(tmp_path / "b.tar.gz", ".*"))


def test_an_unknown_kind_is_named(tmp_path):
    with pytest.raises(DataError, match="no archive"):
        list(read_members(tmp_path / "a.rar", ".*"))
