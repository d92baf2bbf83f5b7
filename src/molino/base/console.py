"""How molino speaks: lines and tables on one console."""

import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress, track
from rich.table import Table
from rich.text import Text

from molino.base.streams import printable

SECONDS_BETWEEN_LINES = 5.0
BETWEEN_LOOKS = 0.2  # seconds, of a line that is written over
NOTEBOOK = 200  # columns
BOUNDLESS = 1_000_000  # columns: a file and a pipe have no width to keep to
FOLDED = 24  # columns that are enough for words, which go on below
BETWEEN, CLOSE = 3, 1  # columns from one column of a table to the next, and where there is little room
Item = TypeVar("Item")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the BrokenPipeError go on to the entry points; rich would exit with status 1."""
        raise


def _make_console() -> Console:
    console = _Console()
    if console.is_jupyter:
        console.width = NOTEBOOK
    elif not sys.stdout.isatty():
        console.width = BOUNDLESS
    return console


console = _make_console()


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
    """Print a table; the first column names the row, the others hold numbers, but for the columns `words`.

    Nothing is cut. On a terminal that is too narrow the names of columns go on below, and so do cells, at blanks where
    they hold numbers; where even that is too wide each row is a list of its own.
    """
    header = [printable(name) for name in header]
    lines = [[printable(cell) for cell in row] for row in rows]
    numbers = [bool(header) and number > 0 and header[number] not in words for number in range(len(lines[0]))]
    widths, names, between = _widest(header, lines), header, BETWEEN
    if _across(widths, between) > console.width:
        names = [re.sub("(?<=[./])(?=.)", "\n", name) for name in header]
        least = _least(names, lines, numbers)
        between = BETWEEN if _across(least, BETWEEN) <= console.width else CLOSE
        if header and _across(least, between) > console.width:
            _show_records(title, header, lines)
            return
        widths = _fit(_widest(names, lines), least, between)
    look = {"box": box.SIMPLE_HEAD, "pad_edge": False, "padding": (0, between // 2)}
    table = Table(title=title, title_justify="left", show_header=bool(header), **look)
    for number, figures in enumerate(numbers):
        table.add_column(
            Text(names[number]) if header else "",
            style="bold" if number == 0 else None,
            justify="right" if figures else "left",
            width=widths[number],
        )
    for line in lines:
        table.add_row(*(Text(cell, overflow="fold") for cell in line))
    _print(table)


def _print(table: Table) -> None:
    """Print a table; where there is no terminal without the blanks that fill its lines, for one of them may be long."""
    if console.is_terminal or console.is_jupyter:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    say("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _show_records(title: str, header: list[str], lines: list[list[str]]) -> None:
    """Print the rows of a table below each other, each as names and values."""
    say(title)
    for line in lines:
        show_rows("", (), zip(header, line, strict=True))


def _across(widths: list[int], between: int) -> int:
    """Return how wide a table with columns of these widths is."""
    return sum(widths) + between * len(widths) + 1


def _widest(names: list[str], lines: list[list[str]]) -> list[int]:
    """Return the width of each column in which nothing goes on below."""
    columns = zip(*([names] if names else []), *lines, strict=True)
    return [max(cell_len(part) for cell in column for part in (cell.splitlines() or [""])) for column in columns]


def _least(names: list[str], lines: list[list[str]], numbers: list[bool]) -> list[int]:
    """Return the least width of each column: of its longest word, where that is text no more than FOLDED."""
    of_names = [_longest_word([name]) for name in names] or [0] * len(numbers)
    of_cells = [_longest_word(column) for column in zip(*lines, strict=True)]
    of_cells = [wide if number else min(wide, FOLDED) for wide, number in zip(of_cells, numbers, strict=True)]
    return list(map(max, of_names, of_cells))


def _longest_word(cells: Iterable[str]) -> int:
    return max(cell_len(word) for cell in cells for word in (cell.split() or [""]))


def _fit(widths: list[int], least: list[int], between: int) -> list[int]:
    """Return the widths of columns so that a table fits the console: the widest gives way first, none below `least`."""
    widths = [max(min(width, console.width), low) for width, low in zip(widths, least, strict=True)]
    while _across(widths, between) > console.width:
        above = [number for number, width in enumerate(widths) if width > least[number]]
        if not above:
            break
        widths[max(above, key=widths.__getitem__)] -= 1
    return widths
