"""Tables of text: TSV, CSV, JSON lines and Parquet as rows of values by the names of their columns."""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from molino.base.errors import ConfigError, DataError, ResourceError
from molino.base.messages import suggest
from molino.data.archives import File
from molino.data.text import decoded

Row = Mapping[str, Any]
# What separates the columns of a line.
SEPARATORS = {".tsv": "\t", ".tab": "\t", ".txt": "\t", ".csv": ","}
LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
SUFFIXES = (*SEPARATORS, *LINES, *PARQUET)


def read_table(
    path: File, *, suffix: str | None = None, header: bool = True, quotes: bool = True, encoding: str = "utf-8"
) -> list[Row]:
    """Return the rows of a table; see `rows_of`.

    Raises:
        DataError: there are none.
    """
    rows = list(rows_of(path, suffix=suffix, header=header, quotes=quotes, encoding=encoding))
    if not rows:
        raise empty(path)
    return rows


def empty(path: File) -> DataError:
    """Return the error that says that a table has no rows."""
    return DataError(f"{path} is empty; give a table with rows in it")


def rows_of(
    path: File,
    *,
    suffix: str | None = None,
    header: bool = True,
    quotes: bool = True,
    encoding: str = "utf-8",
    only: str | None = None,
) -> Iterator[Row]:
    """Yield the rows of a table, of which no more is read than is asked for, but of a JSON list; lines of white space
    alone are none.

    Args:
        path: of the table, or what is packed in a file (`data/archives.py`).
        suffix: which of SUFFIXES says how it is laid out; None for that of its name.
        header: whether the first line names the columns of a TSV or CSV; else they are called 0, 1, 2, ...
        quotes: whether quotation marks of a TSV or CSV hold a field together.
        encoding: of a text file.
        only: the column that is of interest, as `column` takes it: of a Parquet no other is read, if it is there.

    Raises:
        ConfigError: there is no such encoding, or it is said of a kind of table that has none of this.
        DataError: it is missing, damaged or of a kind that is not known.
        ResourceError: it is Parquet, and pyarrow is not installed.
    """
    suffix = (suffix or path.suffix).lower()
    for name, value in (("header", header), ("quotes", quotes)):
        if not value and suffix in (*LINES, *PARQUET):
            raise ConfigError(f"{name}=false is for TSV and CSV, and {path} is none: leave it out")
    if suffix in PARQUET:
        yield from _read_parquet(path, only)
    elif suffix in LINES:
        yield from _read_lines(decoded(path, encoding), path, suffix)
    elif suffix in SEPARATORS:
        yield from _read_columns(decoded(path, encoding), path, suffix, header, quotes)
    else:
        raise DataError(f"{path} is no table: its name must end in {', '.join(SUFFIXES)}")


def column(name: str | int, rows: list[Row], origin: object, setting: str) -> Callable[[Row], Any]:
    """Return what takes the values of a column out of rows. Dots go into nested values: `question.stem`; of a list of
    them all values.

    Args:
        origin: where the rows come from, and
        setting: the setting that names the column, both for messages.

    Raises:
        DataError: there is no such column; names the nearest.
    """
    name, known = str(name), list(dict.fromkeys(key for row in rows[:100] for key in row))

    def value(row: Row) -> Any:
        return row[name] if name in row else _inner(row, name.split("."))

    if all(value(row) is None for row in rows[:100]):
        absent = name not in known and name.partition(".")[0] not in known
        why = "is no column" if absent else "is empty in every row"
        raise DataError(f"{setting}={name} {why} of {origin}{suggest(name, known)}")
    return value


def _inner(value: Any, keys: list[str]) -> Any:
    for number, key in enumerate(keys):
        if isinstance(value, list):
            return [_inner(each, keys[number:]) for each in value]
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _lines(strings: Iterable[str], newline: str) -> Iterator[str]:
    """Yield the lines of a text that comes in strings, with their ends: `\\n`, or by "" also `\\r` and `\\r\\n`.

    Not splitlines: a field may hold other characters that some call line ends.
    """
    rest = ""
    for string in strings:
        *lines, rest = io.StringIO(rest + string, newline=newline).readlines() or [""]
        yield from lines
    if rest:
        yield rest


def _read_lines(strings: Iterator[str], path: File, suffix: str) -> Iterator[Row]:
    lines = _lines(strings, "\n")
    if suffix == ".json":
        first = ""  # with the empty lines before it, which are counted
        while not first.strip() and (line := next(lines, "")):
            first += line
        lines = chain(_lines([first], "\n"), lines)
        if first.lstrip().startswith("["):
            try:
                rows = json.loads("".join(lines))
            except ValueError as error:
                raise DataError(f"{path} is no JSON ({error})") from error
            yield from _checked(enumerate(rows, start=1), path)
            return
    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    yield from _checked(((number, _parsed(line, path, number)) for number, line in numbered), path)


def _parsed(line: str, path: File, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number} is no JSON ({error})") from error


def _checked(numbered: Iterable[tuple[int, Any]], path: File) -> Iterator[Row]:
    for number, row in numbered:
        if not isinstance(row, Mapping):
            raise DataError(f"{path}, line {number} is no object of names and values, but {type(row).__name__}")
        yield row


def _read_columns(strings: Iterator[str], path: File, suffix: str, header: bool, quotes: bool) -> Iterator[Row]:
    separator = SEPARATORS[suffix]
    lines = (line for line in _fields(strings, path, separator, quotes) if any(field.strip() for field in line))
    if not header:
        yield from ({str(number): field for number, field in enumerate(line)} for line in lines)
        return
    names = [name.strip() for name in next(lines, [])]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path}: its header names {twice[0]!r} twice; rename one")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(names):
            raise DataError(
                f"{path}, line {number} has {len(line)} fields, but its header names {len(names)}: a field that holds "
                f"{separator!r} needs quotation marks around it"
            )
        yield dict(zip(names, line, strict=True))


def _fields(strings: Iterator[str], path: File, separator: str, quotes: bool) -> Iterator[list[str]]:
    if not quotes:
        for line in _lines(strings, "\n"):
            yield line.removesuffix("\n").removesuffix("\r").split(separator)
        return
    csv.field_size_limit(sys.maxsize)
    try:
        yield from csv.reader(_lines(strings, ""), delimiter=separator, strict=True)
    except csv.Error as error:
        raise DataError(
            f"{path} is no table with quotation marks ({error}): where they are part of the text, set quotes=false"
        ) from error


def _read_parquet(path: File, only: str | None) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ResourceError(f"{path} is Parquet, for which pyarrow is needed: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path if isinstance(path, Path) else io.BytesIO(path.open().read())) as file:
            wanted = [name for name in (only, str(only).partition(".")[0]) if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=wanted[:1] or None):
                yield from batch.to_pylist()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, ArrowException) as error:
        raise DataError(f"{path} is damaged or no Parquet ({' '.join(str(error).split())})") from error
