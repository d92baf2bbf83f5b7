"""Finding and reading runs: at any depth, of any age, in any state."""

import json
import math
import time

import pytest
from comparison.tree import make_run

from molino.base.errors import CheckpointError
from molino.comparison.collect import find_folders, find_runs, read_runs


def test_runs_are_found_once_and_hold_no_runs(tmp_path):
    one = make_run(tmp_path / "sweeps" / "a" / "one", loss=1.0)
    deep = make_run(tmp_path / "x" / "y" / "z", config=False, status={"state": "queued"})
    make_run(one / "explain" / "inner", loss=1.0)
    make_run(tmp_path / ".hidden" / "run", loss=1.0)
    assert find_runs([tmp_path]) == [one, deep]
    assert find_runs([one, tmp_path / "sweeps", tmp_path]) == [one, deep]
    assert find_runs([tmp_path / "sweeps" / "a" / ".." / "a" / "one"])[0].samefile(one)


def test_names(tmp_path, monkeypatch):
    outputs = tmp_path / "outputs"
    sweep = make_run(outputs / "sweeps" / "lr" / "run", loss=1.0).parent
    alone = make_run(outputs / "alone", loss=1.0)
    monkeypatch.chdir(tmp_path)
    assert find_folders([], outputs) == [outputs]
    assert find_folders(["lr", "lr/", "alone", str(sweep)], outputs) == [sweep, sweep, alone, sweep]
    assert [path.resolve() for path in find_folders([".", ".."], outputs)] == [tmp_path, tmp_path.parent]
    with pytest.raises(
        CheckpointError, match=r"there is no sweep rl in .*sweeps, and no folder .*the sweeps there are lr$"
    ):
        find_folders(["rl"], outputs)
    with pytest.raises(CheckpointError, match=r"there are no sweeps: give a folder$"):
        find_folders(["rl"], tmp_path / "nowhere")


def test_what_was_typed_and_what_it_came_to(tmp_path):
    make_run(tmp_path / "run", "model=bigram", "optimizer.lr=1e-3", "seed=3", loss=1.25)
    (run,) = read_runs(find_runs([tmp_path]))
    assert (run.seed, run.done, run.pruned, run.metric("val/loss")) == (3, True, False, 1.25)
    assert (run.value("model"), run.value("optimizer.lr"), run.value("weights")) == ("bigram", 0.001, "null")
    assert run.value("optimizer.betas") == "[0.9, 0.95]" and run.value("model.n_layer") is None
    assert run.corpus_name == "pydocs"


def test_what_makes_no_other_experiment(tmp_path):
    make_run(tmp_path / "a" / "0", "seed=0", loss=1.0)
    make_run(tmp_path / "b" / "1", "seed=1", "name=other", "hardware.threads=1", "logger.csv=null", loss=1.0)
    make_run(tmp_path / "c" / "2", "seed=2", "optimizer.lr=0.003", loss=1.0)
    make_run(tmp_path / "d" / "3", "seed=3", "model.dropout=0", loss=1.0)  # 0 and 0.0 are one number
    assert len({run.identity for run in read_runs(find_runs([tmp_path]))}) == 1
    make_run(tmp_path / "e", "hardware.accelerator=cpu", loss=1.0)
    assert len({run.identity for run in read_runs(find_runs([tmp_path]))}) == 2


def test_an_older_run_takes_the_choices_of_its_like(tmp_path):
    make_run(tmp_path / "a", "model=custom_gpt", loss=1.0)
    make_run(tmp_path / "b", loss=1.0, choices=False)
    make_run(tmp_path / "c", "model=custom_gpt", "seed=1", loss=1.0, choices=False)
    _, old, typed = read_runs(find_runs([tmp_path]))
    # Nobody else has such a section: the name of its class.
    assert (old.value("model"), typed.value("model")) == ("GPT", "custom_gpt")
    assert (old.value("data"), old.value("optimizer"), old.value("data/tokenizer")) == ("pydocs", "adamw", "char")
    make_run(tmp_path / "d", loss=1.0)
    assert read_runs(find_runs([tmp_path]))[1].value("model") == "gpt"


def test_a_waiting_run_takes_the_settings_of_its_like(tmp_path):
    make_run(tmp_path / "a", "model=bigram", "optimizer.lr=1e-3", "seed=0", loss=1.0)
    queued = {"state": "queued"}
    make_run(tmp_path / "b", "optimizer.lr=0.001", "model=bigram", "seed=1", config=False, status=queued)
    make_run(tmp_path / "c", "model=gpt", "optimizer.lr=1e-3", "seed=1", config=False, status=queued)
    done, like, unlike = read_runs(find_runs([tmp_path]))
    assert like.identity == done.identity != unlike.identity and like.corpus == done.corpus
    assert (like.seed, like.value("data"), like.status.state) == (1, "pydocs", "queued")
    # Of the corpus nothing was typed for either, so it is the same.
    assert (unlike.value("model"), unlike.value("data"), unlike.steps) == ("gpt", "pydocs", (None, None))
    assert (unlike.corpus, unlike.tokenizer, unlike.settings) == (done.corpus, done.tokenizer, {})


def test_figures_that_are_none(tmp_path):
    run = make_run(tmp_path / "run", loss=1000.0, summary={"val/best_loss": None, "note": "x", "odd": True})
    assert json.loads((run / "summary.json").read_text())["val/perplexity"] is None
    (read,) = read_runs([run])
    assert read.metric("val/perplexity") == math.inf
    assert [read.metric(name) for name in ("val/best_loss", "note", "odd", "absent")] == [None] * 4


def test_strange_statuses(tmp_path):
    make_run(tmp_path / "a", "debug=[fast,traceback]", config=False, status={"state": "queued", "progress": [1]})
    make_run(tmp_path / "b", config=False, status={"state": "failed", "overrides": {"a": 1}})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "status.json").write_text("{")
    first, _, third = read_runs(find_runs([tmp_path]))
    assert (first.value("debug"), first.steps) == ('["fast", "traceback"]', (None, None))
    assert third.status.state == ""


@pytest.mark.parametrize("damage", ["[", "", "- a\n- b", "data: 3\nmodel: [1]\nhardware: null", "\0"])
def test_damaged_settings(tmp_path, damage):
    run = make_run(tmp_path / "run", loss=1.0)
    (run / "config.yaml").write_text(damage)
    (run / "environment.json").write_text("[1")
    (run / "overrides.yaml").write_text("a: b")
    (read,) = read_runs([run])
    assert read.done or "config.yaml cannot be read" in read.status.error


def test_settings_that_end_too_early_are_not_believed(tmp_path):
    """Half of a YAML file is often YAML."""
    run = make_run(tmp_path / "run", "seed=1", loss=1.5)
    whole = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(whole[: whole.index("hardware:")])
    (found,) = read_runs([run])
    assert found.status.state == "failed" and "config.yaml cannot be read: it ends too early" in found.status.error


def test_a_half_written_summary_is_a_failure(tmp_path):
    run = make_run(tmp_path / "run", loss=1.0)
    (run / "summary.json").write_text('{"val/loss": 1.')
    (read,) = read_runs([run])
    assert read.status.state == "failed" and "summary.json" in read.status.error


def test_many_runs_take_a_second_or_two(tmp_path):
    for number in range(300):
        make_run(tmp_path / str(number), f"optimizer.lr={number}e-4", f"seed={number % 3}", loss=1.0)
    started = time.perf_counter()
    assert len(read_runs(find_runs([tmp_path]))) == 300
    assert time.perf_counter() - started < 4
