"""molino: from the command line to tables in four formats, a page, and one line for each mistake."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from comparison.tree import make_run
from terminals import type_at

from molino.base.messages import typed


@pytest.fixture
def outputs(tmp_path):
    sweep = tmp_path / "outputs" / "sweeps" / "models"
    for model, base in (("gpt", 1.3), ("bigram", 2.2)):
        for seed in (0, 1):
            loss = base + 0.02 * seed
            curve = [(250, loss + 1, 10.0), (500, loss, 20.0)]
            make_run(sweep / f"model={model},seed={seed}", f"model={model}", f"seed={seed}", loss=loss, curve=curve)
    failed = {"state": "failed", "error": "the loss became nan", "progress": {"step": 300, "max_steps": 1000}}
    make_run(sweep / "model=gpt,seed=2", "model=gpt", "seed=2", status=failed)
    make_run(tmp_path / "outputs" / "alone", "model=gpt", "optimizer.lr=1e-2", loss=1.5)
    return tmp_path / "outputs"


@pytest.fixture
def results(molino, outputs):
    return lambda *arguments: molino("results", f"paths.outputs={outputs}", *arguments)


def table_of(done):
    assert (done.status, done.err) == (0, "")
    return [line.split() for line in done.out.splitlines() if line.startswith((" gpt", " bigram"))]


def test_a_sweep_by_name(results):
    done = results("models")
    assert [line[:3] for line in table_of(done)] == [["gpt", "2", "(1"], ["bigram", "2", "2.2100"]]
    assert "6 runs" not in done.out and "5 runs: 4 done, 1 failed" in done.out
    assert "model=gpt,seed=2   failed   300/1000   the loss became nan" in done.out
    assert "worse" in done.out and "Welch" in done.out and "1.4300 (5-gram)" in done.out


def test_what_is_piped_is_not_cut_and_a_terminal_is_kept_to(tmp_path):
    varied = ["model.n_layer", "model.n_embd", "scheduler.warmup_steps", "trainer.max_steps", "data.batch_size"]
    for number in (11, 22):
        make_run(tmp_path / str(number), "data=quijote", *(f"{key}={number}" for key in varied), loss=1.0 + number)
    failed = {"state": "failed", "error": "a reason of many words " * 20}
    make_run(tmp_path / "33", "data=quijote", *(f"{key}=33" for key in varied), status=failed)
    command = [sys.executable, "-m", "molino", "results", f"paths.outputs={tmp_path}"]
    piped = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "40"}, cwd=tmp_path)
    assert piped.returncode == 0 and "…" not in piped.stdout, piped.stderr
    lines = [re.split("   +", line.strip()) for line in piped.stdout.splitlines()]
    # What differs comes first, and what all runs share is not there.
    (header,) = [line for line in lines if line[0] == "model.n_layer"]
    assert header[:5] == varied and not {"data", "seed"} & set(header)
    assert ["33", "failed", "-", failed["error"].strip()] in [line[:2] + line[-2:] for line in lines if len(line) > 3]
    status, shown = type_at(command, [])
    table = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).partition("p: ")[0].splitlines()
    assert status == 0 and "…" not in shown and max(len(line.rpartition("\r")[2]) for line in table) <= 80
    words = " ".join(shown.split())
    assert all(name in words for name in ("n_layer", "warmup_steps", "12.0000", "23.00"))


def test_everything_or_what_is_named(results, outputs):
    assert [line[:3] for line in table_of(results())] == [
        ["gpt", "0.003", "2"],
        ["gpt", "0.01", "1"],
        ["bigram", "0.003", "2"],
    ]
    assert table_of(results("models", str(outputs / "alone"))) == table_of(results())
    (line,) = [line for line in results(str(outputs / "alone")).out.splitlines() if "1.5000" in line]
    assert line.split()[:3] == ["pydocs-gpt", "1", "1.5000"]
    assert [line[:2] for line in table_of(results("group_by=model"))] == [["gpt", "3"], ["bigram", "2"]]


def test_formats_are_for_other_programs(results, monkeypatch):
    content = json.loads(results("models", "format=json", "metric=[val/loss,seconds]").out)
    assert [group["labels"]["model"] for group in content["groups"]] == ["gpt", "bigram"]
    assert content["groups"][0]["metrics"]["seconds"] == {"n": 2, "mean": 60.0, "sd": 0.0, "low": 60.0, "high": 60.0}
    lines = list(csv.DictReader(io.StringIO(results("models", "format=csv").out)))
    assert [line["state"] for line in lines] == ["done", "failed", "done"]
    # Also what takes long is not told among it.
    monkeypatch.setattr("molino.verbs.results.working", None)
    assert results("models", "format=markdown").out.startswith(
        "| model | n | val/loss | sd | 95 % interval | to the best | p |  | best floor |\n"
    )


def test_a_page(results, outputs, tmp_path):
    done = results("models", f"to={tmp_path / 'page'}")
    assert (done.status, done.err) == (0, "") and f"page: {tmp_path / 'page' / 'index.html'}" in done.out
    assert "molino results" in (tmp_path / "page" / "index.html").read_text()
    done = results("models", "format=json", f"to={tmp_path / 'page'}")
    assert json.loads(done.out) and done.err.startswith("page: ")


def test_what_is_not_finished_is_a_table_too(results, outputs):
    make_run(outputs / "later" / "a", "model=gpt", config=False, status={"state": "not begun"})
    make_run(outputs / "later" / "b", "model=bigram", status={"state": "running"})
    done = results("later", "metric=whatever")
    assert done.status == 0 and "2 runs: 1 not begun, 1 cut off" in done.out
    assert [line[:3] for line in table_of(done)] == [["gpt", "0", "(1"], ["bigram", "0", "(1"]] or done.out


@pytest.mark.parametrize(
    ("arguments", "status", "parts"),
    [
        (["nothing"], 4, ["there is no sweep nothing in ", "the sweeps there are models"]),
        (["{outputs}/empty"], 4, ["there is no run below ", "train one with {train}"]),
        (["metric=val/los"], 2, ["metric=val/los is in no summary; did you mean val/loss?"]),
        (["group_by=[optimiser.lr]"], 2, ["group_by=optimiser.lr is no setting", "did you mean optimizer.lr?"]),
        (["format=xml"], 2, ["format=xml is unknown: choose table, markdown, csv, json"]),
        (["metric=[]"], 2, ["metric=[] and group_by=[] name nothing"]),
        (["to={outputs}"], 2, ["holds alone, which is of no earlier report"]),
        (["to={outputs}/alone/config.yaml/x"], 5, ["cannot be written"]),
        (["mteric=val/loss"], 2, ["mteric is not a setting; did you mean metric?"]),
    ],
)
def test_mistakes_are_one_line(results, outputs, arguments, status, parts):
    (outputs / "empty").mkdir()
    done = results(*(argument.format(outputs=outputs) for argument in arguments))
    assert done.status == status and done.err.startswith("molino: ") and done.err.count("\n") == 1, done.err
    assert all(part.replace("{train}", typed("train")) in done.err for part in parts), done.err


def test_without_matplotlib(results, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = results("models", f"to={tmp_path / 'page'}")
    assert (done.status, done.err) == (5, "molino: pictures need matplotlib: pip install matplotlib\n")
    assert not (tmp_path / "page").exists()
    assert results("models").status == 0


def test_it_imports_nothing_heavy(outputs):
    """And so starts at once: no torch, no Lightning, and pictures only where they are asked for."""
    code = """
import sys
from molino.command.entry import command
command("results")
print(sorted({"torch", "lightning", "matplotlib", "tokenizers"} & set(sys.modules)))
"""
    started = time.perf_counter()
    command = [sys.executable, "-c", code, "models", f"paths.outputs={outputs}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(outputs).parent)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert time.perf_counter() - started < 5
