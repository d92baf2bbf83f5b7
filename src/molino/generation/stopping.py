"""Where a text ends: at a token that says so, before a text that is not to come, or when it is as long as it may be."""

from collections.abc import Callable, Collection, Sequence

from molino.base.errors import ConfigError
from molino.generation.streaming import TextStream

STOP, END, LENGTH = "stop", "end", "length"  # why a text has ended: a stop text, a token, or its length


def check_stops(stops: Sequence[str]) -> None:
    """Refuse stop texts that would end everything.

    Raises:
        ConfigError: one is empty.
    """
    if "" in stops:
        raise ConfigError('stop="" would end every text before it begins: give some characters, or null for none')


class Stops:
    """Text that comes in pieces, up to the first of some texts; whatever may become one of them is held back.

    The first is the one that is complete first, wherever pieces begin and end; of two at the same place the longer.

    Attributes:
        met: whether one has come.
    """

    def __init__(self, stops: Sequence[str]):
        self.stops, self.held, self.met = tuple(stops), "", False

    def push(self, piece: str) -> str:
        """Return what is certain to stand before a stop text."""
        if self.met:
            return ""
        self.held += piece
        ends = [(at + len(stop), at) for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if ends:
            self.met = True
            return self._let(min(ends)[1])
        longest = max(map(len, self.stops), default=1) - 1
        kept = (n for n in range(min(longest, len(self.held)), 0, -1) if self._may_begin(self.held[-n:]))
        return self._let(len(self.held) - next(kept, 0))

    def end(self) -> str:
        """Return what was held back, when nothing comes any more."""
        return "" if self.met else self._let(len(self.held))

    def _may_begin(self, text: str) -> bool:
        return any(stop.startswith(text) for stop in self.stops)

    def _let(self, count: int) -> str:
        text, self.held = self.held[:count], self.held[count:]
        return text


class Row:
    """One text that is drawn: token by token until it has ended.

    Args:
        decode, context: see molino.generation.streaming.TextStream.
        ends: tokens that end a text.
        stops: texts that do; they are no part of it.
        live: whether text is to be shown as it comes; else, where no stop text is looked for, it is made at the end.

    Attributes:
        tokens: all that were drawn, those of what ended it included.
        logps: natural logarithm of the probability of each, where it is told.
        text: what can be shown so far; of a row that has ended all of it.
        ended: STOP, END or LENGTH; None while it goes on.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        context: Sequence[int],
        ends: Collection[int],
        stops: Sequence[str],
        live: bool = True,
    ):
        self.ends, self.stream, self.stops = frozenset(ends), TextStream(decode, context), Stops(stops)
        self.waits = not (live or stops)
        self.tokens: list[int] = []
        self.logps: list[float] = []
        self.text, self.ended = "", None

    def take(self, token: int, logp: float | None = None) -> str:
        """Return what a further token lets be shown."""
        self.tokens.append(token)
        if logp is not None:
            self.logps.append(logp)
        if token in self.ends:
            return self.finish(END)
        if self.waits:
            self.stream.hold(token)
            return ""
        return self._show(self.stream.push(token))

    def finish(self, why: str = LENGTH) -> str:
        """Return what is left of a text that ends here; of one that has ended already nothing."""
        if self.ended is not None:
            return ""
        # What is left may hold a stop text too.
        piece = self._show(self.stream.end())
        if self.ended is None:
            self.ended = why
            rest = self.stops.end()
            self.text, piece = self.text + rest, piece + rest
        return piece

    def _show(self, piece: str) -> str:
        shown = self.stops.push(piece)
        self.text += shown
        if self.stops.met:
            self.ended = STOP
        return shown
