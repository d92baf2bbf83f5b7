"""Tables of text: TSV, CSV, JSON lines and Parquet as rows of values by the names of their columns."""

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from molino.base.errors import ConfigError, DataError, ResourceError
from molino.base.messages import suggest
from molino.data.corpus import decode

Row = Mapping[str, Any]
# What separates the columns of a line.
SEPARATORS = {".tsv": "\t", ".tab": "\t", ".txt": "\t", ".csv": ","}
LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
SUFFIXES = (*SEPARATORS, *LINES, *PARQUET)


def read_table(
    path: Path, *, suffix: str | None = None, header: bool = True, quotes: bool = True, encoding: str = "utf-8"
) -> list[Row]:
    """Return the rows of a table; lines of white space alone are none.

    Args:
        suffix: which of SUFFIXES says how it is laid out; None for that of its name.
        header: whether the first line names the columns of a TSV or CSV; else they are called 0, 1, 2, ...
        quotes: whether quotation marks of a TSV or CSV hold a field together.
        encoding: of a text file.

    Raises:
        ConfigError: there is no such encoding, or it is said of a kind of table that has none of this.
        DataError: it is missing, damaged, empty or of a kind that is not known.
        ResourceError: it is Parquet, and pyarrow is not installed.
    """
    suffix = (suffix or path.suffix).lower()
    for name, value in (("header", header), ("quotes", quotes)):
        if not value and suffix in (*LINES, *PARQUET):
            raise ConfigError(f"{name}=false is for TSV and CSV, and {path} is none: leave it out")
    if suffix in PARQUET:
        rows = _read_parquet(path)
    elif suffix in (*SEPARATORS, *LINES):
        text = _text(path, encoding)
        rows = _read_lines(text, path) if suffix in LINES else _read_columns(text, path, suffix, header, quotes)
    else:
        raise DataError(f"{path} is no table: its name must end in {', '.join(SUFFIXES)}")
    if not rows:
        raise DataError(f"{path} is empty; give a table with rows in it")
    return rows


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


def _text(path: Path, encoding: str) -> str:
    try:
        return decode(path.read_bytes(), path, encoding)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error


def _read_lines(text: str, path: Path) -> list[Row]:
    if path.suffix.lower() == ".json" and text.lstrip().startswith("["):
        try:
            return _checked(enumerate(json.loads(text), start=1), path)
        except ValueError as error:
            raise DataError(f"{path} is no JSON ({error})") from error
    # Not splitlines: a line of JSON may hold other characters that some call line ends.
    lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    return _checked(((number, _parsed(line, path, number)) for number, line in lines), path)


def _parsed(line: str, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number} is no JSON ({error})") from error


def _checked(numbered: Iterable[tuple[int, Any]], path: Path) -> list[Row]:
    rows = []
    for number, row in numbered:
        if not isinstance(row, Mapping):
            raise DataError(f"{path}, line {number} is no object of names and values, but {type(row).__name__}")
        rows.append(row)
    return rows


def _read_columns(text: str, path: Path, suffix: str, header: bool, quotes: bool) -> list[Row]:
    separator = SEPARATORS[suffix]
    if quotes:
        csv.field_size_limit(sys.maxsize)
        try:
            # Not splitlines: a field may hold other characters that some call line ends.
            lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
        except csv.Error as error:
            raise DataError(
                f"{path} is no table with quotation marks ({error}): where they are part of the text, set quotes=false"
            ) from error
    else:
        lines = [line.removesuffix("\r").split(separator) for line in text.split("\n")]
    lines = [line for line in lines if any(field.strip() for field in line)]
    if not lines:
        return []
    names = [name.strip() for name in lines[0]] if header else [str(number) for number in range(max(map(len, lines)))]
    body = lines[1:] if header else lines
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path}: its header names {twice[0]!r} twice; rename one")
    for number, line in enumerate(body, start=2 if header else 1):
        if header and len(line) != len(names):
            raise DataError(
                f"{path}, line {number} has {len(line)} fields, but its header names {len(names)}: a field that holds "
                f"{separator!r} needs quotation marks around it"
            )
    return [dict(zip(names, line, strict=False)) for line in body]


def _read_parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ResourceError(f"{path} is Parquet, for which pyarrow is needed: pip install pyarrow") from error
    try:
        return parquet.read_table(path).to_pylist()
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, ArrowException) as error:
        raise DataError(f"{path} is damaged or no Parquet ({' '.join(str(error).split())})") from error
