"""Corpora that are files at a public address, pinned by their checksums."""

from molino.base.errors import ConfigError
from molino.data.archives import read_members
from molino.data.corpus import check_train_fraction, decode, digest, split_fraction
from molino.data.download import RemoteFile, at_hand, fetch
from molino.data.text import FileText, Text


class RemoteText:
    """One text file, split by a fraction.

    Args:
        name: name of the corpus.
        licence: its licence.
        url: where the file can be downloaded.
        sha256: checksum of the file.
        mirror_path: its place below `<mirror>/raw/`.
        cache: folder for downloads.
        mirror: folder that holds `raw/`, or None.
        train_fraction: share of the characters, from the start, to train on.
    """

    documents = False

    def __init__(
        self,
        name: str,
        licence: str,
        url: str,
        sha256: str,
        mirror_path: str,
        cache: str,
        mirror: str | None = None,
        train_fraction: float = 0.9,
    ):
        check_train_fraction(train_fraction)
        self.name, self.licence, self.train_fraction = name, licence, train_fraction
        self.file = RemoteFile(url, sha256, mirror_path)
        self.cache, self.mirror = cache, mirror

    def fingerprint(self) -> str:
        return digest(self.file.sha256, self.train_fraction)

    def read(self) -> dict[str, list[Text]]:
        path = fetch(self.file, self.cache, self.mirror)
        return split_fraction(FileText(path), self.train_fraction)


class RemoteSplits:
    """Three text files, one a split. `train`, `val` and `test` are dicts of url, sha256 and mirror_path."""

    documents = False

    def __init__(
        self, name: str, licence: str, train: dict, val: dict, test: dict, cache: str, mirror: str | None = None
    ):
        self.name, self.licence, self.cache, self.mirror = name, licence, cache, mirror
        self.files = {"train": remote_file(train), "val": remote_file(val), "test": remote_file(test)}

    def fingerprint(self) -> str:
        return digest({split: file.sha256 for split, file in self.files.items()})

    def read(self) -> dict[str, list[Text]]:
        paths = {split: fetch(file, self.cache, self.mirror) for split, file in self.files.items()}
        return {split: [FileText(path)] for split, path in paths.items()}


class Text8:
    """The first 100,000,000 characters of a cleaned English Wikipedia, or the first 6,000,000 of them.

    The prefix serves only where it is at hand and the whole archive is not, and then the name says so. Split 90 / 5 /
    5 % in the order of the text, as is the convention (90M / 5M / 5M).

    Args:
        licence: its licence.
        whole: url, sha256 and mirror_path of the archive.
        prefix: the same of the gzipped prefix; its url may be None.
        cache: folder for downloads.
        mirror: folder that holds `raw/`, or None.
    """

    documents = False

    def __init__(self, licence: str, whole: dict, prefix: dict, cache: str, mirror: str | None = None):
        self.licence, self.cache, self.mirror = licence, cache, mirror
        self.name, self.file = "text8", remote_file(whole)
        if not at_hand(self.file, cache, mirror) and at_hand(remote_file(prefix), cache, mirror):
            self.name, self.file = "text8 (first 6,000,000 characters)", remote_file(prefix)

    def fingerprint(self) -> str:
        return digest(self.file.sha256, "90/5/5")

    def read(self) -> dict[str, list[Text]]:
        path = fetch(self.file, self.cache, self.mirror)
        ((_, contents),) = read_members(path, "text8.*")
        text = decode(contents, path)
        first, second = len(text) * 90 // 100, len(text) * 95 // 100
        return {"train": [text[:first]], "val": [text[first:second]], "test": [text[second:]]}


def remote_file(entry: dict) -> RemoteFile:
    """Make a RemoteFile of a config entry. Raises ConfigError if a key is missing or unknown."""
    try:
        return RemoteFile(**entry)
    except TypeError as error:
        known = "url, sha256, mirror_path and perhaps member"
        raise ConfigError(f"a remote file has {known}, not {', '.join(map(str, entry))}") from error
