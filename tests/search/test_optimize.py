"""Whole searches: what is asked for, trained, told and printed; killed, repeated, failed and refused."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from conftest import ROOT
from searching import (
    RATES,
    assert_refused,
    by_rate,
    command,
    journal,
    runs,
    states,
    study_of,
    sweep_of,
)

from molino.runs import directory
from molino.runs.directory import read_config, read_summary
from molino.runs.status import exclusive, read_status
from molino.search.trial import objectives
from molino.tasks.language_model import LanguageModel

TWO_RATES = "optimizer.lr=choice(0.01,0.02)"
# In seconds; only a defect takes so long.
LONG = 90


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def start(arguments: list[str], home: Path) -> subprocess.Popen:
    """Start a search in a process of its own."""
    log = (home / "log").open("a")
    return subprocess.Popen([sys.executable, str(ROOT / "scripts" / "train.py"), *arguments], stdout=log, stderr=log)


def stamps(home: Path) -> dict[str, int]:
    return {run.name: (run / "summary.json").stat().st_mtime_ns for run in runs(home)}


@pytest.fixture(scope="module")
def found(molino, tiny, tmp_path_factory):
    """A finished search of four trials, and what its command printed. Tests must not change it."""
    home = tmp_path_factory.mktemp("found")
    outcome = molino("train", *command(tiny, home, RATES, "seed=range(0,3)", "n_trials=4", "sampler=random"))
    assert outcome.status == 0 and outcome.err == "", outcome.err
    return home, outcome.out


def test_the_study_says_what_the_runs_came_to(found):
    home, out = found
    study, summaries = study_of(home), by_rate(home)
    assert states(home) == ["COMPLETE"] * 4 and len(summaries) == 4
    for trial in study.trials:
        assert trial.value == summaries[trial.params["optimizer.lr"]]["val/loss"]
    best = min(summaries, key=lambda rate: summaries[rate]["val/loss"])
    assert study.best_value == summaries[best]["val/loss"] and study.best_params["optimizer.lr"] == best
    assert "4 trials ended as planned, 0 were pruned" in out
    (line,) = re.findall("^best: .*", out, re.MULTILINE)
    seed = study.best_params["seed"]
    name = f"optimizer.lr={best},seed={seed}"
    assert line.startswith(f"best: val/loss {study.best_value:.4f} of trial {study.best_trial.number}: ")
    assert line.endswith(f"optimizer.lr={best} seed={seed}")
    assert read_summary(sweep_of(home) / name)["val/loss"] == study.best_value
    assert f"      {sweep_of(home) / name}\n" in out


def test_values_reach_the_runs_exactly(found):
    home, _ = found
    for trial in study_of(home).trials:
        run = sweep_of(home) / f"optimizer.lr={trial.params['optimizer.lr']!r},seed={trial.params['seed']}"
        config = read_config(run)
        assert (config["optimizer"]["lr"], config["seed"]) == tuple(trial.params.values())
        assert isinstance(config["seed"], int)


def test_the_objectives_are_the_numbers_of_a_summary(found):
    home, _ = found
    summary = read_summary(runs(home)[0])
    numbers = {key for key, value in summary.items() if isinstance(value, int | float)}
    # What can be counted before the first step does not tell runs apart.
    known = objectives(LanguageModel).keys() - {"train/mfu"}  # which only some GPUs have
    assert {key for key in numbers if not key.startswith("floor/")} == known


def test_the_same_command_elsewhere_asks_for_the_same_trials(molino, tiny, tmp_path, found):
    home, _ = found
    # In two goes, too.
    for count in (2, 4):
        given = command(tiny, tmp_path, RATES, "seed=range(0,3)", f"n_trials={count}", "sampler=random")
        assert molino("train", *given).status == 0
        assert len(study_of(tmp_path).trials) == len(runs(tmp_path)) == count
    mine, other = study_of(tmp_path).trials, study_of(home).trials
    assert [(trial.params, trial.value) for trial in mine] == [(trial.params, trial.value) for trial in other]


def test_the_same_command_again_has_nothing_to_do(molino, tiny, found):
    home, _ = found
    before, logged = stamps(home), journal(home)
    for count in (4, 2):
        given = command(tiny, home, RATES, "seed=range(0,3)", f"n_trials={count}", "sampler=random")
        outcome = molino("train", *given)
        assert outcome.status == 0 and "\nnothing is left to train" in outcome.out, outcome.err
        assert "best: val/loss" in outcome.out
    assert stamps(home) == before and journal(home) == logged


def test_tpe_and_a_choice_of_groups_and_of_strings(molino, tiny, tmp_path):
    given = [
        "model=bigram,gpt", "+model.n_embd=16", "name='a b','c,d'", "n_trials=3", "startup_trials=1", "sampler=tpe",
    ]  # fmt: skip
    # n_embd is of gpt only: it shows before anything is trained.
    assert_refused(molino("train", *command(tiny, tmp_path, *given)), 2, "model.n_embd", tmp_path)
    given.remove("+model.n_embd=16")
    typed = [text for text in command(tiny, tmp_path, *given) if text != "model=bigram"]
    outcome = molino("train", *typed, "sweep=t", "data.batch_size=2")
    assert outcome.status == 0, outcome.err
    found = [read_config(path.parent) for path in (tmp_path / "outputs" / "sweeps" / "t").glob("*/config.yaml")]
    assert found and {config["name"] for config in found} <= {"a b", "c,d"}
    assert {config["model"]["_target_"].rsplit(".", 1)[-1] for config in found} <= {"Bigram", "GPT"}


def test_a_space_in_yaml_gives_way_to_what_is_typed(molino, tiny, tmp_path):
    params = (
        "hydra.sweeper.params={optimizer.lr: 'tag(log,interval(1e-3,1e-1))', seed: 'range(0,50)', data.batch_size: 3}"
    )
    outcome = molino("train", *command(tiny, tmp_path, params, "optimizer.lr=0.02", "n_trials=2", "pruner=null"))
    assert outcome.status == 0, outcome.err
    configs = [read_config(run) for run in runs(tmp_path)]
    assert [config["optimizer"]["lr"] for config in configs] == [0.02, 0.02]
    assert all(set(trial.params) == {"seed"} for trial in study_of(tmp_path).trials)
    # Of the fixed ones, too.
    assert {config["data"]["batch_size"] for config in configs} == {4}


def test_a_grid_ends_when_all_is_tried(molino, tiny, tmp_path):
    given = ["seed=range(0,2)", TWO_RATES, "sampler=grid", "pruner=null"]
    assert molino("train", *command(tiny, tmp_path, *given, "n_trials=3")).status == 0
    outcome = molino("train", *command(tiny, tmp_path, *given, "n_trials=10"))
    assert outcome.status == 0, outcome.err
    params = [tuple(trial.params.values()) for trial in study_of(tmp_path).trials]
    assert sorted(params) == [(0, "0.01"), (0, "0.02"), (1, "0.01"), (1, "0.02")]
    assert states(tmp_path) == ["COMPLETE"] * 4 and len(runs(tmp_path)) == 4


def test_trials_alike_are_one_run(molino, tiny, tmp_path):
    given = [TWO_RATES, "sampler=random", "pruner=null"]
    assert molino("train", *command(tiny, tmp_path, *given, "n_trials=4")).status == 0
    before = stamps(tmp_path)
    assert molino("train", *command(tiny, tmp_path, *given, "n_trials=8")).status == 0
    assert len(runs(tmp_path)) == 2 and stamps(tmp_path).items() >= before.items()
    values = {(trial.params["optimizer.lr"], trial.value) for trial in study_of(tmp_path).trials}
    assert len(study_of(tmp_path).trials) == 8 and len(values) == 2


def test_trials_that_somebody_has_put_in_the_queue_come_first(molino, tiny, tmp_path):
    given = [RATES, "sampler=random", "pruner=null"]
    assert molino("train", *command(tiny, tmp_path, *given, "n_trials=1")).status == 0
    study_of(tmp_path).enqueue_trial({"optimizer.lr": 0.0625})
    assert molino("train", *command(tiny, tmp_path, *given, "n_trials=2")).status == 0
    assert study_of(tmp_path).trials[1].params == {"optimizer.lr": 0.0625} and 0.0625 in by_rate(tmp_path)


def test_speed_is_maximized(molino, tiny, tmp_path):
    given = ["data.batch_size=choice(1,8)", "sampler=grid", "objective=tokens_per_second", "direction=maximize"]
    outcome = molino("train", *command(tiny, tmp_path, *given))
    assert_refused(
        outcome, 2, "known only at the end of a run, so none can be pruned: add hydra.sweeper.pruner=null", tmp_path
    )
    assert molino("train", *command(tiny, tmp_path, *given, "pruner=null")).status == 0
    best = max(runs(tmp_path), key=lambda run: read_summary(run)["tokens_per_second"])
    assert study_of(tmp_path).best_value == read_summary(best)["tokens_per_second"]
    assert study_of(tmp_path).best_params["data.batch_size"] == str(read_config(best)["data"]["batch_size"])


def test_killed_in_the_middle_it_goes_on(molino, tiny, tmp_path):
    """kill -9, at a moment when one run is trained and others have ended."""
    steps = ["trainer.max_steps=1200", "trainer.val_every=600", "trainer.checkpoint_every=100", "scheduler=constant"]
    given = command(tiny, tmp_path, RATES, "n_trials=3", "sampler=random", "pruner=null", *steps)

    def in_the_middle() -> bool:
        progress = [read_status(run) for run in runs(tmp_path)]
        return len(progress) == 2 and progress[1 if progress[0].state == "done" else 0].progress.get("step", 0) > 100

    process = start(given, tmp_path)
    until(lambda: in_the_middle() or process.poll() is not None, "the second run never began")
    process.kill()
    assert process.wait() == -9, (tmp_path / "log").read_text()
    assert states(tmp_path) == ["COMPLETE", "RUNNING"]
    (cut,) = [run for run in runs(tmp_path) if not (run / "summary.json").is_file()]
    before, begun = stamps_of_done(tmp_path), (cut / "environment.json").stat().st_mtime_ns
    params = [trial.params for trial in study_of(tmp_path).trials]

    outcome = molino("train", *given)
    assert outcome.status == 0, outcome.err
    assert states(tmp_path) == ["COMPLETE"] * 3 and len(runs(tmp_path)) == 3
    assert [trial.params for trial in study_of(tmp_path).trials[:2]] == params
    # The finished one was left alone, the other went on where it was.
    assert stamps(tmp_path).items() >= before.items()
    assert (cut / "environment.json").stat().st_mtime_ns == begun and "resumed" in outcome.out
    for trial in study_of(tmp_path).trials:
        assert trial.value == by_rate(tmp_path)[trial.params["optimizer.lr"]]["val/loss"]


def stamps_of_done(home: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in sweep_of(home).glob("*/summary.json")}


def test_a_trial_that_was_killed_in_the_making_is_completed(molino, tiny, tmp_path):
    given = [RATES, "seed=range(0,9)", "sampler=random"]
    assert molino("train", *command(tiny, tmp_path, *given, "n_trials=1")).status == 0
    study = study_of(tmp_path)
    study.ask({"optimizer.lr": study.trials[0].distributions["optimizer.lr"]})
    half = study.trials[1].params
    study.ask()
    assert molino("train", *command(tiny, tmp_path, *given, "n_trials=3")).status == 0
    trials = study_of(tmp_path).trials
    assert states(tmp_path) == ["COMPLETE"] * 3 and len(runs(tmp_path)) == 3
    assert trials[1].params.items() > half.items() and set(trials[2].params) == {"optimizer.lr", "seed"}


def test_two_workers_killed_and_given_again(molino, tiny, tmp_path):
    steps = ["trainer.max_steps=1200", "trainer.val_every=600", "trainer.checkpoint_every=100", "scheduler=constant"]
    workers = ["hydra/launcher=local", "hydra.launcher.workers=2"]
    given = command(tiny, tmp_path, RATES, "n_trials=3", "sampler=random", "pruner=null", *steps, *workers)

    def both_are_trained() -> bool:
        return sum(read_status(run).progress.get("step", 0) > 100 for run in runs(tmp_path)) >= 2

    process = start(given, tmp_path)
    until(lambda: both_are_trained() or process.poll() is not None, "there are no two runs")
    process.kill()
    assert process.wait() == -9, (tmp_path / "log").read_text()
    # At once: the workers still hold their runs, to save them.
    outcome = molino("train", *given)
    assert outcome.status == 0, outcome.err
    assert states(tmp_path) == ["COMPLETE"] * 3 and len(by_rate(tmp_path)) == 3
    for trial in study_of(tmp_path).trials:
        assert trial.value == by_rate(tmp_path)[trial.params["optimizer.lr"]]["val/loss"]
    assert f"best: val/loss {study_of(tmp_path).best_value:.4f} of trial" in outcome.out
    for run in runs(tmp_path):
        # No step was trained twice: each is logged once.
        logged = [row.split(",")[0] for row in (run / "metrics.csv").read_text().splitlines()[1:]]
        assert len(logged) == len(set(logged))


def test_a_run_that_a_killed_command_still_holds_is_waited_for(molino, tiny, tmp_path, monkeypatch):
    given = command(tiny, tmp_path, RATES, "n_trials=2", "sampler=random", "pruner=null")
    monkeypatch.setattr(directory, "write_summary", lambda run, summary: sys.exit(9))
    assert molino("train", *given).status == 9 and states(tmp_path) == ["RUNNING"]
    monkeypatch.undo()
    (held,) = runs(tmp_path)
    with ExitStack() as holder:
        holder.enter_context(exclusive(held))
        clock = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: holder.close())
        monkeypatch.setattr("molino.search.trials.time", clock)
        outcome = molino("train", *given)
    # The other trial did not wait for it.
    assert outcome.status == 0 and states(tmp_path) == ["COMPLETE"] * 2, outcome.err
    assert max(stamps(tmp_path), key=stamps(tmp_path).get) == held.name


def test_a_failing_run_does_not_stop_the_others(molino, tiny, tmp_path):
    given = ["optimizer.lr=choice(0.01,-1,0.02)", "seed=range(0,2)", "sampler=grid", "pruner=null"]
    outcome = molino("train", *command(tiny, tmp_path, *given))
    assert outcome.status == 2
    assert "2 of 6 runs failed: see traceback.txt" in outcome.err and "Traceback" not in outcome.err
    assert outcome.err.count("Invalid learning rate: -1") == 2
    by_state = {(trial.params["optimizer.lr"], trial.state.name) for trial in study_of(tmp_path).trials}
    assert by_state == {("0.01", "COMPLETE"), ("-1", "RUNNING"), ("0.02", "COMPLETE")}
    assert "best: val/loss" in outcome.out and "optimizer.lr=-1,seed=0" in outcome.out
    # Given again it tries them again, three times in all.
    before = stamps(tmp_path)
    for state, failures in (("RUNNING", 2), ("FAIL", 3), ("FAIL", 3)):
        # Whoever looks only at the exit status is told again.
        assert molino("train", *command(tiny, tmp_path, *given)).status == 2
        ended = [trial.state.name for trial in study_of(tmp_path).trials if trial.params["optimizer.lr"] == "-1"]
        assert ended == [state] * 2
        assert {read_status(run).failures for run in sweep_of(tmp_path).glob("optimizer.lr=-1,*")} == {failures}
    assert len(study_of(tmp_path).trials) == 6 and stamps(tmp_path) == before


def test_failures_in_a_row_end_the_search_until_the_cause_is_mended(molino, tiny, tmp_path):
    given = [RATES, "sampler=random", "n_trials=7", "attempts=2", "pruner=null"]
    file = tiny.file.rename(tiny.file.with_suffix(".gone"))
    try:
        outcome = molino("train", *command(tiny, tmp_path, *given))
    finally:
        file.rename(tiny.file)
    assert outcome.status == 3 and states(tmp_path) == ["RUNNING"] * 2
    assert "2 runs in a row failed: the search ends; give the command again to go on" in outcome.out
    outcome = molino("train", *command(tiny, tmp_path, *given))
    assert outcome.status == 0 and states(tmp_path) == ["COMPLETE"] * 7


def test_a_run_that_failed_when_its_search_was_killed_is_tried_again(molino, tiny, tmp_path, monkeypatch):
    """Its status says failed until it begins, which is not to be taken for its new end."""
    given = [RATES, "sampler=random", "n_trials=2", "attempts=1", "pruner=null"]
    told = []
    monkeypatch.setattr(optuna.Study, "tell", lambda *arguments, **named: told.append(arguments) or 1 / 0)
    file = tiny.file.rename(tiny.file.with_suffix(".gone"))
    try:
        with pytest.raises(ZeroDivisionError):
            molino("train", *command(tiny, tmp_path, *given))
    finally:
        file.rename(tiny.file)
    monkeypatch.undo()
    assert len(told) == 1 and states(tmp_path) == ["RUNNING"]
    # Asked for both at once, so that the second is asked for before the first has begun.
    outcome = molino("train", *command(tiny, tmp_path, *given, "batch=2"))
    assert outcome.status == 0 and states(tmp_path) == ["COMPLETE"] * 2, outcome.err


def test_a_name_belongs_to_one_search(molino, tiny, found):
    home, _ = found
    logged = journal(home)
    for settings, says in (
        (["seed=range(0,4)", RATES], "space.seed 0 to 2 by 1 -> 0 to 3 by 1"),
        (["seed=range(0,3)", "optimizer.lr=interval(0.1,0.2)"], "space.optimizer.lr 0.001 to 0.1 log -> 0.1 to 0.2"),
        (["seed=range(0,3)"], "space.optimizer.lr 0.001 to 0.1 log -> None"),
        (["seed=range(0,3)", RATES, "objective=val/best_loss"], "objective val/loss -> val/best_loss"),
        (["seed=range(0,3)", RATES, "direction=maximize"], "direction minimize -> maximize"),
        (["seed=range(0,3)", RATES, "trainer.clip=0.5"], "trainer.clip=0.5"),
    ):
        outcome = molino("train", *command(tiny, home, *settings, "n_trials=9", "sampler=random"))
        assert outcome.status == 4 and outcome.err.count("\n") == 1, outcome.err
        assert says in outcome.err and "sweep=<name>" in outcome.err
    assert journal(home) == logged and len(runs(home)) == 4


def test_searches_without_a_name_do_not_meet(molino, tiny, tmp_path):
    for settings in ([RATES], ["optimizer.lr=interval(0.1,0.2)"], [RATES, "direction=maximize"], [RATES]):
        typed = [text for text in command(tiny, tmp_path, *settings, "n_trials=1") if text != "sweep=s"]
        assert molino("train", *typed).status == 0
    assert len(list((tmp_path / "outputs" / "sweeps").iterdir())) == 3
