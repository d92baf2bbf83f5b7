"""Labelled corpora: published ones, pinned by their checksums, and tables of one's own."""

import functools
from typing import Any, NamedTuple

from molino.base.errors import ConfigError, DataError
from molino.base.messages import few
from molino.data.corpora.own import LICENCE, OwnFiles, check_fractions
from molino.data.corpora.remote import remote_file
from molino.data.corpus import digest
from molino.data.download import RemoteFile, fetch
from molino.data.examples import Example, checked, examples_of, split_examples, texts_of
from molino.data.tables import read_table

VERSION = 1  # raised whenever what follows from the same files and settings changes
# How the lines of a published file are laid out: the arguments of read_table.
LAYOUTS: dict[str, dict[str, Any]] = {
    "lines": {"suffix": ".tsv", "header": False, "quotes": False},
    "tsv": {"suffix": ".tsv", "quotes": False},
    "tsv_without_header": {"suffix": ".tsv", "header": False, "quotes": False},
    "jsonl": {"suffix": ".jsonl"},
}


class PublishedFile(NamedTuple):
    """A file with what is said of it alone.

    Attributes:
        file: where it can be had.
        label: the class of all its examples; None where a column tells it.
        columns: which of its columns is what; None for those of the corpus.
    """

    file: RemoteFile
    label: str | None = None
    columns: dict | None = None


class PublishedExamples:
    """Examples in files at public addresses.

    Args:
        name: name of the corpus.
        licence: its licence.
        files: of each split a list of files, each with url, sha256 and mirror_path; `label`, where all examples of a
            file are of one class, names it, and `columns` are those of a file that has others than the rest.
        layout: one of LAYOUTS. A published file has no quotation marks around its fields.
        columns: which column is what; see molino.data.examples.
        classes: names of classes by what stands in the column.
        val_fraction: share of the training examples, by their digests, that is held out; for corpora without 'val'.
        test_every: of each file every so manieth line is a test example, where there is no split; 0 for none.
        cache: folder for downloads.
        mirror: folder that holds `raw/`, or None.
    """

    documents = True

    def __init__(
        self,
        name: str,
        licence: str,
        files: dict,
        layout: str,
        columns: dict,
        cache: str,
        mirror: str | None = None,
        classes: dict | None = None,
        val_fraction: float = 0.0,
        test_every: int = 0,
    ):
        if layout not in LAYOUTS:
            raise ConfigError(f"data.corpus.layout={layout} is unknown: choose one of {', '.join(LAYOUTS)}")
        check_fractions(val_fraction=val_fraction)
        self.name, self.licence, self.layout, self.columns = name, licence, layout, columns
        self.files = {split: [_published_file(entry) for entry in entries] for split, entries in files.items()}
        self.classes = {str(key): str(value) for key, value in (classes or {}).items()}
        self.val_fraction, self.test_every = val_fraction, test_every
        self.cache, self.mirror = cache, mirror

    def fingerprint(self) -> str:
        # Columns of its own only where a file has some: what has none is what it was before there were any.
        files = {
            split: [(each.file.sha256, each.label, *([each.columns] if each.columns else [])) for each in files]
            for split, files in self.files.items()
        }
        return digest(VERSION, files, self.columns, self.classes, self.val_fraction, self.test_every, self.layout)

    def examples(self) -> dict[str, list[Example]]:
        return self._splits

    def read(self) -> dict[str, list[str]]:
        return texts_of(self._splits)

    @functools.cached_property
    def _splits(self) -> dict[str, list[Example]]:
        found: dict[str, list[Example]] = {}
        for split, files in self.files.items():
            for file in files:
                for number, example in enumerate(self._read(file), start=1):
                    is_test = self.test_every and number % self.test_every == 0
                    found.setdefault("test" if is_test else split, []).append(example)
        if self.val_fraction:
            found |= split_examples(found["train"], {"val": self.val_fraction})
        return checked(found, self.name)

    def _read(self, each: PublishedFile) -> list[Example]:
        path = fetch(each.file, self.cache, self.mirror)
        rows = read_table(path, **LAYOUTS[self.layout])
        read = examples_of(rows, each.columns or self.columns, path, self.classes, "data.corpus.columns")
        return read if each.label is None else [example._replace(label=each.label) for example in read]


class OwnExamples:
    """Examples in tables of one's own: TSV, CSV, JSON lines or Parquet, by the end of their names.

    Args:
        path: the table; with `val_path` and `test_path` of the training examples alone.
        columns: which column is what; see molino.data.examples.
        val_path, test_path: tables of held-out and of test examples.
        val_fraction, test_fraction: in their place, which share of the first table they are; by the digests of the
            examples, so that none moves when the table grows.
        classes: names of classes by what stands in the column.
        header: whether the first line of a TSV or CSV names its columns; else they are called 0, 1, 2, ...
        quotes: whether quotation marks of a TSV or CSV hold a field together.
        encoding: of all tables.

    Raises:
        ConfigError: no path is given, or a fraction is out of range.
        DataError: there is no such file.
    """

    licence = LICENCE
    documents = True

    def __init__(
        self,
        path: str | None,
        columns: dict,
        val_path: str | None = None,
        test_path: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        classes: dict | None = None,
        header: bool = True,
        quotes: bool = True,
        encoding: str = "utf-8",
    ):
        self.files = OwnFiles(
            "data=labelled needs data.path=<TSV, CSV, JSONL or Parquet>",
            {"train": path, "val": val_path, "test": test_path},
            {"val": val_fraction, "test": test_fraction},
        )
        self.name, self.columns = self.files.name, columns
        self.classes = {str(key): str(value) for key, value in (classes or {}).items()}
        self.header, self.quotes, self.encoding = header, quotes, encoding

    def fingerprint(self) -> str:
        files = self.files.checksums(), self.columns, self.classes, self.files.fractions
        return digest(VERSION, *files, self.header, self.quotes, self.encoding)

    def examples(self) -> dict[str, list[Example]]:
        return self._splits

    def read(self) -> dict[str, list[str]]:
        return texts_of(self._splits)

    @functools.cached_property
    def _splits(self) -> dict[str, list[Example]]:
        found = {}
        for split, path in self.files.paths.items():
            rows = read_table(path, header=self.header, quotes=self.quotes, encoding=self.encoding)
            found[split] = examples_of(rows, self.columns, path.name, self.classes)
        found = self.files.split(found)
        labels = {each.label for examples in found.values() for each in examples}
        if unused := [key for key, name in self.classes.items() if name not in labels]:
            there = few(sorted(filter(None, labels)))
            raise DataError(f"data.classes: {unused[0]} is no label of {self.name}; there are {there}")
        return found


def _published_file(entry: Any) -> PublishedFile:
    """Return a file of a configuration with what is said of it alone."""
    if not isinstance(entry, dict):
        raise ConfigError(f"data.corpus.files: a file has url, sha256 and mirror_path, and this is {entry!r}")
    own = {name: value for name, value in entry.items() if name in ("label", "columns")}
    return PublishedFile(remote_file({k: v for k, v in entry.items() if k not in own}), **own)
