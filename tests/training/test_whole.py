"""Looks in between that take a share of the held-out text, and the whole of it at the end."""

import csv
from pathlib import Path

import pytest
import torch
from conftest import small_text

from molino.comparison.curves import read_validations
from molino.data.batches import EvaluationWindows
from molino.data.module import TextDataModule
from molino.runs.directory import read_summary
from molino.runs.measures import metric_name, partial_tag
from molino.trained.load import load_run

SMALL = (
    "data=text", "hardware=cpu", "hardware.threads=1", "model=gpt", "model.n_layer=1", "model.n_head=2",
    "model.n_embd=16", "data.block_size=16", "data.batch_size=4", "trainer.max_steps=60", "trainer.val_every=10",
    "trainer.log_every=10", "trainer.checkpoint_every=20", "trainer.sample_tokens=0", "scheduler=constant",
)  # fmt: skip
WINDOWS = 7


@pytest.fixture(scope="module")
def train(molino, tmp_path_factory):
    home = tmp_path_factory.mktemp("whole")
    (home / "text.txt").write_text(small_text(0, 900), "utf-8")

    def run(name, *settings):
        places = (f"data.path={home / 'text.txt'}", f"paths.cache={home / 'cache'}", f"paths.outputs={home / name}")
        done = molino("train", *SMALL, *places, *settings)
        assert done.status == 0, done.err
        (run,) = (home / name).iterdir()
        return run, done

    return run


@pytest.fixture(scope="module")
def both(train):
    """A run whose best step is not its last, with a share and without."""
    rough = "optimizer.lr=0.3"
    return train("share", f"trainer.val_windows={WINDOWS}", rough), train("all", rough)


def rows(run: Path) -> dict[int, dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): row for row in csv.DictReader(file)}


def test_the_share_is_the_first_windows_and_called_so(both):
    (run, said), _ = both
    assert "held-out (first windows) loss" in said.out
    table = rows(run)
    assert [step for step, row in table.items() if row["val_partial/loss"]] == [10, 20, 30, 40, 50, 60]
    assert [step for step, row in table.items() if row["val/loss"]] == [60]
    loaded = load_run(run, "last", torch.device("cpu"))
    data = load_text(loaded)
    whole = loaded.task.evaluation(data.text, "val", 16, None)
    (batch,) = list(whole)  # which windows, by themselves: the first seven rows
    sums = loaded.task.measure(loaded.model, {name: tensor[:WINDOWS] for name, tensor in batch.items()})
    assert float(table[60]["val_partial/loss"]) == pytest.approx(float(sums["nll"] / sums["tokens"]), rel=1e-6)


def load_text(loaded) -> TextDataModule:
    from molino.configuration.build import build

    given = {"task": loaded.task, "accumulate": 1, "steps_per_block": 1, "seed": 0}
    data = build(loaded.settings["data"], "data", TextDataModule, **given)
    data.setup()
    return data


def test_in_the_end_all_of_it_is_measured(both, molino):
    (run, _), (other, _) = both
    summary, wanted = read_summary(run), read_summary(other)
    assert summary["val/loss"] == pytest.approx(wanted["val/loss"], rel=1e-9)
    # Which step is the best one is decided by what was seen of it; its figure is that of the whole text.
    best = load_run(run, "best", torch.device("cpu"))
    assert best.step == summary["best_step"] < 60
    told = {step: loss for step, (loss, _) in read_validations(other, "val/loss").items()}
    assert summary["val/best_loss"] == pytest.approx(told[best.step], rel=1e-9)
    done = molino("evaluate", f"run={run}", "floors=false", "hardware=cpu", f"paths.cache={other.parent.parent}/cache")
    assert f"{summary['val/best_loss']:.4f}" in done.out, done.err
    # The weights that are kept last are those of the last step all the same.
    ours, theirs = (load_run(each, "last", torch.device("cpu")).model.state_dict() for each in (run, other))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_page_draws_what_there_is(both):
    (run, _), (other, _) = both
    assert list(read_validations(run, "val/loss")) == list(read_validations(other, "val/loss"))


def test_a_share_that_is_all_is_no_share(train):
    run, said = train("more", "trainer.val_windows=100000", "trainer.max_steps=10")
    assert "first windows" not in said.out and "val_partial/loss" not in rows(run)[10]


def test_nothing_trained_is_measured_whole(train):
    run, _ = train("nothing", f"trainer.val_windows={WINDOWS}", "trainer.max_steps=0")
    summary = read_summary(run)
    assert summary["val/loss"] == summary["val/best_loss"] and summary["best_step"] == 0


def test_processes_share_the_same_windows():
    from types import SimpleNamespace

    import numpy as np

    split = SimpleNamespace(tokens=np.arange(301, dtype=np.uint16), marks=np.array([0, 100, 300]))
    whole = EvaluationWindows(split, 16, 16, 4)
    one = [row.tolist() for batch in whole.first(9) for row in batch["tokens"]]
    assert one == [row.tolist() for batch in whole for row in batch["tokens"]][:9]
    shares = [EvaluationWindows(split, 16, 16, 4, rank, 2).first(9) for rank in range(2)]
    two = [[row.tolist() for batch in share for row in batch["tokens"]] for share in shares]
    assert [row for pair in zip(*two, strict=False) for row in pair] + two[0][4:] == one
    assert whole.first(10**6) is None and len(whole.first(4)) == 1


def test_examples_have_no_windows(molino, tmp_path):
    table = tmp_path / "examples.csv"
    table.write_text("text,label\n" + "".join(f"word {i} here,{i % 2}\n" for i in range(60)))
    done = molino(
        "train", "debug=fast", "hardware=cpu", "task=classification", "data=labelled", f"data.path={table}",
        "trainer.val_windows=5", f"paths.outputs={tmp_path / 'outputs'}", f"paths.cache={tmp_path / 'cache'}",
    )  # fmt: skip
    assert done.status == 2 and "trainer.val_windows=5 is for windows of text" in done.err
    assert not (tmp_path / "outputs").exists()


def test_names():
    assert partial_tag("val/loss") == "val_partial/loss" and metric_name("val_partial/loss") == "loss"
