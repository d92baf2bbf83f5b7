"""Every format, parsed back."""

import csv
import io
import json
import re

import pytest
from comparison.tree import make_run

from molino.comparison.collect import find_runs, read_runs
from molino.comparison.rows import make_rows
from molino.comparison.tables import (
    as_csv,
    as_json,
    headline,
    markdown,
    notes,
    show_number,
    show_value,
    table,
    unfinished,
)
from molino.tasks.earlier import measures

ERROR = "no | pipe,\nno <tag>"


@pytest.fixture
def rows(tmp_path):
    for seed, loss in enumerate((1.0, 1.5)):
        make_run(tmp_path / f"gpt-{seed}", "model=gpt", f"seed={seed}", loss=loss)
    failed = {"state": "failed", "error": ERROR, "progress": {"step": 40, "max_steps": 100}}
    make_run(tmp_path / "gpt-2", "model=gpt", "seed=2", status=failed)
    make_run(tmp_path / "bigram-0", "model=bigram", "seed=0", loss=1000.0)
    make_run(tmp_path / "custom-0", "model=custom_gpt", "seed=0", config=False, status={"state": "not begun"})
    make_run(tmp_path / "short", "model=gpt", "seed=7", loss=9.0, summary={"pruned": True})
    return make(tmp_path)


def make(path, *metrics):
    return make_rows(read_runs(find_runs([path]), measures), list(metrics) or ["val/loss", "val/perplexity"], None)


def test_the_table(rows, tmp_path):
    header, cells = table(rows, ["val/loss", "val/perplexity"])
    assert header == ["model", "n", "val/loss", "sd", "95 % interval", "to the best", "p", "", "val/perplexity"]
    assert cells[0] == [
        "gpt",
        "2 (1 failed)",
        "1.2500",
        "0.3536",
        "-1.9266 .. 4.4266",
        "-",
        "-",
        "best",
        "3.6000 ± 1.2469",
    ]
    assert cells[1] == ["bigram", "1", "1,000", "-", "-", "+998.75", "-", "-", "inf"]
    assert cells[2] == ["gpt", "1", "9.0000", "-", "-", "-", "-", "pruned", "8,103"]
    assert cells[3] == ["custom_gpt", "0 (1 not begun)", "-", "-", "-", "-", "-", "-", "-"]
    assert headline(rows) == "6 runs: 3 done, 1 failed, 1 pruned, 1 not begun"
    assert unfinished(rows) == [
        ["gpt-2", "failed", "40/100", "no | pipe, no <tag>"], ["custom-0", "not begun", "-", "-"],
    ]  # fmt: skip
    # With the held-out loss alone, the best of counting stands beside it.
    header, cells = table(make(tmp_path, "val/loss"), ["val/loss"])
    assert header[-1] == "best floor" and cells[0][-1] == "1.4300 (5-gram)" and cells[3][-1] == "-"


def test_columns_that_would_be_empty_are_left_out(tmp_path):
    make_run(tmp_path / "a", loss=1.0, summary={"floor/ngram": None, "floor/bigram": None, "floor/unigram": None})
    assert table(make(tmp_path, "val/loss"), ["val/loss"]) == (
        ["name", "n", "val/loss", ""],
        [["pydocs-gpt", "1", "1.0000", "best"]],
    )


def test_csv_is_a_line_a_row_and_one_for_what_is_not_done(rows):
    lines = list(csv.DictReader(io.StringIO(as_csv(rows, ["val/loss", "val/perplexity"]))))
    assert [(line["model"], line["state"], line["n"]) for line in lines] == [
        ("gpt", "done", "2"), ("gpt", "failed", ""), ("bigram", "done", "1"), ("gpt", "pruned", "1"),
        ("custom_gpt", "not begun", ""),
    ]  # fmt: skip
    first = lines[0]
    assert (first["corpus"], float(first["val/loss"]), float(first["floor"])) == ("pydocs", 1.25, 1.43)
    assert float(first["val/loss sd"]) == pytest.approx(0.5 / 2**0.5) and first["verdict"] == "best"
    assert (lines[1]["run"], lines[1]["step"], lines[1]["max_steps"], lines[1]["error"]) == (
        "gpt-2",
        "40",
        "100",
        ERROR,
    )
    assert len({len(line) for line in csv.reader(io.StringIO(as_csv(rows, ["val/loss"])))}) == 1


def test_json_holds_every_run(rows):
    def refuse(constant):
        raise ValueError(constant)

    content = json.loads(as_json(rows, ["val/loss", "val/perplexity"]), parse_constant=refuse)
    gpt, bigram, pruned, queued = content["groups"]
    assert gpt["labels"] == {"model": "gpt"} and gpt["best"] and (gpt["p"], gpt["significant"]) == (None, None)
    assert gpt["metrics"]["val/loss"]["n"] == 2 and gpt["metrics"]["val/loss"]["mean"] == 1.25
    assert [(run["seed"], run["state"], run["metrics"]["val/loss"]) for run in gpt["runs"]] == [
        (0, "done", 1.0), (1, "done", 1.5), (2, "failed", None),
    ]  # fmt: skip
    assert bigram["metrics"]["val/perplexity"]["mean"] is None and pruned["runs"][0]["state"] == "pruned"
    assert queued["metrics"]["val/loss"] == {"n": 0, "mean": None, "sd": None, "low": None, "high": None}
    assert [(run["name"], run["state"], run["step"], run["error"]) for run in content["unfinished"]] == [
        ("gpt-2", "failed", 40, ERROR), ("custom-0", "not begun", None, None),
    ]  # fmt: skip


def test_markdown_escapes_what_would_break_it(rows):
    first, second, *rest = markdown(rows, ["val/loss", "val/perplexity"]).split("\n\n")
    for part, (header, cells) in (
        (first, table(rows, ["val/loss", "val/perplexity"])),
        (second, ([""] * 4, unfinished(rows))),
    ):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines()]
        assert {len(line) for line in lines} == {len(header)}
        back = [[cell.strip().replace("\\|", "|").replace("&lt;", "<") for cell in line] for line in lines[2:]]
        assert back == cells
    assert (
        rest
        == notes(rows, ["val/loss"])
        == ["pruned: stopped early by a search, so neither averaged nor compared with full runs"]
    )


def test_of_those_that_failed_and_were_cut_off_so_many_are_listed_as_well(tmp_path):
    for seed in range(25):
        state = {"state": "failed", "error": f"no {seed}"} if seed < 23 else {"state": "cut off"}
        make_run(tmp_path / f"{seed:02}", f"seed={seed}", status=state)
    rows = make(tmp_path, "val/loss")
    listed = unfinished(rows)
    assert [cells[0] for cells in listed if cells[1] == "failed"] == [*(f"{n:02}" for n in range(20)), "... and 3 more"]
    assert [cells[0] for cells in listed if cells[1] == "cut off"] == ["23", "24"]
    # What other programs read has them all.
    assert as_csv(rows, ["val/loss"]).count("failed") == 23


def test_many_that_wait_are_counted(tmp_path):
    for seed in range(30):
        make_run(tmp_path / f"{seed:02}", f"seed={seed}", config=False, status={"state": "not begun"})
    rows = make(tmp_path, "val/loss")
    assert len(unfinished(rows)) == 21 and unfinished(rows)[-1][:2] == ["... and 10 more", "not begun"]
    assert table(rows, ["val/loss"])[1] == [["00", "0 (30 not begun)", "-", "-"]]
    assert len(json.loads(as_json(rows, ["val/loss"]))["unfinished"]) == 30


def test_values_and_figures():
    assert [show_value(v) for v in (None, True, 0.00001, 1024, "gpt")] == ["-", "true", "1e-05", "1024", "gpt"]
    numbers = {
        None: "-",
        float("inf"): "inf",
        800_000: "800,000",
        2126.86: "2,127",
        89.4929: "89.49",
        1.5: "1.5000",
        1e-6: "1.0e-06",
    }
    assert {number: show_number(number) for number in numbers} == numbers
