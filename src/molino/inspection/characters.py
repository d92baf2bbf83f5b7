"""The characters of a text: how many of each, and those that nobody sees but a model."""

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from molino.data.text import Text, strings

# Unicode gives controls no names.
CONTROLS = {
    0x00: "NULL", 0x07: "BELL", 0x08: "BACKSPACE", 0x09: "TAB", 0x0B: "VERTICAL TAB", 0x0C: "FORM FEED",
    0x0D: "CARRIAGE RETURN", 0x1A: "SUBSTITUTE", 0x1B: "ESCAPE", 0x7F: "DELETE", 0x85: "NEXT LINE",
}  # fmt: skip
CODE_POINTS = 0x110000


class Character(NamedTuple):
    """A character that is not what it seems.

    Attributes:
        code: its code point, such as U+00A0.
        remark: what it means for a model.
    """

    character: str
    code: str
    name: str
    count: int
    remark: str


def count_characters(texts: Iterable[Text]) -> dict[str, int]:
    """Return how often each character occurs, the most frequent first."""
    counts = np.zeros(CODE_POINTS, dtype=np.int64)
    for text in texts:
        for string in strings(text):
            found = np.bincount(np.frombuffer(string.encode("utf-32-le", "surrogatepass"), dtype=np.uint32))
            counts[: len(found)] += found
    there = np.flatnonzero(counts)
    return {chr(point): int(counts[point]) for point in there[np.argsort(-counts[there], kind="stable")]}


def unusual(counts: dict[str, int]) -> list[Character]:
    """Return the characters that cannot be seen, or are taken for others; the most frequent first."""
    found = [(character, count, _remark(character)) for character, count in counts.items()]
    return [
        Character(character, f"U+{ord(character):04X}", name_of(character), count, remark)
        for character, count, remark in found
        if remark
    ]


def name_of(character: str) -> str:
    """Return the name of a character."""
    return unicodedata.name(character, None) or CONTROLS.get(ord(character), "without a name")


def count_words(texts: Iterable[Text]) -> int:
    """Return how many words there are, as white space parts them."""
    words = 0
    for text in texts:
        inside = False  # whether the string before ended within a word
        for string in filter(None, strings(text)):
            words += len(string.split()) - (inside and not string[:1].isspace())
            inside = not string[-1:].isspace()
    return words


def _remark(character: str) -> str | None:
    """Return what is to be said of a character; None of one that is what it seems."""
    category = unicodedata.category(character)
    if character in "\n ":
        return None
    if character == "\r":
        return "line ends are \\r\\n: it is a token of its own, and samples have it too"
    if character == "\ufeff":
        return "a byte order mark inside the text"
    if character == "\ufffd":
        return "stands where a file could not be decoded"
    if category in ("Mn", "Mc", "Me"):
        return "stands behind its letter: what is typed in one character does not meet it"
    kinds = {
        "Zs": "looks like a space, and is another token",
        "Zl": "a line end that few know",
        "Zp": "a line end that few know",
        "Cc": "a control, not for reading",
        "Cf": "invisible, and a token",
        "Co": "means something in one font alone",
        "Cs": "half a character",
        "Cn": "no character yet",
    }
    return kinds.get(category)
