"""What is seen of runs that train elsewhere."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from molino.configuration.request import Request
from molino.runs import directory
from molino.runs.status import enqueue, exclusive, fail, update
from molino.sweeps import display as module
from molino.sweeps.display import Display


@pytest.fixture
def requests(tmp_path):
    def make(name: str) -> Request:
        enqueue(tmp_path / name, [], "")
        return Request({"task": {"monitor": "val/loss"}}, [], {}, tmp_path / name)

    return [make(name) for name in ("seed=0", "seed=1", "seed=2")]


def advance(run: Path) -> None:
    progress = {"step": 300, "max_steps": 1000, "train/loss": 2.5, "tokens_per_second": 12345, "seconds_left": 7.2}
    update(run, state="running", progress=progress)


def test_lines_where_there_is_no_terminal(requests, capsys, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr("molino.base.console.console", Console(file=out, width=200))
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", -1)
    with Display(3) as shown:
        shown.start(requests[0])
        advance(requests[0].path)
        shown.refresh()
        directory.write_summary(requests[0].path, {"val/loss": 1.5})
        shown.end(requests[0])
        shown.start(requests[1])
        shown.refresh()
        fail(requests[1].path, "out of memory")
        shown.end(requests[1])
        shown.start(requests[2])
        directory.write_summary(requests[2].path, {"val/loss": 2.5, "pruned": True, "steps": 40})
        shown.end(requests[2])
    lines = out.getvalue().splitlines()
    assert "seed=0 | step 300/1000 | loss 2.5000 | tokens/s 12,345" in lines  # no time is left where nobody trains it
    assert "3 runs: 0 done, 1 running, 2 queued" in lines and "3 runs: 1 done, 0 running, 2 queued" in lines
    assert "[1/3] done seed=0: held-out loss 1.5000" in lines
    assert "[2/3] failed seed=1: out of memory" in lines
    assert "[3/3] done seed=2: held-out loss 2.5000, pruned at step 40" in lines


def test_a_table_on_a_terminal(requests, monkeypatch):
    out = io.StringIO()
    terminal = Console(file=out, width=120, force_terminal=True, color_system=None)
    monkeypatch.setattr(module, "console", terminal)
    monkeypatch.setattr("molino.base.console.console", terminal)
    with Display(3) as shown:
        shown.start(requests[0])
        advance(requests[0].path)
        (requests[0].path / directory.LOCK).touch()
        with exclusive(requests[0].path):
            shown.refresh()
            text = out.getvalue()
    assert "3 runs: 0 done, 1 running, 2 queued" in text
    for cell in ("seed=0", "running", "300/1000", "2.5000", "12,345", "7 s"):
        assert cell in text
