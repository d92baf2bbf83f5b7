"""Finding and reading runs: at any depth, of any age, in any state."""

import contextlib
import itertools
import json
import math
import os
import shutil
import time

import pytest
import yaml
from comparison.tree import make_run

from molino.base.errors import CheckpointError
from molino.comparison.collect import find_folders, find_runs, read_runs
from molino.comparison.rows import make_rows
from molino.comparison.tables import print_table
from molino.runs.directory import read_config
from molino.tasks.earlier import measures


def test_runs_are_found_once_and_hold_no_runs(tmp_path):
    one = make_run(tmp_path / "sweeps" / "a" / "one", loss=1.0)
    deep = make_run(tmp_path / "x" / "y" / "z", config=False, status={"state": "not begun"})
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
    (run,) = read_runs(find_runs([tmp_path]), measures)
    assert (run.seed, run.done, run.pruned, run.metric("val/loss")) == (3, True, False, 1.25)
    assert (run.value("model"), run.value("optimizer.lr"), run.value("weights")) == ("bigram", 0.001, "null")
    assert run.value("optimizer.betas") == "[0.9, 0.95]" and run.value("model.n_layer") is None
    assert run.corpus_name == "pydocs"


def test_what_makes_no_other_experiment(tmp_path):
    make_run(tmp_path / "a" / "0", "seed=0", loss=1.0)
    make_run(tmp_path / "b" / "1", "seed=1", "name=other", "hardware.threads=1", "logger.csv=null", loss=1.0)
    make_run(tmp_path / "c" / "2", "seed=2", "optimizer.lr=0.003", loss=1.0)
    make_run(tmp_path / "d" / "3", "seed=3", "model.dropout=0", loss=1.0)  # 0 and 0.0 are one number
    assert len({run.identity for run in read_runs(find_runs([tmp_path]), measures)}) == 1
    make_run(tmp_path / "e", "hardware.accelerator=cpu", loss=1.0)
    assert len({run.identity for run in read_runs(find_runs([tmp_path]), measures)}) == 2


def test_an_older_run_takes_the_choices_of_its_like(tmp_path):
    make_run(tmp_path / "a", "model=custom_gpt", loss=1.0)
    make_run(tmp_path / "b", loss=1.0, choices=False)
    make_run(tmp_path / "c", "model=custom_gpt", "seed=1", loss=1.0, choices=False)
    _, old, typed = read_runs(find_runs([tmp_path]), measures)
    # Nobody else has such a section: the name of its class.
    assert (old.value("model"), typed.value("model")) == ("GPT", "custom_gpt")
    assert (old.value("data"), old.value("optimizer"), old.value("data/tokenizer")) == ("pydocs", "adamw", "char")
    make_run(tmp_path / "d", loss=1.0)
    assert read_runs(find_runs([tmp_path]), measures)[1].value("model") == "gpt"


def test_a_waiting_run_takes_the_settings_of_its_like(tmp_path):
    make_run(tmp_path / "a", "model=bigram", "optimizer.lr=1e-3", "seed=0", loss=1.0)
    queued = {"state": "not begun"}
    make_run(tmp_path / "b", "optimizer.lr=0.001", "model=bigram", "seed=1", config=False, status=queued)
    make_run(tmp_path / "c", "model=gpt", "optimizer.lr=1e-3", "seed=1", config=False, status=queued)
    done, like, unlike = read_runs(find_runs([tmp_path]), measures)
    assert like.identity == done.identity != unlike.identity and like.corpus == done.corpus
    assert (like.seed, like.value("data"), like.status.state) == (1, "pydocs", "not begun")
    # Of the corpus nothing was typed for either, so it is the same.
    assert (unlike.value("model"), unlike.value("data"), unlike.steps) == ("gpt", "pydocs", (None, None))
    assert (unlike.corpus, unlike.tokenizer, unlike.settings) == (done.corpus, done.tokenizer, {})


def test_figures_that_are_none(tmp_path):
    run = make_run(tmp_path / "run", loss=1000.0, summary={"val/best_loss": None, "note": "x", "odd": True})
    assert json.loads((run / "summary.json").read_text())["val/perplexity"] is None
    (read,) = read_runs([run], measures)
    assert read.metric("val/perplexity") == math.inf
    assert [read.metric(name) for name in ("val/best_loss", "note", "odd", "absent")] == [None] * 4


def test_strange_statuses(tmp_path):
    make_run(tmp_path / "a", "debug=[fast,traceback]", config=False, status={"state": "not begun", "progress": [1]})
    make_run(tmp_path / "b", config=False, status={"state": "failed", "overrides": {"a": 1}})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "status.json").write_text("{")
    first, _, third = read_runs(find_runs([tmp_path]), measures)
    assert (first.value("debug"), first.steps) == ('["fast", "traceback"]', (None, None))
    assert third.status.state == ""


@pytest.mark.parametrize("damage", ["[", "", "- a\n- b", "data: 3\nmodel: [1]\nhardware: null", "\0"])
def test_damaged_settings(tmp_path, damage):
    run = make_run(tmp_path / "run", loss=1.0)
    (run / "config.yaml").write_text(damage)
    (run / "environment.json").write_text("[1")
    (run / "overrides.yaml").write_text("a: b")
    (read,) = read_runs([run], measures)
    assert read.done or "config.yaml cannot be read" in read.status.error


def test_settings_that_end_too_early_are_not_believed(tmp_path):
    """Half of a YAML file is often YAML."""
    run = make_run(tmp_path / "run", "seed=1", loss=1.5)
    whole = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(whole[: whole.index("hardware:")])
    (found,) = read_runs([run], measures)
    assert found.status.state == "failed" and "config.yaml cannot be read: it ends too early" in found.status.error


def test_a_half_written_summary_is_a_failure(tmp_path):
    run = make_run(tmp_path / "run", loss=1.0)
    (run / "summary.json").write_text('{"val/loss": 1.')
    (read,) = read_runs([run], measures)
    assert read.status.state == "failed" and "summary.json" in read.status.error


def test_many_runs_take_a_second_or_two(tmp_path):
    for number in range(300):
        make_run(tmp_path / str(number), f"optimizer.lr={number}e-4", f"seed={number % 3}", loss=1.0)
    started = time.perf_counter()
    assert len(read_runs(find_runs([tmp_path]), measures)) == 300
    assert time.perf_counter() - started < 4


WEIRD = [
    None, 3, math.inf, math.nan, "", [], {}, [1, [2, {"a": 3}]], {0: 4}, {None: 1}, {True: {1.5: 2}},
    {"_target_": ["x"]}, {"_target_": {"a": 1}}, {"_target_": "molino.models.gpt.GPT", 3: 4}, "x" * 10000,
]  # fmt: skip
RECORDS = {
    "config.yaml": (yaml.safe_load, yaml.safe_dump),
    "overrides.yaml": (yaml.safe_load, yaml.safe_dump),
    **dict.fromkeys(("summary.json", "status.json", "environment.json"), (json.loads, json.dumps)),
}


def places(node, at=()):
    yield at
    if isinstance(node, dict):
        for name, child in node.items():
            yield from places(child, (*at, name))


def put(node, at, value):
    if not at:
        return value
    return {**node, at[0]: put(node[at[0]], at[1:], value)}


def test_no_run_hides_the_others_whatever_its_records_hold(tiny, tmp_path):
    """At every place of every record of a run stands, in turn, something else."""
    shutil.copytree(tiny.path, tmp_path / "good")
    weird = itertools.cycle(WEIRD)
    for name, (load, dump) in RECORDS.items():
        content = load((tiny.path / name).read_text("utf-8"))
        for number, at in enumerate(places(content)):
            bad = tmp_path / f"{name}-{number}"
            bad.mkdir()
            for record in RECORDS:
                shutil.copy(tiny.path / record, bad / record)
            with contextlib.suppress(TypeError):  # JSON has no such keys
                (bad / name).write_text(dump(put(content, at, next(weird))), "utf-8")
    found = find_runs([tmp_path])
    assert len(found) > 140
    rows = make_rows(read_runs(found, measures), ["val/loss", "tokens_per_second"], None)
    assert "good" in {run.path.name for row in rows for run in [*row.all_runs, *row.repeats]}
    print_table(rows, ["val/loss"])


@pytest.mark.parametrize(
    "config",
    [
        "model: &a\n  x: *a\npaths: {}\n",
        "paths: {}\nmodel: " + "{a: " * 2000 + "1" + "}" * 2000,
        "a: " + "[" * 3000 + "]" * 3000 + "\npaths: {}\n",
        "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(9)) + "\npaths: {}\n",
        "paths: !!python/object/apply:os.system [echo]\n",
    ],
    ids=["a circle", "deep", "deeper", "a bomb", "code"],
)
def test_settings_without_end_are_told_of(tmp_path, config):
    make_run(tmp_path / "good", loss=1.0)
    bad = make_run(tmp_path / "bad", loss=2.0)
    (bad / "config.yaml").write_text(config)
    first, second = read_runs([tmp_path / "good", bad], measures)
    assert first.done and second.status.state == "failed" and "config.yaml cannot be read" in second.status.error
    with pytest.raises(CheckpointError, match=r"config\.yaml cannot be read"):
        read_config(bad)


def test_of_many_sweeps_the_latest_are_named(tmp_path):
    for number in range(13):
        sweep = tmp_path / "sweeps" / f"s{number:02}"
        sweep.mkdir(parents=True)
        os.utime(sweep, (number, number))
    with pytest.raises(CheckpointError) as raised:
        find_folders(["absent"], tmp_path)
    named = ", ".join(f"s{number:02}" for number in range(12, 2, -1))
    assert str(raised.value).endswith(f"the sweeps there are {named} and 3 older")


def test_a_run_without_a_value_takes_no_ones_place(tmp_path):
    """Of the same configuration and seed, and written later."""
    make_run(tmp_path / "good", loss=1.5)
    for number, value in enumerate(["x", None, [1], {"a": 1}, True, 10**400]):
        bad = make_run(tmp_path / f"bad{number}", loss=1.0)
        summary = json.loads((bad / "summary.json").read_text()) | {"val/loss": value}
        (bad / "summary.json").write_text(json.dumps(summary))
        (row,) = make_rows(read_runs([tmp_path / "good", bad], measures), ["val/loss"], None)
        assert [run.path.name for run in row.runs] == ["good"] and row.samples["val/loss"].mean == 1.5


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "status.json", "environment.json", "overrides.yaml"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path, name):
    make_run(tmp_path / "good", loss=1.5)
    bad = make_run(tmp_path / "bad", loss=1.0)
    (bad / name).unlink(missing_ok=True)
    os.mkfifo(bad / name)
    assert "good" in {run.path.name for run in read_runs(find_runs([tmp_path]), measures)}


def test_what_would_command_a_terminal_is_shown_as_an_escape(tmp_path, capsys):
    for seed, text in enumerate(["\x1b[31mred\x07", "plain"]):
        run = make_run(tmp_path / str(seed), "model.norm=pre", loss=1.0 + seed)
        settings = yaml.safe_load((run / "config.yaml").read_text())
        settings["model"]["norm"] = text
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
    print_table(make_rows(read_runs(find_runs([tmp_path]), measures), ["val/loss"], ["model.norm"]), ["val/loss"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown and "\\x1b[31mred" in shown
