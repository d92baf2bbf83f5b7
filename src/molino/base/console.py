"""How molino speaks: lines and tables on one console."""

import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table
from rich.text import Text

from molino.base.streams import printable

SECONDS_BETWEEN_LINES = 5.0
BETWEEN_LOOKS = 0.2  # seconds, of a line that is written over
Item = TypeVar("Item")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the BrokenPipeError go on to the entry points; rich would exit with status 1."""
        raise


# A file has no width to keep to.
console = _Console(width=None if sys.stdout.isatty() else 200)


def say(text: str) -> None:
    """Print one line as it is: no markup, no colours, no breaks at the width of the terminal."""
    console.print(printable(text), soft_wrap=True, highlight=False, markup=False)


class Line:
    """A line that is written over, for notebooks, which have no terminal but take carriage returns.

    Nothing is written where there is no notebook, or where the console is quiet.
    """

    def __init__(self) -> None:
        self._width, self._last = 0, 0.0

    def show(self, text: str, at_once: bool = False) -> None:
        """Put `text` in the place of what is there: a few times a second at most, or at once."""
        if not console.is_jupyter or console.quiet or not (at_once or time.monotonic() - self._last > BETWEEN_LOOKS):
            return
        self._last = time.monotonic()
        sys.stdout.write(f"\r{printable(text):<{self._width}}")
        sys.stdout.flush()
        self._width = len(text)

    def end(self) -> None:
        """Leave the line as it stands."""
        if self._width:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._width = 0


@contextmanager
def working(what: str) -> Iterator[None]:
    """Tell what takes a while: with a spinner on a terminal, elsewhere by a line, once it has taken two seconds."""
    if console.is_terminal:
        with console.status(what):
            yield
        return
    notice = threading.Timer(2.0, say, (f"{what} ...",))
    notice.daemon = True
    notice.start()
    try:
        yield
    finally:
        notice.cancel()


def progress(items: Collection[Item], what: str) -> Iterator[Item]:
    """Yield `items` and tell how far it has got: with a bar on a terminal, elsewhere by a line every five seconds."""
    if console.is_terminal:
        yield from track(items, what, console=console, transient=True)
        return
    with _telling(what, len(items)) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def advancing(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that is told of each further part of `total` and shows how far that is, as `progress` does."""
    if console.is_terminal:
        with Progress(console=console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda part: bar.advance(task, part)
        return
    with _telling(what, total) as advance:
        yield advance


@contextmanager
def _telling(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """As `advancing`, where there is no terminal."""
    started = last_line = time.monotonic()
    done, line = 0, Line()

    def advance(part: int) -> None:
        nonlocal last_line, done
        done += part
        if console.is_jupyter:
            if time.monotonic() - started > 1:
                line.show(f"{what}: {done / total:.0%}", at_once=done == total)
        elif time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            say(f"{what}: {done / total:.0%}")

    try:
        yield advance
    finally:
        line.end()


def show_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Print a table of names and values. Text of the user's (paths, corpora) is never read as markup."""
    show_rows(title, (), ((name, str(value)) for name, value in facts.items()))


def show_rows(title: str, header: Iterable[str], rows: Iterable[Iterable[str]], words: Collection[str] = ()) -> None:
    """Print a table; the first column names the row, the others hold numbers, but for the columns `words`."""
    header = list(header)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=bool(header), pad_edge=False)
    rows = [[Text(printable(cell), overflow="fold") for cell in row] for row in rows]
    for number in range(len(rows[0])):
        name = header[number] if header else ""
        table.add_column(
            name,
            style="bold" if number == 0 else None,
            justify="right" if header and number and name not in words else "left",
        )
    for row in rows:
        table.add_row(*row)
    console.print(table)
