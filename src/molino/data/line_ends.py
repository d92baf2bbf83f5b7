"""Which line ends a text has: of Unix, of Windows (`\\r\\n`) or `\\r` alone; and what follows for a model."""

from collections.abc import Mapping

from molino.data.corpus import Corpus
from molino.data.tokenizers import Tokenizer

LINE_ENDS = ("\n", "\r\n", "\r")


class LineEnds:
    """Counts the returns of texts that come in strings, and looks for line ends without one."""

    def __init__(self) -> None:
        self._plain, self._returns, self._both, self._last = False, 0, 0, ""

    def add(self, string: str) -> None:
        # Almost all texts have none, and to count what is in every line takes longer than to look for it.
        if "\r" not in string and self._last != "\r":
            self._plain = self._plain or "\n" in string
            return
        both = string.count("\r\n") + (self._last == "\r" and string.startswith("\n"))
        self._plain = self._plain or string.count("\n") > both
        self._returns += string.count("\r")
        self._both += both
        self._last = string[-1:]

    def counts(self) -> dict[str, int]:
        """Return how often each of LINE_ENDS was there; of the first only whether."""
        return line_ends(int(self._plain) + self._both, self._returns, self._both)


def line_ends(feeds: int, returns: int, both: int) -> dict[str, int]:
    """Return how often each of LINE_ENDS is in a text that has so many line feeds, returns, and both in a row."""
    return dict(zip(LINE_ENDS, (feeds - both, both, returns - both), strict=True))


def only_line_end(counts: Mapping[str, int]) -> str | None:
    """Return the line end that a text has, if it has no other."""
    found = [end for end, count in counts.items() if count]
    return found[0] if len(found) == 1 else None


def remark_on_returns(counts: Mapping[str, int], tokenizer: Tokenizer, corpus: Corpus) -> str | None:
    """Return what is to be said of a corpus with \\r in its text, on one line; nothing where the tokenizer reads all
    line ends as one."""
    held = [end for end in LINE_ENDS[1:] if counts.get(end)]
    plain = tokenizer.encode("a\nb").tolist()
    if all(tokenizer.encode(f"a{end}b").tolist() == plain for end in held):
        return None
    told = " and ".join(f"{repr(end)[1:-1]} {counts[end]:,} times" for end in held)
    advice = "; data.newlines=universal reads it as \\n" if hasattr(corpus, "newlines") else ""
    return f"{told}: \\r is learnt like any other character{advice}"
