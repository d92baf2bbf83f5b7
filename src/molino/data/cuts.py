"""Where a text is cut for a byte-level tokenizer, whose library gets it a piece at a time.

With GPT-2's rules a word ends before white space: pieces that end there have the ids of the whole. A stretch without
any, such as a genome or a novel on one line, would be held in memory as a whole, and a word of its length takes hours
to merge. So it is cut between letters, digits and signs, where such words end too, and where there is no such place
after so many characters.
"""

import re
from collections.abc import Iterator
from itertools import chain

from molino.data.text import Text, strings

# So many characters without white space behind a word are such a stretch; its pieces have between SHORT and twice that.
LONGEST = 1 << 15
SHORT = 1 << 8

# Two characters between which a word ends, whatever comes before and behind. Python and the library need not agree on
# every character: named are only those of which both think the same.
SPACE = re.compile("\\S[ \t\n\r\f\v\u3000]")
SIGNS = "!-/:-@\\[-`{-~\u3001\u3002\u3008-\u3011\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"
KINDS = re.compile(f"[^\\W_][{SIGNS}]|[A-Za-z][0-9]|[0-9][A-Za-z]")


def cut(text: Text, size: int) -> Iterator[tuple[str, bool]]:
    """Yield `text` in pieces of about `size` characters, each with whether it is of a stretch without white space.

    In what strings a text comes makes no difference.
    """
    rest, within = "", False
    for string in chain(strings(text), [None]):
        rest, start = rest + (string or ""), 0
        needed = 0 if string is None else size + LONGEST
        while len(rest) - start > needed:
            end, goes_on = _end_within(rest, start) if within else _end(rest, start, size)
            if end > start:
                yield rest[start:end], within
            start, within = end, goes_on
        rest = rest[start:]


def _end(text: str, start: int, size: int) -> tuple[int, bool]:
    """Return where the piece that starts at `start` ends, and whether a stretch without white space begins there."""
    if found := SPACE.search(text, start + size, start + size + LONGEST):
        return found.start() + 1, False
    if len(text) - start <= size + LONGEST:
        return len(text), False
    return max((found.start() + 1 for found in SPACE.finditer(text, start, start + size)), default=start), True


def _end_within(text: str, start: int) -> tuple[int, bool]:
    """Return where the piece of a stretch ends that starts at `start`, and whether the stretch goes on."""
    last = start + 2 * SHORT
    if found := SPACE.search(text, start, last + 1):
        return found.start() + 1, False
    found = KINDS.search(text, start + SHORT, last + 1)
    return (found.start() + 1 if found else last), True
