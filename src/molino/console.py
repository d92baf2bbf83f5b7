"""How molino speaks: lines and tables on one console."""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

console = Console()


def say(text: str) -> None:
    """Print one line as it is: no markup, no colours, no breaks at the width of the terminal."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


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


def show_facts(title: str, facts: Mapping[str, Any]) -> None:
    """Print a table of names and values. Text of the user's (paths, corpora) is never read as markup."""
    show_rows(title, (), ((name, str(value)) for name, value in facts.items()))


def show_rows(title: str, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table; the first column names the row, the others align with their header."""
    header = list(header)
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=bool(header), pad_edge=False)
    rows = [[Text(cell, overflow="fold") for cell in row] for row in rows]
    for number in range(len(rows[0])):
        name = header[number] if header else ""
        table.add_column(name, style="bold" if number == 0 else None, justify="right" if header and number else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
