"""What is said, and when."""

import time

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
