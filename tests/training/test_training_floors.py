"""Floors wait for the first validation, and no first step for them."""

from pathlib import Path

import pytest
from conftest import CPU, small_text

from molino.runs import directory
from molino.runs.measures import read_measures
from molino.tasks import floors
from molino.tasks.language_model import LanguageModel

SMALL = (
    "data=text", "model=bigram", "data.block_size=8", "data.batch_size=4", "trainer.max_steps=20",
    "trainer.val_every=10", "trainer.log_every=5", *CPU,
)  # fmt: skip


@pytest.fixture
def train(molino, tmp_path):
    (tmp_path / "text.txt").write_text(small_text(4, 200), "utf-8")
    places = (f"data.path={tmp_path / 'text.txt'}", f"paths.outputs={tmp_path / 'outputs'}", f"paths.cache={tmp_path}")
    return lambda *settings: molino("train", *SMALL, *places, *settings)


def test_they_are_counted_by_the_first_validation_and_shown_from_then_on(train, tmp_path, monkeypatch):
    asked = []
    count = LanguageModel.floors

    def counting(*arguments):
        (run,) = directory.list_runs(tmp_path / "outputs")
        asked.append((read_measures(run).floors, (run / "floors").exists()))
        return count(*arguments)

    monkeypatch.setattr(LanguageModel, "floors", counting)
    done = train("name=first")
    assert done.status == 0, done.err
    # Once, after the run had begun without them.
    assert asked == [({}, False)]
    table, result = done.out.split("step  5/20")[0], done.out[done.out.index("result") :]
    assert "Kneser-Ney floor" not in table and "Kneser-Ney floor" in result
    first = directory.find("first", tmp_path / "outputs")
    summary = directory.read_summary(first)
    assert read_measures(first).floors["floor/kneser_ney"][1]["loss"] == summary["floor/kneser_ney"]
    assert {path.name for path in (first / "floors").iterdir()} > {"unigram", "bigram", "kneser_ney", "gzip"}
    # Now they are known.
    again = train("name=again")
    assert len(asked) == 1 and "Kneser-Ney floor" in again.out.split("step  5/20")[0]
    second = directory.find("again", tmp_path / "outputs")
    assert read_measures(second) == read_measures(first)
    assert {path.name for path in (second / "floors").iterdir()} == {path.name for path in (first / "floors").iterdir()}


def test_a_run_without_a_step_has_them_too(train, tmp_path):
    assert train("trainer.max_steps=0").status == 0
    (run,) = directory.list_runs(tmp_path / "outputs")
    assert directory.read_summary(run)["floor/kneser_ney"] > 0


def test_what_cannot_be_counted_ends_in_one_line(train, monkeypatch):
    monkeypatch.setattr(floors, "check_floors", _refuse)
    done = train()
    assert done.status == 2 and done.err == "molino: no floors\n"


def _refuse(*_: Path) -> None:
    from molino.base.errors import ConfigError

    raise ConfigError("no floors")
