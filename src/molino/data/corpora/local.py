"""Text of the user's own: files, folders or patterns, plain or packed, and the columns of tables."""

from functools import cached_property
from pathlib import Path
from typing import Any

from molino.base.errors import ConfigError, DataError
from molino.data.corpora.found import FoundTexts
from molino.data.corpus import check_test_fraction, check_train_fraction, digest, split_documents, split_fraction
from molino.data.forms import Reading
from molino.data.text import Text

TRAIN_FRACTION = 0.9
UNIVERSAL = "universal"
PATHS = {"train": "path", "val": "val_path", "test": "test_path"}


class UserText:
    """A file is one continuous text; the files of a folder, a pattern or a .zip, and the rows of a table, are
    documents, in the order of their paths.

    Plain texts are read a piece at a time, also compressed ones, so they may be larger than memory.

    Args:
        path: a file, a folder (its .txt and .md files, at any depth) or a pattern such as `books/**/*.txt`. Any of the
            files may be compressed (.gz, .bz2, .xz) or a .zip of such; with `column` also a table.
        train_fraction: share of the characters or of the documents, from the start, to train on; the rest of what is no
            test split is held out.
        encoding: of all the files.
        test_fraction: share of them, from the end, that is the test split; 0 for none.
        column: of tables (CSV, TSV, JSON lines, Parquet), which one holds the texts; dots go into nested values.
        header: whether the first line of a TSV or CSV names its columns; else they are called 0, 1, 2, ...
        quotes: whether quotation marks of a TSV or CSV hold a field together.
        limit: for a first try, only so many characters from the start of each path, or whole documents until they have
            so many, two at least; None for all.
        newlines: `universal` reads \\r\\n and \\r as \\n; None leaves a text as it is.
        val_path, test_path: in place of a fraction, where the texts of these splits are.

    Raises:
        ConfigError: `path` is not given, a table has no column named, or a setting is out of range or without effect.
        DataError: nothing is there, or one file is in two splits.
    """

    licence = "the user's own text"

    def __init__(
        self,
        path: str | None = None,
        train_fraction: float = TRAIN_FRACTION,
        encoding: str = "utf-8",
        test_fraction: float = 0.0,
        column: str | None = None,
        header: bool = True,
        quotes: bool = True,
        limit: int | None = None,
        newlines: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
    ):
        if not path:
            raise ConfigError("data=text needs data.path=<file, folder or glob>")
        check_train_fraction(train_fraction)
        check_test_fraction(test_fraction)
        if limit is not None and limit < 1:
            raise ConfigError(f"data.limit={limit} must be at least 1: so many characters are read; null reads all")
        if newlines not in (None, UNIVERSAL):
            raise ConfigError(f"data.newlines={newlines} is unknown: choose {UNIVERSAL}, or null for as it is")
        if val_path and train_fraction != TRAIN_FRACTION:
            raise ConfigError(
                f"data.corpus.train_fraction={train_fraction} has no effect: with data.val_path all of data.path is "
                "there to train on; leave one of them out"
            )
        if test_path and test_fraction:
            raise ConfigError(
                f"data.test_fraction={test_fraction} and data.test_path={test_path} name two test splits: give one"
            )
        reading = Reading(encoding, column, header, quotes, newlines == UNIVERSAL)
        given = {"train": path, "val": val_path, "test": test_path}
        self.found = {
            split: FoundTexts(each, reading, limit, f"data.{PATHS[split]}") for split, each in given.items() if each
        }
        # What only some corpora have: those that have none of it are what they were before there was any.
        of_tables = {"column": (column, None), "header": (header, True), "quotes": (quotes, True)}
        self.more = {name: value for name, (value, usual) in of_tables.items() if value != usual}
        if self.more and not any(found.tables for found in self.found.values()):
            name, value = next(iter(self.more.items()))
            raise ConfigError(f"data.{name}={value} has no effect: data.path={path} is no table; leave it out")
        self.more |= {name: value for name, value in {"limit": limit, "newlines": newlines}.items() if value}
        if len(self.found) > 1:
            self._check_apart()
        self.name, self.encoding, self.newlines = self.found["train"].name, encoding, newlines
        self.fractions = (train_fraction, *([test_fraction] if test_fraction else []))
        self.documents = any(found.documents for found in self.found.values())

    def _check_apart(self) -> None:
        """Refuse a file that is in two splits."""
        seen: dict[Path, str] = {}
        for split, found in self.found.items():
            for path in map(Path.resolve, found.paths):
                if path in seen:
                    raise DataError(
                        f"{path} is in data.{PATHS[split]} and in data.{PATHS[seen[path]]}: a model would be judged by "
                        "what it was made with; let the paths name different files"
                    )
            seen |= dict.fromkeys(map(Path.resolve, found.paths), split)

    def fingerprint(self) -> str:
        facts: dict[str, Any] = dict(self.more)
        for split, found in self.found.items():
            checksums, forms = found.facts()
            facts |= {name: value for name, value in ((split, checksums), (f"{split}_forms", forms)) if value}
        checksums = facts.pop("train")
        return digest(checksums, *self.fractions, self.encoding, *([facts] if facts else []))

    def read(self) -> dict[str, list[Text]]:
        """Return the splits; files of white space alone are left out, and rows whose column is empty."""
        return dict(self._splits)

    @cached_property
    def _splits(self) -> dict[str, list[Text]]:
        own = {split: found.texts for split, found in self.found.items()}
        train_fraction, *test_fraction = self.fractions
        if "val" not in own:
            return self._split(own.pop("train"), train_fraction, *test_fraction) | own
        if not test_fraction:
            return own
        # All but the test split is there to train on.
        split = self._split(own["train"], 1 - test_fraction[0])
        return {"train": split["train"], "val": own["val"], "test": split["val"]}

    def _split(self, texts: list[Text], *fractions: float) -> dict[str, list[Text]]:
        if not self.found["train"].documents:
            return split_fraction(texts[0], *fractions)
        return split_documents(texts, *fractions)
