"""Corpora of questions whose answers stand inside a text, in the format of SQuAD (Rajpurkar et al. 2016) or a table."""

import functools
import json
from pathlib import Path

from molino.base.errors import ConfigError, DataError
from molino.data.corpora.own import LICENCE, OwnFiles
from molino.data.corpora.remote import remote_file
from molino.data.corpus import decode, digest
from molino.data.download import fetch
from molino.data.examples import Example, checked, examples_of, place_of_text, texts_of
from molino.data.tables import Row, read_table

VERSION = 1  # raised whenever what follows from the same files and settings changes
# Of every six articles one is held out and one is to test on, by what their places leave when divided by six.
EVERY, HELD_OUT = 6, {3: "val", 0: "test"}
# What the rows of SQuAD's files are as examples.
COLUMNS = {"text": "question", "pair": "context", "answer": "answer", "offset": "offset"}


class PublishedAnswers:
    """Questions in a file of SQuAD's format at a public address, without a split of its own.

    It is split by articles, by their places in the file: translations of one corpus hold out the same ones.

    Args:
        name: name of the corpus.
        licence: its licence.
        language: of its texts, such as `en`: metrics leave out its articles.
        file: url, sha256 and mirror_path.
        cache: folder for downloads.
        mirror: folder that holds `raw/`, or None.
    """

    documents = True

    def __init__(self, name: str, licence: str, language: str, file: dict, cache: str, mirror: str | None = None):
        self.name, self.licence, self.language = name, licence, language
        self.file, self.cache, self.mirror = remote_file(file), cache, mirror

    def fingerprint(self) -> str:
        return digest(VERSION, self.file.sha256)

    def examples(self) -> dict[str, list[Example]]:
        return self._splits

    def read(self) -> dict[str, list[str]]:
        return texts_of(self._splits)

    @functools.cached_property
    def _splits(self) -> dict[str, list[Example]]:
        path = fetch(self.file, self.cache, self.mirror)
        rows = read_squad(path)
        found: dict[str, list[Example]] = {}
        for row, example in zip(rows, examples_of(rows, COLUMNS, path, {}), strict=True):
            found.setdefault(HELD_OUT.get(row["number"] % EVERY, "train"), []).append(example)
        return checked(found, self.name)


class OwnAnswers:
    """Questions of one's own: a .json in SQuAD's format, or the columns of a table.

    Args:
        path: the file; with `val_path` and `test_path` the training examples alone.
        columns: which column of a table is what; see molino.data.examples. Without `offset` an answer is where it
            first stands in its text.
        val_path, test_path: files of held-out and of test examples.
        val_fraction, test_fraction: in their place, which share of the first file they are. The questions of an article
            stay together, by the digest of its title; in a table those of a text.
        header: whether the first line of a TSV or CSV names its columns; else they are called 0, 1, 2, ...
        quotes: whether quotation marks of a TSV or CSV hold a field together.
        encoding: of all files.
        language: whose articles do not count when answers are compared: en or es; those of others count.

    Raises:
        ConfigError: no path or no column is given, or a fraction is out of range.
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
        header: bool = True,
        quotes: bool = True,
        encoding: str = "utf-8",
        language: str = "en",
    ):
        self.language = language
        self.files = OwnFiles(
            "data=answers needs data.path=<JSON in SQuAD's format, TSV, CSV, JSONL or Parquet>",
            {"train": path, "val": val_path, "test": test_path},
            {"val": val_fraction, "test": test_fraction},
        )
        if missing := [name for name in ("pair", "answer") if columns.get(name) is None]:
            raise ConfigError(f"data.columns.{missing[0]} is null: name the column, for an answer stands inside a pair")
        self.name, self.columns = self.files.name, columns
        self.header, self.quotes, self.encoding = header, quotes, encoding

    def fingerprint(self) -> str:
        files = self.files.checksums(), self.files.fractions
        return digest(VERSION, *files, self.columns, self.header, self.quotes, self.encoding)

    def examples(self) -> dict[str, list[Example]]:
        return self._splits

    def read(self) -> dict[str, list[str]]:
        return texts_of(self._splits)

    @functools.cached_property
    def _splits(self) -> dict[str, list[Example]]:
        read = {split: self._read(path) for split, path in self.files.paths.items()}
        places = [place_of_text(article) for article in read["train"][1]]
        return self.files.split({split: examples for split, (examples, _) in read.items()}, places)

    def _read(self, path: Path) -> tuple[list[Example], list[str]]:
        """Return the questions of a file, and of each what it stays together with."""
        if path.suffix.lower() == ".json":
            rows = read_squad(path, self.encoding)
            return examples_of(rows, COLUMNS, path.name, {}), [row["article"] for row in rows]
        rows = read_table(path, header=self.header, quotes=self.quotes, encoding=self.encoding)
        examples = examples_of(rows, self.columns, path.name, {})
        return examples, [str(each.pair) for each in examples]


def read_squad(path: Path, encoding: str = "utf-8") -> list[Row]:
    """Return the questions of a file in SQuAD's format, in its order.

    Each row has a `question`, its `context`, a list of texts as `answer` and one of their places as `offset`; the
    `number` of its article, from 1 on, and as `article` its title, or where it has none its first paragraph.

    Raises:
        ConfigError: there is no such encoding.
        DataError: it cannot be read, is empty or in another format.
    """
    try:
        text = decode(path.read_bytes(), path, encoding)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    try:
        rows: list[Row] = [
            {
                "question": asked["question"],
                "context": paragraph["context"],
                "answer": [answer["text"] for answer in asked["answers"]],
                "offset": [answer["answer_start"] for answer in asked["answers"]],
                "number": number,
                "article": str(article.get("title") or article["paragraphs"][0]["context"]),
            }
            for number, article in enumerate(json.loads(text)["data"], start=1)
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no JSON in SQuAD's format ({type(error).__name__}: {error}), which has data, in it paragraphs, "
            "in these context and qas, in these question and answers; the name of a table ends in .jsonl or .csv"
        ) from error
    if not rows:
        raise DataError(f"{path} is empty; give a file with questions in it")
    return rows
