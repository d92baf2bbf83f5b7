"""Text of the user's own: a file, a folder or a pattern."""

from pathlib import Path

from molino.base.console import working
from molino.base.errors import ConfigError, DataError
from molino.base.files import sha256_file
from molino.data.corpus import check_test_fraction, check_train_fraction, digest, split_documents, split_fraction
from molino.data.text import FileText, Text, file_version, read_start

SUFFIXES = (".txt", ".md")
# What a file that is not plain text begins with. UTF-32 stands before UTF-16, whose mark it begins with.
ARCHIVES = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"%PDF": "PDF"}
BYTE_ORDER_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


class UserText:
    """A file is one continuous text; the files of a folder or a pattern are documents, in the order of their paths.

    Files are read a piece at a time, so they may be larger than memory.

    Args:
        path: a file, a folder (its .txt and .md files, at any depth) or a pattern such as `books/**/*.txt`.
        train_fraction: share of the characters or of the documents, from the start, to train on; the rest of what is no
            test split is held out.
        test_fraction: share of them, from the end, that is the test split; 0 for none.
        encoding: of all the files.

    Raises:
        ConfigError: `path` is not given.
        DataError: nothing is there.
    """

    licence = "the user's own text"

    def __init__(
        self,
        path: str | None = None,
        train_fraction: float = 0.9,
        encoding: str = "utf-8",
        test_fraction: float = 0.0,
    ):
        if not path:
            raise ConfigError("data=text needs data.path=<file, folder or glob>")
        check_train_fraction(train_fraction)
        check_test_fraction(test_fraction)
        self.paths = _find(Path(path).expanduser())
        # As they are now; that they still are when they are read makes the fingerprint that of what is read.
        self.versions = [file_version(path) for path in self.paths]
        self.name, self.encoding = Path(path).absolute().name, encoding
        self.fractions = (train_fraction, *([test_fraction] if test_fraction else []))
        self.documents = len(self.paths) > 1

    def fingerprint(self) -> str:
        with working(f"reading {self.name}"):
            checksums = [_checksum(path) for path in self.paths]
        return digest(checksums, *self.fractions, self.encoding)

    def read(self) -> dict[str, list[Text]]:
        """Return the splits; files of white space alone are left out."""
        files = zip(self.paths, self.versions, strict=True)
        texts = [text for text in [_open(path, self.encoding, version) for path, version in files] if _has_words(text)]
        if not texts:
            raise DataError(f"{self.paths[0]} is empty; give a file with text in it")
        if not self.documents:
            return split_fraction(texts[0], *self.fractions)
        return split_documents(texts, *self.fractions)


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES]
    else:
        found = Path(path.anchor).glob(str(path.relative_to(path.anchor)))
    files = sorted(file for file in found if file.is_file())
    if not files:
        other = "is no regular file" if path.exists() else "does not exist"
        reason = f"has no {' or '.join(SUFFIXES)} file" if path.is_dir() else other
        raise DataError(f"data.path={path} {reason}; give a file, a folder or a glob (now in {Path.cwd()})")
    return files


def _checksum(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error


def _open(path: Path, encoding: str, version: tuple[int, int]) -> FileText:
    start = read_start(path, max(map(len, [*ARCHIVES, *BYTE_ORDER_MARKS])))
    for magic, kind in ARCHIVES.items():
        if start.startswith(magic):
            raise DataError(f"{path} is a {kind} file, not plain text; unpack it first")
    guess = next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    if guess and guess not in encoding.lower():
        raise DataError(
            f"{path} is not {encoding}: its bytes at offset 0 mark {guess}; add data.corpus.encoding={guess}"
        )
    return FileText(path, encoding, version)


def _has_words(text: Text) -> bool:
    return any(not string.isspace() for string in text)
