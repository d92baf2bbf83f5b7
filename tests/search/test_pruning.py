"""Runs that promise nothing end early, and remember it; what the study is told is what the run has measured."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
from searching import command, journal, runs, states, study_of, sweep_of

from molino.base.errors import CheckpointError
from molino.runs import directory
from molino.runs.directory import read_config, read_summary
from molino.search.pruning import pruning_of
from molino.search.trial import curve, objectives, read_trial, write_trial
from molino.tasks.language_model import LanguageModel
from molino.training.checkpoints import Checkpoints

# The seed draws 0.05 first, then 0.1, which is better all along, then the bad one.
GRID = ("optimizer.lr=choice(0.1,0.05,1e-7)", "sampler=grid", "hydra.sweeper.seed=6", "pruner_startup_trials=1")
STEPS = ("trainer.val_every=5", "trainer.checkpoint_every=5")
BAD = "1e-07"


def curve_of(run: Path, tag: str = "val/loss") -> dict[int, float]:
    """What a run has measured, by step, from metrics.csv; each step must be there once."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [(int(row["step"]), float(row[tag])) for row in csv.DictReader(file) if row[tag]]
    assert len(rows) == len(dict(rows))
    return dict(rows)


def reports(home: Path) -> list[tuple[int, int]]:
    """Trial and step of each report in the journal."""
    return [(line["trial_id"], line["step"]) for line in journal(home) if "intermediate_value" in line]


def bad_run(home: Path) -> Path:
    return sweep_of(home) / f"optimizer.lr={BAD}"


def assert_told_as_measured(home: Path, tag: str = "val/loss") -> None:
    """The study's curves are the runs', but for the last step of those that were trained to it."""
    for trial in study_of(home).trials:
        measured = curve_of(sweep_of(home) / f"optimizer.lr={trial.params['optimizer.lr']}", tag)
        if trial.state.name == "COMPLETE":
            measured.pop(20)
        assert trial.intermediate_values == measured


@pytest.fixture(scope="module")
def pruned(molino, tiny, tmp_path_factory) -> Path:
    """A search whose last trial was pruned at its first validation. Tests work on copies."""
    home = tmp_path_factory.mktemp("pruned")
    outcome = molino("train", *command(tiny, home, *GRID, *STEPS))
    assert outcome.status == 0 and outcome.err == "", outcome.err
    assert "pruned at step 5" in outcome.out and "2 trials ended as planned, 1 were pruned" in outcome.out
    return home


def test_a_bad_trial_is_stopped_and_the_study_knows(pruned):
    assert states(pruned) == ["COMPLETE", "COMPLETE", "PRUNED"]
    summary = read_summary(bad_run(pruned))
    assert summary["pruned"] is True and summary["steps"] == 5 < read_config(bad_run(pruned))["trainer"]["max_steps"]
    for run in runs(pruned):
        assert ("pruned" in read_summary(run)) == (run == bad_run(pruned))
    assert_told_as_measured(pruned)
    # What Optuna holds for the value of a pruned trial is the last one reported.
    assert study_of(pruned).trials[2].value == summary["val/loss"] == curve_of(bad_run(pruned))[5]
    # As Optuna's own rule has it: worse than the median of the others at this step.
    others = sorted(trial.intermediate_values[5] for trial in study_of(pruned).trials[:2])
    assert summary["val/loss"] > (others[0] + others[1]) / 2


def test_without_a_pruner_all_are_trained_to_the_end(molino, tiny, tmp_path):
    assert molino("train", *command(tiny, tmp_path, *GRID, *STEPS, "pruner=null")).status == 0
    assert states(tmp_path) == ["COMPLETE"] * 3 and reports(tmp_path) == []
    assert all(read_summary(run)["steps"] == 20 for run in runs(tmp_path))
    assert not list(sweep_of(tmp_path).glob("*/trial.json"))


@pytest.mark.parametrize("settings", [("pruner_warmup_steps=10",), ("pruner_startup_trials=3",)])
def test_how_soon_one_is_pruned(molino, tiny, tmp_path, settings):
    assert molino("train", *command(tiny, tmp_path, *GRID, *STEPS, *settings)).status == 0
    expected = 10 if "warmup" in settings[0] else 20
    assert read_summary(bad_run(tmp_path))["steps"] == expected
    assert_told_as_measured(tmp_path)


def test_halving_prunes_by_the_best_loss_so_far(molino, tiny, tmp_path):
    given = ["objective=val/best_loss", "pruner=halving", "pruner_warmup_steps=5"]
    assert molino("train", *command(tiny, tmp_path, *GRID, *STEPS, *given)).status == 0
    assert "PRUNED" in states(tmp_path) and read_summary(bad_run(tmp_path))["pruned"]
    assert_told_as_measured(tmp_path)
    best = study_of(tmp_path).best_trial
    run = sweep_of(tmp_path) / f"optimizer.lr={best.params['optimizer.lr']}"
    assert best.value == read_summary(run)["val/best_loss"] == min(curve_of(run).values())


def test_what_is_maximized_is_pruned_the_other_way_round(molino, tiny, tmp_path):
    given = ["objective=val/perplexity", "direction=maximize"]
    assert molino("train", *command(tiny, tmp_path, *GRID, *STEPS, *given)).status == 0
    assert read_summary(bad_run(tmp_path)).get("pruned") is None
    assert study_of(tmp_path).best_params == {"optimizer.lr": BAD}
    assert_told_as_measured(tmp_path, "val/perplexity")


class Killed(BaseException):
    """As a kill: nobody handles it."""


def test_killed_before_its_summary_a_pruned_run_remembers(molino, tiny, tmp_path, monkeypatch):
    write = directory.write_summary

    def die(run: Path, summary: dict) -> None:
        if summary.get("pruned"):
            raise Killed
        write(run, summary)

    given = command(tiny, tmp_path, *GRID, *STEPS)
    monkeypatch.setattr(directory, "write_summary", die)
    with pytest.raises(Killed):
        molino("train", *given)
    monkeypatch.undo()
    assert states(tmp_path)[-1] == "RUNNING" and not directory.is_done(bad_run(tmp_path))
    told = reports(tmp_path)
    outcome = molino("train", *given)
    assert outcome.status == 0, outcome.err
    assert states(tmp_path) == ["COMPLETE", "COMPLETE", "PRUNED"] and reports(tmp_path) == told
    summary = read_summary(bad_run(tmp_path))
    assert summary["pruned"] is True and summary["steps"] == 5
    assert_told_as_measured(tmp_path)


def test_a_resumed_run_reports_no_step_twice(molino, tiny, tmp_path, monkeypatch):
    """Killed when it has reported, before the checkpoint of that step is written, it measures the step once more."""
    save = Checkpoints.on_validation_end

    def die(checkpoints, trainer, module):
        if trainer.global_step == 15:
            raise Killed
        save(checkpoints, trainer, module)

    given = command(tiny, tmp_path, *GRID, "trainer.val_every=5", "trainer.checkpoint_every=10")
    monkeypatch.setattr(Checkpoints, "on_validation_end", die)
    with pytest.raises(Killed):
        molino("train", *given)
    monkeypatch.undo()
    assert [step for _, step in reports(tmp_path)] == [5, 10, 15] and states(tmp_path) == ["RUNNING"]
    assert molino("train", *given).status == 0
    assert states(tmp_path) == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert [step for _, step in reports(tmp_path)] == [5, 10, 15, 5, 10, 15, 5]
    assert_told_as_measured(tmp_path)


def test_a_resumed_run_is_not_judged_where_it_has_been(molino, tiny, tmp_path, monkeypatch):
    """Else what it came to later, seen from an earlier step, would stop it there."""
    save = Checkpoints.on_validation_end

    def die(checkpoints, trainer, module):
        if "1e-07" in str(checkpoints.run) and trainer.global_step == 15:
            raise Killed
        save(checkpoints, trainer, module)

    steps = ["trainer.val_every=5", "trainer.checkpoint_every=20", "pruner_warmup_steps=15"]
    given = command(tiny, tmp_path, *GRID, *steps)
    monkeypatch.setattr(Checkpoints, "on_validation_end", die)
    with pytest.raises(Killed):
        molino("train", *given)
    monkeypatch.undo()
    # It has reported step 15 and was pruned there, but has no checkpoint of it: it begins again.
    assert states(tmp_path)[-1] == "RUNNING"
    assert molino("train", *given).status == 0
    assert read_summary(bad_run(tmp_path))["steps"] == 15 and states(tmp_path)[-1] == "PRUNED"
    assert_told_as_measured(tmp_path)


def test_a_run_that_goes_on_without_its_search(molino, tiny, tmp_path, pruned):
    """resume= of one whose trial has been told: it is trained to its end, and the study stays as it is."""
    home = Path(shutil.copytree(pruned, tmp_path / "copy"))
    run = next(run for run in runs(home) if run != bad_run(home))
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints")
    logged = journal(home)
    resume = [f"resume={run}", f"paths.outputs={home / 'outputs'}", f"paths.cache={tiny.cache}"]
    outcome = molino("train", *resume)
    assert outcome.status == 0 and journal(home) == logged, outcome.err
    # Without the study there is a way to go on as well.
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints")
    (sweep_of(home) / "study.journal").unlink()
    outcome = molino("train", *resume)
    assert outcome.status == 4 and outcome.err.count("\n") == 1, outcome.err
    assert "study.journal): delete it to train without pruning" in outcome.err and "trial.json" in outcome.err
    assert not (sweep_of(home) / "study.journal").exists()
    (run / "trial.json").unlink()
    assert molino("train", *resume).status == 0


def test_without_its_journal_a_search_finds_its_runs(molino, tiny, tmp_path, pruned):
    home = Path(shutil.copytree(pruned, tmp_path / "copy"))
    (sweep_of(home) / "study.journal").unlink()
    before = {run: (run / "summary.json").stat().st_mtime_ns for run in runs(home)}
    assert molino("train", *command(tiny, home, *GRID, *STEPS)).status == 0
    assert states(home) == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert {run: (run / "summary.json").stat().st_mtime_ns for run in runs(home)} == before


def test_what_a_run_is_told_of_its_trial(tmp_path):
    write_trial(tmp_path, 3, "val/loss", {"name": "median"})
    assert read_trial(tmp_path) == {"trial": 3, "curve": "val/loss", "pruner": {"name": "median"}}
    for damaged in ("", "[1]", "{}", "3", json.dumps({"trial": 1, "curve": 3, "pruner": {}})):
        (tmp_path / "trial.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"trial\.json cannot be read .* delete it to train without pruning"):
            read_trial(tmp_path)


def test_runs_are_pruned_by_what_each_validation_measures(pruned):
    measured = {tag for tag in read_summary(bad_run(pruned)) if tag in _header(bad_run(pruned)) and "val/" in tag}
    assert {curve(objective) for objective in objectives(LanguageModel) if objective.startswith("val/")} == measured


def test_a_run_that_does_not_measure_what_prunes_it_says_so(tmp_path):
    write_trial(tmp_path, 3, "val/accuracy", {"name": "median"})
    with pytest.raises(CheckpointError, match=r"pruned by val/accuracy, which it does not measure: delete it"):
        pruning_of(tmp_path, LanguageModel.metrics)


def _header(run: Path) -> list[str]:
    return (run / "metrics.csv").read_text().splitlines()[0].split(",")


def test_an_endless_perplexity_is_a_value(molino, tiny, tmp_path, monkeypatch):
    """summary.json has null for what is beyond the largest number."""
    write = directory.write_summary
    monkeypatch.setattr(directory, "write_summary", lambda run, found: write(run, found | {"val/perplexity": math.inf}))
    assert molino("train", *command(tiny, tmp_path, *GRID, "objective=val/perplexity", "n_trials=1")).status == 0
    assert study_of(tmp_path).trials[0].value == math.inf


def test_trials_that_are_pruned_before_their_first_line_of_metrics_are_done(molino, tiny, tmp_path):
    given = [*GRID, *STEPS, "trainer.log_every=50"]
    outcome = molino("train", *command(tiny, tmp_path, *given))
    assert outcome.status == 0 and states(tmp_path) == ["COMPLETE", "COMPLETE", "PRUNED"], outcome.err
    summary = read_summary(bad_run(tmp_path))
    assert summary["pruned"] is True and summary["tokens_per_second"] > 0 and summary["train/loss"] > 0
