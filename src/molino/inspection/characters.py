"""What characters a text is made of, and which of them will surprise whoever trains on it."""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from molino.data.fast_encoders import CODE_POINTS, code_points
from molino.data.text import Text
from molino.data.tokenizers import Tokenizer

# The names of control characters in Unicode's NameAliases.txt, in order; unicodedata has none for them.
CONTROLS = """NULL;START OF HEADING;START OF TEXT;END OF TEXT;END OF TRANSMISSION;ENQUIRY;ACKNOWLEDGE;ALERT;BACKSPACE;
CHARACTER TABULATION;LINE FEED;LINE TABULATION;FORM FEED;CARRIAGE RETURN;SHIFT OUT;SHIFT IN;DATA LINK ESCAPE;
DEVICE CONTROL ONE;DEVICE CONTROL TWO;DEVICE CONTROL THREE;DEVICE CONTROL FOUR;NEGATIVE ACKNOWLEDGE;SYNCHRONOUS IDLE;
END OF TRANSMISSION BLOCK;CANCEL;END OF MEDIUM;SUBSTITUTE;ESCAPE;INFORMATION SEPARATOR FOUR;
INFORMATION SEPARATOR THREE;INFORMATION SEPARATOR TWO;INFORMATION SEPARATOR ONE;DELETE;PADDING CHARACTER;
HIGH OCTET PRESET;BREAK PERMITTED HERE;NO BREAK HERE;INDEX;NEXT LINE;START OF SELECTED AREA;END OF SELECTED AREA;
CHARACTER TABULATION SET;CHARACTER TABULATION WITH JUSTIFICATION;LINE TABULATION SET;PARTIAL LINE FORWARD;
PARTIAL LINE BACKWARD;REVERSE LINE FEED;SINGLE SHIFT TWO;SINGLE SHIFT THREE;DEVICE CONTROL STRING;PRIVATE USE ONE;
PRIVATE USE TWO;SET TRANSMIT STATE;CANCEL CHARACTER;MESSAGE WAITING;START OF GUARDED AREA;END OF GUARDED AREA;
START OF STRING;SINGLE GRAPHIC CHARACTER INTRODUCER;SINGLE CHARACTER INTRODUCER;CONTROL SEQUENCE INTRODUCER;
STRING TERMINATOR;OPERATING SYSTEM COMMAND;PRIVACY MESSAGE;APPLICATION PROGRAM COMMAND""".replace("\n", "").split(";")
CONTROL_NAMES = dict(zip([*range(0x20), *range(0x7F, 0xA0)], CONTROLS, strict=True))
# Categories of Unicode: controls, formats, private use, lone surrogates, not assigned; spaces; ends of lines.
UNUSUAL = ("Cc", "Cf", "Co", "Cs", "Cn", "Zs", "Zl", "Zp")
# Canonical combining classes: the voiced marks of Japanese, and from the first of those named after their place.
VOICED, ATTACHED = 8, 200
UNNAMED = {"Co": "PRIVATE USE", "Cs": "LONE SURROGATE", "Cn": "NOT ASSIGNED"}
WHITE_SPACE = np.array([chr(code).isspace() for code in range(0x3001)])  # U+3000 is the last
SPACE = "looks like a space and is another character: a prompt typed with spaces does not meet it"
INVISIBLE = "not to be seen: it makes words different that look alike"
DAMAGE = "a control character, mostly a sign of damage"
REMARKS = {
    "\x00": "no character of a text: is the file in another encoding, such as utf-16?",
    "\x0c": "a page break of what was printed",
    "\u00ad": "a hyphen that shows at a line's end only: it makes words different that look alike",
    "\u200c": "not to be seen: parts letters, as Persian needs it",
    "\u200d": "not to be seen: joins characters, as Hindi and emoji need it",
    "\u3000": "the space of Chinese and Japanese",
    "\ufeff": "a byte order mark inside the text, as where files were joined: remove it",
    "\ufffd": "stands for bytes that could not be read: the text was once decoded wrongly",
}
REMARKS_ON = {
    "Cf": INVISIBLE,
    "Zs": SPACE,
    "Zl": "ends a line and is no \\n",
    "Zp": "ends a paragraph and is no \\n",
    "Co": "means something in a font of its own alone",
    "Cs": "half a character: it is read as U+FFFD",
    "Cn": f"no character of Unicode {unicodedata.unidata_version}",
}


def is_accent(character: str) -> bool:
    """Tell whether a character is a mark on the letter before it. Vowels of Hebrew, Arabic or Hindi are none: they are
    written so."""
    place = unicodedata.combining(character)
    return place == VOICED or place >= ATTACHED


ACCENTS = np.array([is_accent(chr(code)) for code in range(0x3100)])  # those that compose are below


@dataclass
class Survey:
    """What is counted in texts, in one pass.

    Attributes:
        counts: of each code point, shape (0x110000,).
        words: stretches between white space.
        line_ends: places where \\r\\n stands.
        accented: how often which accent follows which character, by both as one string.
    """

    counts: np.ndarray = field(default_factory=lambda: np.zeros(CODE_POINTS, np.int64))
    words: int = 0
    line_ends: int = 0
    accented: Counter[str] = field(default_factory=Counter)

    @property
    def distinct(self) -> int:
        return int(np.count_nonzero(self.counts))

    def most_frequent(self, top: int) -> list[tuple[str, int]]:
        """Return characters with their counts, the most frequent first; ties by code point."""
        order = np.argsort(-self.counts, kind="stable")[:top]
        return [(chr(code), int(self.counts[code])) for code in order if self.counts[code]]


@dataclass(frozen=True)
class Unusual:
    """A character that is not what it looks like, or is not to be seen at all.

    Attributes:
        remark: what it means for training; empty where there is nothing to do.
    """

    character: str
    name: str
    count: int
    remark: str


def survey(texts: Iterable[Text]) -> Survey:
    """Count what is in texts, a piece at a time: they may be larger than memory."""
    found = Survey()
    for text in texts:
        before = np.array([ord(" ")], np.uint32)
        for codes in code_points(text):
            # Without a minimal length: a table of all code points for each piece would cost more than the counting.
            counts = np.bincount(codes)
            found.counts[: len(counts)] += counts
            pairs = np.stack([np.concatenate([before, codes[:-1]]), codes])
            space_first, space_then = WHITE_SPACE[np.where(pairs < len(WHITE_SPACE), pairs, ord("a"))]
            found.words += int(np.count_nonzero(space_first & ~space_then))
            found.line_ends += int(np.count_nonzero((pairs[0] == ord("\r")) & (pairs[1] == ord("\n"))))
            if (marks := ACCENTS[np.where(codes < len(ACCENTS), codes, 0)]).any():
                found.accented.update(map("{:c}{:c}".format, *pairs[:, marks].tolist()))
            before = codes[-1:]
    return found


def unusual(found: Survey, tokenizer: Tokenizer) -> list[Unusual]:
    """Return the unusual characters of a text, by code point: accents apart from their letters, and all that is neither
    to be seen nor a space, a tab or a newline."""
    chosen = filter(_is_unusual, map(chr, np.flatnonzero(found.counts)))
    return [Unusual(c, name_of(c), int(found.counts[ord(c)]), _remark(c, found, tokenizer)) for c in chosen]


def name_of(character: str) -> str:
    """Return the Unicode name of a character; of one without a name, what it is."""
    unnamed = UNNAMED.get(unicodedata.category(character), "WITHOUT A NAME")
    return CONTROL_NAMES.get(ord(character)) or unicodedata.name(character, unnamed)


def _is_unusual(character: str) -> bool:
    if character in " \n\t":
        return False
    return unicodedata.category(character) in UNUSUAL or character == "\ufffd" or is_accent(character)


def _remark(character: str, found: Survey, tokenizer: Tokenizer) -> str:
    if not len(tokenizer.encode(character)):
        return "the tokenizer drops it"
    if character == "\r":
        return _on_returns(found, tokenizer)
    if is_accent(character):
        return _on_accents(character, found)
    category = unicodedata.category(character)
    if "\x80" <= character < "\xa0" and (meant := character.encode("latin-1").decode("cp1252", "ignore")):
        return f"probably {meant} of cp1252, which was read as latin-1: convert the text anew"
    return REMARKS.get(character) or REMARKS_ON.get(category, DAMAGE)


def _on_returns(found: Survey, tokenizer: Tokenizer) -> str:
    feeds = int(found.counts[ord("\n")])
    if not found.line_ends:
        return "lines end with \\r alone: convert them to \\n" if not feeds else "lines end with \\r here and \\n there"
    own = len(tokenizer.encode("\r\n")) > len(tokenizer.encode("\n"))
    how = "\\r is a token of its own" if own else "prompts are spelt so"
    which = "" if found.line_ends == feeds else f"{found.line_ends:,} of {feeds:,} "
    return f"{which}line ends are \\r\\n: {how}"


def _on_accents(mark: str, found: Survey) -> str:
    """Say of a mark whether letters with it could be written as one character, and whether some are."""
    composed = Counter({unicodedata.normalize("NFC", pair): n for pair, n in found.accented.items() if pair[1] == mark})
    whole = [each for each, _ in composed.most_common() if len(each) == 1]
    if not whole:
        return ""
    remark = (
        f"accents are decomposed: prompts are spelt so, elsewhere {whole[0]} typed as one character does not meet them"
    )
    both = [each for each in whole if found.counts[ord(each)]]
    return f"{remark}, and the text has {' '.join(both[:3])} so too" if both else remark
