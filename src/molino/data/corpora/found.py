"""Texts of one's own where a path says they are: found, fingerprinted and read."""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from molino.base.console import say, working
from molino.base.errors import DataError
from molino.base.files import sha256_file
from molino.data.forms import TEXTS, Reading, files_of, form, is_table, refuse_without_column, texts_in, texts_of
from molino.data.text import Text, file_version, strings

FEWEST = 2  # documents, for one to train on and one to validate on


class FoundTexts:
    """The texts below a path.

    Args:
        path: a file, a folder or a pattern. Of a folder these are its texts, and where a column is named its tables.
        reading: how files are read.
        limit: so many characters of a single text, or whole documents until they have so many, two at least; None for
            all. No more is read.
        setting: that names the path, for messages.

    Attributes:
        name: of the path.
        paths: of the files, in the order in which they are read.
        tables: those of the files that are some, for which a column is of use.
        documents: whether these are documents, and not one continuous text.

    Raises:
        ConfigError: a table is there, and no column is named.
        DataError: nothing is there.
    """

    def __init__(self, path: str, reading: Reading, limit: int | None, setting: str):
        self.path, self.name = Path(path).expanduser(), Path(path).absolute().name
        self.reading, self.limit, self.setting = reading, limit, setting
        self.paths = self._find()
        tables = reading.column is not None
        # As they are now; that they still are when they are read makes the fingerprint that of what is read.
        self.files = [(file, file_version(path)) for path in self.paths for file in files_of(path, tables)]
        self.tables = {file for file, _ in self.files if is_table(file)}
        if self.tables and not tables:
            refuse_without_column(next(file for file, _ in self.files if file in self.tables), reading)
        self.documents = bool(self.tables) or len(self.files) > 1

    def _find(self) -> list[Path]:
        path = self.path
        if path.is_file():
            return [path]
        if path.is_dir():
            files = texts_in(path, self.reading.column is not None)
        else:
            found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
            files = sorted(file for file in found if file.is_file())
        if not files:
            other = "is no regular file" if path.exists() else "does not exist"
            reason = f"has no {' or '.join(TEXTS)} file, and no table" if path.is_dir() else other
            raise DataError(f"{self.setting}={path} {reason}; give a file, a folder or a glob (now in {Path.cwd()})")
        return files

    def _tables_beside(self) -> int:
        """Return how many tables there are in a folder whose texts are read."""
        return len(set(texts_in(self.path, True)) - set(self.paths))

    def facts(self) -> tuple[list[str], list[str]]:
        """Return what the fingerprint of the texts follows from: checksums, and the forms of all files if one of them
        is no plain text. Of a part of the texts the checksums are those of what it holds."""
        with working(f"reading {self.name}"):
            checksums = [_digest(text) for text in self.texts] if self.limit else list(map(_checksum, self.paths))
        forms = list(map(form, self.paths))
        return checksums, forms if any(forms) else []

    @cached_property
    def texts(self) -> list[Text]:
        """The texts, without those of white space alone.

        Raises:
            ConfigError: Python knows no such encoding.
            DataError: they cannot be read, or there are none.
            ResourceError: there is Parquet among them, and pyarrow is not installed.
        """
        taken, characters, skipped = [], 0, 0
        for text, of_table in self._every():
            if not _has_words(text):
                skipped += of_table
                continue
            taken.append(text)
            characters += len(text)
            if self.limit and characters >= self.limit and (not self.documents or len(taken) >= FEWEST):
                break
        if not taken:
            raise DataError(f"{self.paths[0]} is empty; give a file with text in it")
        if self.path.is_dir() and self.reading.column is None and (tables := self._tables_beside()):
            say(f"{self.name}: left out are its tables ({tables:,}), of which no column is named by data.column")
        if skipped:
            say(f"{self.name}: left out are {skipped:,} of its rows, whose {self.reading.column} is empty")
        return taken

    def _every(self) -> Iterator[tuple[Text, bool]]:
        """Yield all texts, each with whether it is of a table."""
        reading = self.reading._replace(limit=None if self.documents else self.limit)
        for file, version in self.files:
            for text in texts_of(file, version, reading):
                yield text, file in self.tables


def _checksum(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error


def _digest(text: Text) -> str:
    found = hashlib.sha256()
    for string in strings(text):
        found.update(string.encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def _has_words(text: Text) -> bool:
    return any(not string.isspace() for string in strings(text))
