"""What is said, and when."""

import re
import time
from collections import Counter

import pytest

from molino.base import console


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(console, "say", lines.append)
    return lines


def test_progress_yields_all_and_says_how_far_it_is(said, monkeypatch):
    assert list(console.progress([1, 2, 3, 4], "milling")) == [1, 2, 3, 4] and said == []
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1.0)
    assert list(console.progress("abcd", "milling")) == list("abcd")
    assert said == ["milling: 25%", "milling: 50%", "milling: 75%", "milling: 100%"]


def test_advancing_says_how_much_is_done(said, monkeypatch):
    with console.advancing("milling", 8) as advance:
        advance(8)
    assert said == []
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1.0)
    with console.advancing("milling", 8) as advance:
        advance(2)
        advance(5)
    assert said == ["milling: 25%", "milling: 88%"]


def test_what_takes_two_seconds_is_named(said, monkeypatch):
    with console.working("grinding"):
        pass
    assert said == []
    timer = console.threading.Timer
    monkeypatch.setattr(console.threading, "Timer", lambda seconds, *rest: timer(seconds / 100, *rest))
    with console.working("grinding"):
        time.sleep(0.2)
    assert said == ["grinding ..."]


def test_text_of_the_users_is_no_markup(capsys):
    console.show_facts("facts", {"run": "[bold]a[/bold]", "long": "x" * 150})
    console.say("[red]b")
    out = capsys.readouterr().out
    assert "[bold]a[/bold]" in out and "[red]b" in out


def test_numbers_stand_below_each_other_and_words_begin_alike(capsys):
    console.show_rows("table", ("run", "n", "why"), [("a", "1", "short"), ("b", "100", "longer")], words=("why",))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip().startswith(("a ", "b "))]
    assert lines[0].index("1") == lines[1].index("100") + 2 and lines[0].index("short") == lines[1].index("longer")


WIDE = ("model", "trainer.max_steps", "n", "val/bits_per_byte", "95 % interval", "why it is so")
LONG = "a reason of so many words that it goes on below " * 3
ROWS = [["gpt", "1000", "3", "1.5000", "1.4952 .. 1.5448", LONG], ["bigram", "2000", "1", "2.5000", "-", "x" * 60]]


def shown(capsys, monkeypatch, width):
    monkeypatch.setattr(console, "console", console._Console(width=width))
    console.show_rows("a title", WIDE, ROWS, words=("why it is so",))
    return capsys.readouterr().out


def test_without_a_terminal_tables_have_no_width(capsys, monkeypatch):
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    assert console._make_console().width == console.BOUNDLESS
    out = shown(capsys, monkeypatch, console.BOUNDLESS)
    lines = [line.split("  ") for line in out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert all(line == line.rstrip() for line in out.splitlines())
    assert list(WIDE) in cells and [cell.strip() for cell in ROWS[0]] in cells and ROWS[1] in cells


@pytest.mark.parametrize("width", [40, 60, 80, 90, 100, 120, 150])
def test_on_a_terminal_nothing_is_cut_and_nothing_goes_beyond_its_edge(capsys, monkeypatch, width):
    out = shown(capsys, monkeypatch, width)
    assert max(map(len, out.splitlines())) <= width and "…" not in out
    every = re.sub(r"\s+", "", "".join(WIDE) + "".join("".join(row) for row in ROWS))
    assert not Counter(every) - Counter(out)
    # Numbers stay whole.
    assert all(number in out.split() for number in ("1000", "1.5000", "1.4952", "1.5448", "2.5000"))


def test_the_narrower_a_terminal_the_lower_a_table(capsys, monkeypatch):
    whole, folded = (shown(capsys, monkeypatch, width).splitlines() for width in (400, 110))
    assert len(whole) < len(folded) and " trainer. " in folded[2] and " max_steps " in folded[3]
    listed = shown(capsys, monkeypatch, 45).splitlines()
    assert [line.split() for line in listed if "max_steps" in line] == [
        ["trainer.max_steps", "1000"],
        ["trainer.max_steps", "2000"],
    ]
