"""What the launcher of Slurm does between its looks at the queue, without a Slurm."""

from pathlib import Path

import pytest

from molino.configuration.request import Request
from molino.runs.status import DONE, PENDING, RUNNING, Status
from molino.sweeps.attempt import Context
from molino.sweeps.display import Display
from molino.sweeps.slurm import launcher as module
from molino.sweeps.slurm.asking import Silent
from molino.sweeps.slurm.launcher import Slurm


@pytest.fixture
def slurm(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda program: f"/bin/{program}")
    monkeypatch.setattr(module, "SOON", 0.01)
    monkeypatch.setattr(module, "SELDOM", 0.02)
    return Slurm(Context(print, print), wait=True)


@pytest.fixture
def runs(tmp_path) -> list[Request]:
    return [Request({"task": {"monitor": "val/loss"}}, [], {}, tmp_path / f"r{number}") for number in range(2)]


def test_a_slurm_that_does_not_answer_for_a_while_ends_nothing(slurm, runs, monkeypatch, capsys):
    answers = [Silent("Slurm does not answer: no"), Silent("Slurm does not answer: no")]
    answers += [{runs[0].path: Status(DONE), runs[1].path: Status(RUNNING)}]

    def settled(paths):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(module, "settled", settled)
    display = Display(2, slurm.look)
    assert slurm.ask(runs, display) == [] and slurm.ask(runs, display) == []
    assert capsys.readouterr().out.count("Slurm does not answer: no: it is asked again until it does") == 1
    assert slurm.ask(runs, display) == [runs[0]] and slurm.look(runs[1].path).state == RUNNING


def test_what_cannot_be_submitted_for_a_while_is_submitted_later(slurm, runs, monkeypatch, capsys):
    def silent(paths):
        raise Silent("Slurm does not answer: no")

    monkeypatch.setattr(module, "settled", silent)
    assert slurm.submit(runs) == runs and slurm.room(0) == 0
    slurm.ask([], Display(2))
    assert capsys.readouterr().out.count("it is asked again until it does") == 1
    slurm.wait = False
    with pytest.raises(Silent):
        slurm.submit(runs)


def test_there_is_room_for_so_many_at_a_time_or_for_all(slurm, runs, monkeypatch):
    assert slurm.room(0) == slurm.room(5) > 10_000
    slurm.most = 4
    assert [slurm.room(held) for held in (0, 3, 4)] == [4, 1, 0]
    slurm.full = True
    assert slurm.room(0) == 0
    # It is asked again when one has ended, or where none was held.
    monkeypatch.setattr(module, "settled", lambda paths: {path: Status(PENDING) for path in paths})
    slurm.ask(runs, Display(2))
    assert slurm.room(2) == 0
    slurm.ask([], Display(2))
    assert slurm.room(0) == 4


def test_only_jobs_that_wait_are_cancelled_unless_a_signal_is_named(slurm, runs, monkeypatch):
    asked = []
    monkeypatch.setattr(module, "answer", lambda *command: asked.append(command))
    monkeypatch.setattr(module, "_name", lambda run: {"r0": "7_0", "r1": None}[Path(run).name])
    slurm.cancel(runs)
    slurm.cancel(runs, 15)
    slurm.cancel(runs[1:])
    assert asked == [("scancel", "--state=PENDING", "7_0"), ("scancel", "7_0")]
