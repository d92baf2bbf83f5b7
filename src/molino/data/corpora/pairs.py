"""Corpora of texts and what is to be written of each: translations, summaries."""

import functools
from collections.abc import Mapping
from pathlib import Path

from molino.base.errors import ConfigError, DataError
from molino.data.archives import read_members
from molino.data.corpora.own import LICENCE, OwnFiles, own_paths, setting
from molino.data.corpora.remote import remote_file
from molino.data.corpus import decode, digest
from molino.data.download import fetch
from molino.data.examples import Example, checked, examples_of, texts_of
from molino.data.tables import SUFFIXES, read_table

VERSION = 1  # raised whenever what follows from the same files and settings changes


class PublishedPairs:
    """Aligned files at public addresses, plain or gzipped: line n of one is the target of line n of the other.

    Args:
        name: name of the corpus.
        licence: its licence.
        files: of each split its `text` and its `target`, each with url, sha256 and mirror_path.
        cache: folder for downloads.
        mirror: folder that holds `raw/`, or None.
    """

    documents = True

    def __init__(self, name: str, licence: str, files: dict, cache: str, mirror: str | None = None):
        self.name, self.licence, self.cache, self.mirror = name, licence, cache, mirror
        self.files = {split: _both(split, entry) for split, entry in files.items()}

    def fingerprint(self) -> str:
        return digest(VERSION, {split: [file.sha256 for file in both] for split, both in self.files.items()})

    def examples(self) -> dict[str, list[Example]]:
        return self._splits

    def read(self) -> dict[str, list[str]]:
        return texts_of(self._splits)

    @functools.cached_property
    def _splits(self) -> dict[str, list[Example]]:
        found = {
            split: read_aligned(*(fetch(file, self.cache, self.mirror) for file in both))
            for split, both in self.files.items()
        }
        return checked(found, self.name)


class OwnPairs:
    """Pairs of one's own: two aligned files, plain or gzipped, or the columns of one table.

    Args:
        path: the texts, one a line; or a table.
        columns: which column of a table is what; see molino.data.examples.
        target_path: the targets, of which line n belongs to line n of the texts; None where there is a table.
        val_path, test_path: the same of held-out and of test examples,
        val_target_path, test_target_path: with their targets.
        val_fraction, test_fraction: in their place, which share of the first pairs they are, see OwnFiles.
        header: whether the first line of a TSV or CSV names its columns; else they are called 0, 1, 2, ...
        quotes: whether quotation marks of a TSV or CSV hold a field together.
        encoding: of all files.

    Raises:
        ConfigError: no path is given, one of two that belong together is not, or a fraction is out of range.
        DataError: there is no such file.
    """

    licence = LICENCE
    documents = True

    def __init__(
        self,
        path: str | None,
        columns: dict,
        target_path: str | None = None,
        val_path: str | None = None,
        val_target_path: str | None = None,
        test_path: str | None = None,
        test_target_path: str | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        header: bool = True,
        quotes: bool = True,
        encoding: str = "utf-8",
    ):
        texts = {"train": path, "val": val_path, "test": test_path}
        targets = {"train": target_path, "val": val_target_path, "test": test_target_path}
        needed = "data=pairs needs data.path=<texts> with data.target_path=<their targets, line by line>, or a table"
        self.files = OwnFiles(needed, texts, {"val": val_fraction, "test": test_fraction})
        _check_together(texts, targets)
        self.targets = own_paths(targets, "target_path")
        self.name, self.columns = self.files.name, columns
        self.header, self.quotes, self.encoding = header, quotes, encoding

    def fingerprint(self) -> str:
        files = self.files.checksums(), self.files.checksums(self.targets), self.files.fractions
        return digest(VERSION, *files, self.columns, self.header, self.quotes, self.encoding)

    def examples(self) -> dict[str, list[Example]]:
        return self._splits

    def read(self) -> dict[str, list[str]]:
        return texts_of(self._splits)

    @functools.cached_property
    def _splits(self) -> dict[str, list[Example]]:
        return self.files.split({split: self._read(split, path) for split, path in self.files.paths.items()})

    def _read(self, split: str, path: Path) -> list[Example]:
        if split in self.targets:
            return read_aligned(path, self.targets[split], self.encoding)
        rows = read_table(path, header=self.header, quotes=self.quotes, encoding=self.encoding)
        examples = examples_of(rows, self.columns, path.name, {})
        for number, example in enumerate(examples, start=1):
            if not (example.text and any(example.targets)):
                raise DataError(
                    f"{path.name}, example {number}: its {'target' if example.text else 'text'} is empty; fill it, "
                    "leave the row out, or name other columns with data.columns.text and data.columns.target"
                )
        return examples


def read_aligned(texts: Path, targets: Path, encoding: str = "utf-8") -> list[Example]:
    """Return the pairs of two aligned files.

    Raises:
        ConfigError: there is no such encoding.
        DataError: a file cannot be read, one has more lines than the other, or a line is empty.
    """
    both = [_lines(texts, encoding), _lines(targets, encoding)]
    counts = [len(lines) for lines in both]
    if counts[0] != counts[1]:
        longer = (texts, targets)[counts[1] > counts[0]]
        raise DataError(
            f"{texts} has {counts[0]:,} lines and {targets} {counts[1]:,}: line {min(counts) + 1:,} of {longer.name} "
            "has no counterpart; each text needs its target in the same line"
        )
    for path, lines in zip((texts, targets), both, strict=True):
        if "" in lines:
            raise DataError(
                f"{path}, line {lines.index('') + 1:,} is empty: fill it, or leave this line out of both files"
            )
    return [Example(text, targets=(target,)) for text, target in zip(*both, strict=True)]


def _lines(path: Path, encoding: str) -> list[str]:
    """Return the lines of a file without white space around them."""
    try:
        contents = next(read_members(path, ".*"))[1] if path.suffix == ".gz" else path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    # Not splitlines: a line may hold other characters that some call line ends.
    lines = decode(contents, path, encoding).removesuffix("\n").split("\n")
    if lines == [""]:
        raise DataError(f"{path} is empty; give a file with a text in each line")
    return [line.strip() for line in lines]


def _both(split: str, entry: object) -> tuple:
    """Return the two files of a split of a configuration."""
    if not isinstance(entry, Mapping) or set(entry) != {"text", "target"}:
        raise ConfigError(f"data.corpus.files.{split} has a text and a target, and this is {entry!r}")
    return remote_file(entry["text"]), remote_file(entry["target"])


def _check_together(texts: Mapping[str, str | None], targets: Mapping[str, str | None]) -> None:
    """Refuse a file whose counterpart is not given, and what is neither a table nor has one.

    Raises:
        ConfigError: as above.
    """
    if any(targets.values()):
        for (split, text), target in zip(texts.items(), targets.values(), strict=True):
            if bool(text) != bool(target):
                given, missing = ("path", "target_path") if text else ("target_path", "path")
                said = f"{setting(split, given)}={text or target}"
                raise ConfigError(f"{said} needs {setting(split, missing)}=<the file aligned with it>")
    elif Path(str(texts["train"])).suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"data.path={texts['train']} is no table ({', '.join(SUFFIXES)}): add data.target_path=<the file aligned "
            "with it>"
        )
