"""What is typed, spelt as a vocabulary knows it: Unicode writes the same text in several ways, and so do line ends.

An accented letter is one character, or a letter and its accent; a ligature stands for its letters. A model knows what
its corpus has; that is never changed.
"""

import re
from collections.abc import Iterator
from unicodedata import combining, normalize

from molino.base.errors import DataError
from molino.data.line_ends import LINE_ENDS
from molino.data.tokenizers import Tokenizer

# The forms that say the same, and those that say nearly the same.
SAME, NEARLY = ("NFC", "NFD"), ("NFKC", "NFKD")
LINE_END = re.compile(r"\r\n|\r|\n")
PARTS = re.compile(r"\r\n|\s|\S+")
NOWHERE = "\U0010fffd"  # a character that no text has


def spelt(text: str, tokenizer: Tokenizer, line_end: str | None = None) -> tuple[str, dict[str, str]]:
    """Return a text as the vocabulary knows it, and which characters, line ends and words of it became what.

    Changed is what is unknown, and only into what is known. Where nothing ever is unknown, as with bytes, accents are
    written as they are, composed or decomposed, whichever takes the fewest tokens.

    Args:
        line_end: the only one that the model has read; None where there are several, or it is not known.
    """
    text, changed = _with_line_end(text, tokenizer, line_end)
    if text.isascii() and not LINE_END.search(text):
        return text, changed  # there is one way to write it
    parts = PARTS.findall(text)
    if _knows_all(tokenizer):
        # As it is comes first, for where others take as many.
        form = min([None, *SAME], key=lambda form: len(tokenizer.encode(_in(form, text))))
        spelling = {part: _in(form, part) for part in parts}
    elif tokenizer.unknown(text):
        spelling = {part: _known(part, tokenizer) for part in dict.fromkeys(parts)}
    else:
        return text, changed
    for part, other in spelling.items():
        changed |= _changes(part, other)
    return "".join(map(spelling.__getitem__, parts)), changed


def _changes(part: str, other: str) -> dict[str, str]:
    """Return what in a word became what: its characters, or where these became others together, the word."""
    ways = {each: [each, *(normalize(form, each) for form in (*SAME, *NEARLY))] for each in _characters(part)}
    found, rest = {}, other
    for each in _characters(part):
        way = next((way for way in ways[each] if rest.startswith(way)), None)
        if way is None:
            return {part: other}
        rest = rest.removeprefix(way)
        found |= {each: way} if way != each else {}
    return {part: other} if rest else found


def _with_line_end(text: str, tokenizer: Tokenizer, line_end: str | None) -> tuple[str, dict[str, str]]:
    ended = text if line_end is None else LINE_END.sub(lambda _: line_end, text)
    # To a tokenizer of words they may all be one.
    if ended == text or tokenizer.encode(ended).tolist() == tokenizer.encode(text).tolist():
        return text, {}
    return ended, {end: line_end for end in LINE_END.findall(text) if end != line_end}


def _knows_all(tokenizer: Tokenizer) -> bool:
    try:
        return len(tokenizer.encode(NOWHERE)) > 0 and not tokenizer.unknown(NOWHERE)
    except DataError:  # it has nothing for what is unknown
        return False


def _known(part: str, tokenizer: Tokenizer) -> str:
    """Return the way to write a word, or a line end, of which the least is unknown; itself, if that is one."""

    def unknown(text: str) -> int:
        return len(tokenizer.unknown(text))

    def of_character(text: str) -> str:
        ways = (normalize(form, text) for form in (*SAME, *NEARLY) if unknown(text))
        return next((way for way in ways if not unknown(way)), text)

    if not unknown(part):
        return part
    ends = LINE_ENDS if part in LINE_ENDS else ()
    whole = (normalize(form, part) for form in (*SAME, *NEARLY))
    # Where tokens are characters, those that are known stay as they are.
    return min([part, "".join(map(of_character, _characters(part))), *whole, *ends], key=unknown)


def _characters(text: str) -> Iterator[str]:
    """Yield the characters of a text, each with the accents behind it."""
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or not combining(text[end]):
            yield text[start:end]
            start = end


def _in(form: str | None, text: str) -> str:
    return text if form is None else normalize(form, text)
