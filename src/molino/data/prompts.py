"""Prompts of a file, of a table, or of standard input."""

import sys
from pathlib import Path

from molino.base.errors import ConfigError, DataError
from molino.data.corpus import decode
from molino.data.tables import LINES, PARQUET, read_table
from molino.data.tables import column as column_of

FIELD = "prompt"  # what a table calls them, where nothing is said
INPUT = "-"  # the name of standard input
# A text file has a prompt a line, whatever else its lines hold.
TABLES = (*LINES, *PARQUET, ".csv", ".tsv", ".tab")


def read_prompts(name: str, field: str = FIELD) -> list[str]:
    """Return the prompts of a file: of a table a column's, of any other one each line that is not blank.

    Args:
        name: the file, or INPUT.
        field: the column, or a name in each JSON object; dots go into nested ones.

    Raises:
        ConfigError: a column is named, and it is no table.
        DataError: it is missing, damaged or empty, or a row has no prompt.
    """
    path = Path(name).expanduser()
    if name != INPUT and path.suffix.lower() in TABLES:
        rows = read_table(path)
        take = column_of(field, rows, path, "prompts_field")
        return [_checked(take(row), f"{path}, row {number}", field) for number, row in enumerate(rows, start=1)]
    if field != FIELD:
        raise ConfigError(f"prompts_field={field} is for a table, and prompts={name} has a prompt a line: leave it out")
    text = _input() if name == INPUT else _content(path)
    prompts = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not prompts:
        raise DataError(f"prompts={name} holds no prompt: give one a line")
    return prompts


def read_prompt(advice: str) -> str:
    """Return all of standard input but its last line end: one prompt.

    Args:
        advice: what else could be typed.

    Raises:
        ConfigError: there is nothing.
    """
    text = _input()
    if not text:
        raise ConfigError(f'there is no prompt: add prompt="..."{advice}')
    return text.removesuffix("\n").removesuffix("\r")


def _input() -> str:
    # What has been put in place of the real one by whoever reads it may know no bytes.
    text = getattr(sys.stdin, "buffer", sys.stdin).read()
    return decode(text, "standard input") if isinstance(text, bytes) else text


def _content(path: Path) -> str:
    try:
        return decode(path.read_bytes(), path)
    except OSError as error:
        raise DataError(
            f"prompts={path} cannot be read ({error.strerror}): name a file, or - for standard input"
        ) from error


def _checked(value: object, place: str, field: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{place} has no text in {field}: it holds {value!r}")
    return str(value)
