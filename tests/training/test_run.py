"""A run and its directory, as its training sees them: new, to go on with, done; handed to further processes."""

import os
from pathlib import Path

import pytest
import yaml

from molino.base.errors import CheckpointError, ConfigError
from molino.base.processes import HANDED
from molino.command import task
from molino.configuration.request import Request
from molino.machine.hardware import Hardware
from molino.runs import directory
from molino.runs.measures import Measures, Metric
from molino.runs.status import CUT_OFF, DONE, FAILED, Busy, exclusive, read_status
from molino.training.plan import Plan
from molino.training.run import open_run

HARDWARE = {"_target_": "molino.machine.hardware.Hardware", "accelerator": "cpu", "precision": "auto"}
SETTLED = Hardware(accelerator="cpu", precision="bf16-mixed")
PRECISE = Hardware(accelerator="cpu", precision="32-true")
PLAN = Plan(max_steps=1, log_every=1, val_every=1, checkpoint_every=1)
MEASURES = Measures("val/loss", {"loss": Metric("loss")})


@pytest.fixture
def asked(tmp_path) -> Request:
    settings = {
        "name": "mine", "seed": 1, "resume": None, "continue": None, "weights": None, "hardware": HARDWARE,
        "data": {"corpus": {"_target_": "molino.data.corpora.grammar.Grammar"}},
        "paths": {"outputs": str(tmp_path), "cache": "cache", "mirror": None},
        "trainer": {"max_steps": 1},
        **{section: {} for section in ("task", "model", "optimizer", "scheduler", "logger", "callbacks")},
    }  # fmt: skip
    return Request(settings, ["seed=1"], {"model": "gpt"})


def test_a_run_of_its_own_has_a_directory_when_it_begins(asked, tmp_path):
    with open_run(asked) as run:
        assert run.path is None and not run.exists and run.checkpoint is None and not list(tmp_path.iterdir())
        run.begin(PLAN, 2, SETTLED, MEASURES)
        assert run.path.name.startswith("mine_2") and read_status(run.path).state == "running"
        recorded = directory.read_config(run.path)
        assert recorded["hardware"] == {**HARDWARE, **SETTLED.settled} | {
            k: recorded["hardware"][k] for k in recorded["hardware"]
        }
        assert recorded["hardware"]["precision"] == "bf16-mixed" and recorded["hardware"]["devices"] == 1
        assert recorded["data"]["corpus"]["characters"] == 1_000_000
        assert yaml.safe_load((run.path / "overrides.yaml").read_text()) == ["seed=1"]
        run.end({"val/loss": 1.5})
    assert read_status(run.path).state == DONE
    # What was asked is as it was.
    assert asked.settings["hardware"]["precision"] == "auto"


def test_what_goes_wrong_is_told_in_the_directory_of_whoever_claimed_it(asked):
    with pytest.raises(ConfigError), open_run(asked) as run:
        run.begin(PLAN, 2, SETTLED, MEASURES)
        raise ConfigError("no good")
    assert read_status(run.path).state == FAILED and read_status(run.path).error == "no good"


def begun(asked: Request, **settings) -> Path:
    with pytest.raises(KeyboardInterrupt), open_run(asked) as run:
        run.begin(PLAN, 2, SETTLED, MEASURES)
        (run.path / "checkpoints").mkdir()
        (run.path / directory.LAST).touch()
        raise KeyboardInterrupt
    assert read_status(run.path).state == CUT_OFF
    return run.path


def resuming(asked: Request, path: Path, **settings) -> Request:
    return Request(asked.settings | {"resume": str(path)} | settings, [f"resume={path}"], {})


def test_a_run_goes_on_as_it_began(asked):
    path = begun(asked)
    before = {file: file.read_bytes() for file in path.glob("*.yaml")}
    with open_run(resuming(asked, path, seed=7)) as run:
        assert run.exists and run.path == path and run.checkpoint == path / directory.LAST
        assert run.settings["seed"] == 1 and run.settings["hardware"]["precision"] == "bf16-mixed"
        run.begin(PLAN, 2, PRECISE, MEASURES)
        # What the machine of today makes of it is not what it began with.
        assert {file: file.read_bytes() for file in path.glob("*.yaml")} == before
        run.end({"val/loss": 1.5})
    with (
        pytest.raises(CheckpointError, match="is finished, there is nothing to resume"),
        open_run(resuming(asked, path)),
    ):
        pass


def test_a_run_of_a_sweep_lies_where_the_sweep_says_and_is_done_once(asked, tmp_path):
    placed = asked.at(tmp_path / "sweep" / "seed=1")
    with open_run(placed) as run:
        assert run.path == placed.path and not run.exists
        run.begin(PLAN, 2, SETTLED, MEASURES)
        run.end({"val/loss": 1.5})
    with open_run(placed) as again:
        assert again.summary == {"val/loss": 1.5}


def test_one_process_trains_a_run(asked, tmp_path):
    with exclusive(tmp_path / "x"), pytest.raises(Busy), open_run(asked.at(tmp_path / "x")):
        pass


def test_further_processes_train_what_the_first_has_settled(asked, monkeypatch):
    path = begun(asked)
    monkeypatch.setenv(HANDED, "of somebody else")
    with open_run(resuming(asked, path)) as run:
        run.begin(PLAN, 2, PRECISE, MEASURES)
        with run.handed_over(processes=2):
            handed = Request.from_text(os.environ[HANDED])
        assert os.environ[HANDED] == "of somebody else"
        with run.handed_over(processes=1):
            assert os.environ[HANDED] == "of somebody else"
        # The second process: it claims nothing and reads nothing again.
        monkeypatch.setenv("LOCAL_RANK", "1")
        (path / directory.CONFIG).write_text("name: another\n")
        with open_run(handed) as other:
            assert other.settings == run.settings and other.settings["hardware"]["precision"] == "32-true"
            assert other.path == path and other.checkpoint == run.checkpoint
            other.begin(PLAN, 2, PRECISE, MEASURES)
        assert (path / directory.CONFIG).read_text() == "name: another\n"
    monkeypatch.delenv(HANDED)
    with pytest.raises(ZeroDivisionError), run.handed_over(processes=2):
        raise ZeroDivisionError
    assert HANDED not in os.environ


def test_a_request_that_is_handed_to_a_process_is_for_that_process_alone(asked, tmp_path, monkeypatch):
    told = asked.at(tmp_path / "x")
    trained = []
    monkeypatch.setattr(task.Task, "run", lambda self, request: trained.append((request, os.environ.get(HANDED))))
    monkeypatch.setenv(HANDED, told.to_text())
    assert task.run_command("train") == 0 and trained == [(told, None)]
