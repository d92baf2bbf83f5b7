"""In which forms people have text: plain files and tables, as they are, compressed or in a .zip, by their names."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from molino.base.errors import ConfigError, DataError
from molino.base.messages import few
from molino.data.archives import PACKERS, ZIP, Compressed, File, Zip
from molino.data.tables import LINES, PARQUET, Row, column, empty, rows_of
from molino.data.text import FileText, Text, check_unchanged, read_start

TEXTS = (".txt", ".md")
TABLES = (".csv", ".tsv", ".tab", *LINES, *PARQUET)
# What a file that is not plain text begins with. UTF-32 stands before UTF-16, whose mark it begins with.
ARCHIVES = {
    b"\x1f\x8b": ("gzip", ".gz"),
    b"PK\x03\x04": ("zip", ZIP),
    b"BZh": ("bzip2", ".bz2"),
    b"\xfd7zXZ\x00": ("xz", ".xz"),
    b"%PDF": ("PDF", None),
    b"7z\xbc\xaf\x27\x1c": ("7z", None),
    b"\x28\xb5\x2f\xfd": ("zstd", None),
    b"PAR1": ("Parquet", ".parquet"),
}
TAR = b"ustar", 257  # which stands further behind
BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
FIRST = 100  # rows that tell which columns a table has


class Reading(NamedTuple):
    """How files are read.

    Attributes:
        encoding: of all of them.
        column: of tables, which holds the texts; None where nobody has said it.
        header, quotes: of a CSV or TSV; see molino.data.tables.read_table.
        universal: whether \\r\\n and \\r are read as \\n.
        limit: of a single text only so many characters; None for all.
    """

    encoding: str = "utf-8"
    column: str | None = None
    header: bool = True
    quotes: bool = True
    universal: bool = False
    limit: int | None = None

    def rows(self, file: File, only: str | None = None) -> Iterator[Row]:
        """Yield the rows of a table; see molino.data.tables.rows_of."""
        return rows_of(file, header=self.header, quotes=self.quotes, encoding=self.encoding, only=only)


def texts_in(folder: Path, tables: bool) -> list[Path]:
    """Return the texts of a folder at any depth, and its tables; of what lies there packed and as it is, what is as it
    is.

    Args:
        tables: whether they are taken too. Where there is nothing else they are.

    Raises:
        DataError: a .zip is damaged or not to be trusted.
    """
    every = [file for file in folder.rglob("*") if file.is_file()]
    zips = {file: _names(file) for file in every if file.suffix.lower() == ZIP}
    texts = [file for file in every if _inner(file.name) in TEXTS]
    texts += [file for file, names in zips.items() if any(_inner(name) in TEXTS for name in names)]
    if tables or not texts:
        texts += [file for file in every if _inner(file.name) in TABLES]
        texts += [file for file, names in zips.items() if file not in texts and any(_inner(n) in TABLES for n in names)]
    plain = {file for file in texts if file.suffix.lower() not in (*PACKERS, ZIP)}
    return sorted(file for file in texts if not (_unpacked(file, zips.get(file)) & plain))


def _names(archive: Path) -> list[str]:
    return [member.entry.filename for member in Zip(archive).members()]


def _unpacked(file: Path, names: list[str] | None) -> set[Path]:
    """Return where what is packed in a file lies if somebody has unpacked it; of a .zip it holds `names`."""
    if names is not None:
        return {place / name for place in (file.parent, file.with_suffix("")) for name in names}
    return {file.with_suffix("")} if file.suffix.lower() in PACKERS else set()


def is_table(file: File) -> bool:
    """Tell whether a file, or what is packed in one, is a table."""
    return file.suffix.lower() in TABLES


def form(path: Path) -> str:
    """Return what the name of a file says of its form; nothing of a plain text."""
    packed = path.suffix.lower() if path.suffix.lower() in (*PACKERS, ZIP) else ""
    inner = _inner(path.name)
    return (inner if inner in TABLES else "") + packed


def files_of(path: Path, tables: bool) -> list[File]:
    """Return the files of text that a file is: itself, what is packed in it, or of a .zip all of them.

    Of a .zip these are its texts, or where it holds a single file this one, whatever its name.

    Args:
        tables: whether tables in a .zip are taken too. Where there is nothing else they are.

    Raises:
        DataError: it is a .zip, and is damaged, not to be trusted or holds no text.
    """
    if path.suffix.lower() in PACKERS:
        return [Compressed(path)]
    if path.suffix.lower() != ZIP:
        return [path]
    members = Zip(path).members()
    kinds = (*TEXTS, *TABLES) if tables or not any(each.suffix.lower() in TEXTS for each in members) else TEXTS
    found = [each for each in members if each.suffix.lower() in kinds]
    if not found and len(members) != 1:
        raise DataError(f"{path} has no {' or '.join(TEXTS)} file in it, and no table")
    return found or members


def refuse_without_column(table: File, reading: Reading) -> NoReturn:
    """Refuse a table of which no column is named; say which it has.

    Raises:
        ConfigError: as above.
        DataError: it cannot be read.
    """
    names = dict.fromkeys(name for row in islice(reading.rows(table), FIRST) for name in row)
    if not names:
        raise empty(table)
    raise ConfigError(
        f"{table} is a table: say which column holds the texts with data.column=<name>; it has {few(names, 50)}"
    )


def texts_of(file: File, version: tuple[int, int], reading: Reading) -> Iterator[Text]:
    """Yield the texts of a file: itself, or of a table what its column holds, row by row.

    A text may be empty.

    Args:
        version: what `file_version` said of it when it was first looked at.

    Raises:
        ConfigError: Python knows no such encoding.
        DataError: it cannot be read, is no text, or has no such column.
        ResourceError: it is Parquet, and pyarrow is not installed.
    """
    if is_table(file):
        check_unchanged(file, version)
        return _texts_of_table(file, reading)
    _check_text(file, reading.encoding)
    return iter([FileText(file, reading.encoding, version, reading.universal, reading.limit)])


def _texts_of_table(file: File, reading: Reading) -> Iterator[str]:
    rows = reading.rows(file, reading.column)
    first = list(islice(rows, FIRST))
    if not first:
        raise empty(file)
    value = column(reading.column, first, file, "data.column")
    for number, row in enumerate(chain(first, rows), start=1):
        text = _text(value(row), reading.column, file, number)
        yield text.replace("\r\n", "\n").replace("\r", "\n") if reading.universal else text


def _text(value: Any, name: str, file: File, number: int) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    inside = f"name what lies in it, such as data.column={name}.text" if isinstance(value, dict) else "name another"
    raise DataError(f"{file}, row {number}: data.column={name} holds a {type(value).__name__} and no text; {inside}")


def _check_text(file: File, encoding: str) -> None:
    """Refuse what is plainly no text, or in another encoding."""
    start = read_start(file, TAR[1] + len(TAR[0]))
    kinds = [each for magic, each in ARCHIVES.items() if start.startswith(magic)]
    if start[TAR[1] :] == TAR[0]:
        kinds.append(("tar", None))
    for kind, suffix in kinds:
        named = (
            f"; where it holds text let its name end in {suffix}"
            if suffix
            else "; unpack it, or convert it to text, first"
        )
        raise DataError(f"{file} is a {kind} file, not plain text{named}")
    guess = next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    if guess and guess not in encoding.lower():
        raise DataError(
            f"{file} is not {encoding}: its bytes at offset 0 mark {guess}; add data.corpus.encoding={guess}"
        )


def _inner(name: str) -> str:
    """Return how the name of a file ends, whatever it is packed with."""
    path = Path(name)
    return Path(path.stem if path.suffix.lower() in PACKERS else name).suffix.lower()
