"""What a corpus is, and the pure helpers every corpus is made with.

A corpus is split in contiguous blocks and never shuffled: neighbouring passages resemble one another, so a shuffled
split would test a model on what it has almost seen.
"""

import hashlib
import json
from pathlib import Path
from typing import Protocol

from molino.base.errors import ConfigError, DataError
from molino.data.text import BYTE_ORDER_MARK, FileText, Text, not_encoded, unknown_encoding


class Corpus(Protocol):
    """Text with its name, its licence and its splits.

    Attributes:
        name: what tables and run directories call it.
        licence: under which terms the text may be used.
        documents: True for many independent documents, to be separated by `<|endoftext|>` in the token stream; False
            for one continuous text.

    One whose exact entropy rate is known, in nats a character, has it as `entropy_per_character`: no model can have a
    lower expected loss.
    """

    name: str
    licence: str
    documents: bool

    def fingerprint(self) -> str:
        """Return a sha256 in hex that changes whenever the text or the split changes.

        It follows from pinned checksums where there are some, so that a run whose tokens are cached starts at once.
        """
        ...

    def read(self) -> dict[str, list[Text]]:
        """Return the texts of each split: 'train', 'val' and, where the corpus has one, 'test'.

        A continuous text is a list of one element. Each is a string, or where it may be larger than memory a text that
        yields its strings (`data/text.py`).

        Raises:
            DataError: the text is missing, damaged, empty or not in the expected encoding.
            ResourceError: a download cannot be stored.
        """
        ...


def check_train_fraction(train_fraction: float) -> None:
    """Raise ConfigError unless 0 < train_fraction < 1."""
    if not 0 < train_fraction < 1:
        raise ConfigError(
            f"data.corpus.train_fraction={train_fraction} leaves no text to train on or none to validate on; "
            "give a number between 0 and 1, such as 0.9"
        )


def check_test_fraction(test_fraction: float) -> None:
    """Raise ConfigError unless 0 <= test_fraction < 1."""
    if not 0 <= test_fraction < 1:
        raise ConfigError(
            f"data.test_fraction={test_fraction} leaves no text to train on; give 0, or a small number such as 0.05"
        )


def split_fraction(text: str | FileText, train_fraction: float, test_fraction: float = 0.0) -> dict[str, list[Text]]:
    """Split one continuous text: the last `test_fraction` of its characters, if any, are 'test'; of those before them
    the first `train_fraction` are 'train', the rest 'val'.

    Raises:
        ConfigError: a fraction is out of range.
        DataError: the text is so short that a split would be empty.
    """
    check_train_fraction(train_fraction)
    check_test_fraction(test_fraction)
    end = len(text) - int(test_fraction * len(text))
    cut = int(train_fraction * end)
    if not 0 < cut < end or (test_fraction and end == len(text)):
        raise DataError(f"a text of {len(text)} characters is too short to split; give a longer one")
    return {"train": [text[:cut]], "val": [text[cut:end]], **({"test": [text[end:]]} if test_fraction else {})}


def split_documents(
    documents: list[str] | list[FileText], train_fraction: float, test_fraction: float = 0.0
) -> dict[str, list[Text]]:
    """Split whole documents: the last `test_fraction` of them, if any, are 'test'; of those before them the first
    `train_fraction` are 'train', the rest 'val', each at least one.

    A single document is split as a continuous text.

    Raises:
        ConfigError: a fraction is out of range.
        DataError: there are too few documents, or one that is too short to split.
    """
    check_train_fraction(train_fraction)
    check_test_fraction(test_fraction)
    if len(documents) < 2:
        return split_fraction(documents[0] if documents else "", train_fraction, test_fraction)
    if test_fraction and len(documents) == 2:
        raise DataError("2 documents cannot be split into three; give more, or leave data.test_fraction out")
    kept = max(int(test_fraction * len(documents)), 1) if test_fraction else 0
    end = max(len(documents) - kept, 2)
    cut = min(max(int(train_fraction * end), 1), end - 1)
    test = {"test": documents[end:]} if test_fraction else {}
    return {"train": documents[:cut], "val": documents[cut:end], **test}


def decode(data: bytes, origin: str | Path, encoding: str = "utf-8") -> str:
    """Decode the bytes of `origin`; a byte order mark is dropped, line ends stay as they are.

    Raises:
        ConfigError: Python knows no such encoding.
        DataError: the bytes are not in this encoding; names `origin` and the offset of the first bad byte.
    """
    try:
        return data.decode(encoding).removeprefix(BYTE_ORDER_MARK)
    except LookupError as error:
        raise unknown_encoding(encoding) from error
    except UnicodeDecodeError as error:
        raise not_encoded(origin, encoding, data[error.start], error.start) from error


def digest(*facts: object) -> str:
    """Return the sha256 in hex of plain facts (numbers, strings, lists and dicts of them)."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
