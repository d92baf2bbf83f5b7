"""Runs on examples through molino: trained, killed, shared by processes, swept, begun from others, asked, exported."""

import csv
import json
import re

import pytest
import torch
import transformers
import yaml
from conftest import CPU
from running import assert_same_run, finish, metrics, only_run, start, wait_for_step

import molino as package
from molino.runs import directory
from molino.runs.examples import read_outcomes
from molino.runs.measures import read_measures
from molino.trained.load import load_run

# A review is good if a good word is in it: learned in some dozens of steps.
GOOD, BAD, OTHER = ("fine", "lovely", "witty"), ("dull", "weak", "tedious"), ("the", "film", "is", "a", "plot", "and")
SMALL = (
    "model.n_layer=1", "model.n_head=2", "model.n_embd=16", "data.block_size=16", "data.batch_size=8",
    "optimizer.lr=0.01", "scheduler=constant", "trainer.max_steps=60", "trainer.log_every=10", "trainer.val_every=20",
    "trainer.checkpoint_every=20", "trainer.sample_tokens=24",
)  # fmt: skip
pytestmark = pytest.mark.xdist_group("labelled runs")


def reviews(count: int) -> list[dict[str, str]]:
    rows = []
    for n in range(count):
        words = [OTHER[(n * k + k) % len(OTHER)] for k in range(1, 4 + n % 5)]
        words.insert(n % len(words), (GOOD if n % 2 else BAD)[n % 3])
        rows.append({"review": " ".join(words) + f" {n}", "stars": "5" if n % 2 else "1"})
    return rows


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("labelled")
    with (home / "reviews.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["review", "stars"])
        writer.writeheader()
        writer.writerows(reviews(200))
    return home


def own(home) -> tuple[str, ...]:
    return (
        "data=labelled", f"data.path={home / 'reviews.csv'}", "data.columns.text=review", "data.columns.label=stars",
        "data.val_fraction=0.2", "task=classification",
    )  # fmt: skip


@pytest.fixture
def train(molino, home, tmp_path):
    def run(*settings: str):
        multirun, settings = [word for word in settings if word == "-m"], [w for w in settings if w != "-m"]
        typed = {word.partition("=")[0] for word in settings}
        small = [word for word in SMALL if word.partition("=")[0] not in typed]
        if typed & {"model", "weights"}:
            small = [word for word in small if not word.startswith("model.")]
        places = [f"paths.cache={home / 'cache'}"]
        places += [] if "paths.outputs" in typed else [f"paths.outputs={tmp_path}"]
        return molino("train", *multirun, *own(home), *small, *CPU, *places, *settings)

    return run


def test_it_is_trained_measured_asked_and_told(train, molino, home, tmp_path):
    done = train("data.classes={1: bad, 5: good}", "trainer.max_steps=160")
    assert done.status == 0, done.err
    (run,) = directory.list_runs(tmp_path)
    summary, measures = directory.read_summary(run), read_measures(run)
    assert summary["val/accuracy"] > 0.9 > summary["floor/majority"] and summary["floor/bag_of_words"] > 0.9
    assert measures.monitor == "val/accuracy" and measures.maximized("val/best_f1")
    assert measures.levels_of("val/matthews")["floor/majority"] == ("majority", 0.0)
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    assert recorded["task"]["classes"] == ["bad", "good"]
    for said in ("GPT with a head", r"classes +bad \d+%, good \d+%", "held-out accuracy", "predict run="):
        assert re.search(said, done.out)
    named = (f"run={run}", f"paths.outputs={tmp_path}", *CPU)
    bad, good = (row["review"] for row in reviews(204)[202:])
    told = molino("predict", *named, f"text={good}")
    assert told.status == 0 and told.out.split()[1] == "good", told.err
    # A table of them, and the same from Python.
    table, answers = tmp_path / "asked.csv", tmp_path / "answers.jsonl"
    table.write_text(f'review,id\n"{bad}",1\n{good},2\n')
    written = molino("predict", *named, f"file={table}", "columns.text=review", f"to={answers}")
    assert written.status == 0, written.err
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert [row["label"] for row in rows] == ["bad", "good"] and rows[0]["text"] == bad and rows[0]["seconds"] > 0
    loaded = package.load(run)
    (first, second), alone = loaded.predict([bad, {"text": good}]), loaded.predict(bad)
    assert first["score"] == pytest.approx(rows[0]["score"], rel=1e-6) == pytest.approx(alone["score"], rel=1e-6)
    assert second["label"] == "good"
    # What became of the held-out examples is recorded, and drawn on the page.
    outcomes = read_outcomes(run)
    right = sum(outcomes.confusion[n][n] for n in range(2)) / sum(map(sum, outcomes.confusion))
    assert outcomes.classes == ["bad", "good"] and right == pytest.approx(summary["val/accuracy"])
    page = molino("results", str(tmp_path), f"to={tmp_path / 'page'}")
    assert page.status == 0, page.err
    shown = (tmp_path / "page" / "index.html").read_text()
    assert "held-out examples of" in shown and ("most wrong about" in shown) == bool(outcomes.wrong)
    # What is too long, or nothing at all.
    long = molino("predict", *named, f"text={'dull ' * 5000}")
    assert long.status == 0 and re.fullmatch(r"molino: 1 of 1 are longer than the context of \d+ tokens.*\n", long.err)
    assert loaded.predict([]) == []
    alone = molino("predict", *named, "text=a", "header=false")
    assert alone.status == 2 and "header is one of a table: add file=" in alone.err
    again = molino("predict", *named, f"file={table}", "columns.text=review", f"to={answers}")
    assert again.status == 2 and "exists" in again.err
    evaluated = molino("evaluate", *named, f"paths.cache={home / 'cache'}")
    assert evaluated.status == 0 and f" accuracy             {summary['val/best_accuracy']:.4f}" in evaluated.out
    # The table grows, and its labels change.
    text = (home / "reviews.csv").read_text()
    (home / "reviews.csv").write_text(text.replace(",5\r\n", ",1\r\n", 1))
    changed = molino("evaluate", *named, f"paths.cache={home / 'cache'}")
    (home / "reviews.csv").write_text(text)
    assert changed.status == 0 and "its files have changed since" in changed.out and "changed" not in evaluated.out
    refused = molino("generate", *named, "prompt=a")
    assert refused.status == 2 and "tells no next token" in refused.err


def test_killed_it_goes_on_bit_for_bit(train, home, tmp_path):
    more = ("task.on_floor=true", "task.freeze=0", "model.dropout=0.2", "trainer.max_steps=160")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(killed, *own(home), *(word for word in SMALL if not word.startswith("trainer.max")), *CPU, *more)
    wait_for_step(process, killed, 3)
    process.kill()
    process.wait()
    assert (only_run(killed) / directory.LAST).is_file() and not directory.is_done(only_run(killed))
    finish(start(killed, "resume=latest"))
    assert train(*more, f"paths.outputs={whole / 'outputs'}").status == 0
    assert_same_run(only_run(killed), only_run(whole))


def test_two_processes_come_to_the_figures_of_one(train, home, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    more = ("trainer.accumulate=2", "trainer.max_steps=40", "task.dropout=0")
    small = (word for word in SMALL if not word.startswith("trainer.max"))
    process = start(two, *own(home), *small, *more, "hardware=ddp", "hardware.accelerator=cpu")
    assert train(*more, f"paths.outputs={one / 'outputs'}").status == 0
    finish(process)
    for mine, wanted in zip(metrics(only_run(two)), metrics(only_run(one)), strict=True):
        for tag in mine:
            assert (mine[tag] == wanted[tag] == "") or float(mine[tag]) == pytest.approx(float(wanted[tag]), rel=2e-3)


# Beginning from another run


PRETRAINING = (
    "data=text data.path={text} data/tokenizer=char model=gpt model.n_layer=1 model.n_head=2 model.n_embd=16 "
    "data.block_size=16 data.batch_size=8 trainer.max_steps=20 trainer.val_every=20 trainer.checkpoint_every=20 "
    "hardware=cpu hardware.threads=1"
)


@pytest.fixture
def pretraining(home) -> str:
    text = home / "text.txt"
    text.write_text("\n".join(row["review"] for row in reviews(400)))
    return PRETRAINING.format(text=text)


def test_weights_may_name_settings(train, molino, tmp_path, pretraining):
    """The run of these is trained first, once, and found again; children are told apart by it, but not by its seed."""
    more = (f"weights={pretraining}", "trainer.max_steps=20", "hardware.threads=1")
    done = train("-m", *more, "task.lm_coef=0,0.5", "seed=0,1", "sweep=s")
    assert done.status == 0, done.out + done.err
    parents = sorted((tmp_path / "weights").glob("*/seed=*"))
    assert [each.name for each in parents] == ["seed=0", "seed=1"] and all(map(directory.is_done, parents))
    children = directory.list_runs(tmp_path / "sweeps")
    assert len(children) == 4
    for child in children:
        settings = directory.read_config(child)
        assert settings["weights"] == str(parents[settings["seed"]])
        assert (child / "tokenizer.json").is_file() and settings["model"]["n_embd"] == 16
    again = train("-m", *more, "task.lm_coef=0,0.5", "seed=0,1", "sweep=s")
    assert again.status == 0 and "4 runs: 4 done" in again.out
    rows = molino("results", str(tmp_path / "sweeps"), "format=json")
    assert [row["metrics"]["val/accuracy"]["n"] for row in json.loads(rows.out)["groups"]] == [2, 2]


def test_a_run_of_the_same_settings_that_is_done_elsewhere_is_taken(train, molino, tmp_path, pretraining, home):
    earlier = molino(
        "train", *pretraining.split(), f"paths.outputs={tmp_path}", f"paths.cache={home / 'cache'}", "name=earlier"
    )
    assert earlier.status == 0, earlier.err
    assert train(f"weights={pretraining}", "trainer.max_steps=10").status == 0
    (place,) = (tmp_path / "weights").glob("*/seed=0")
    assert place.is_symlink() and place.resolve().name.startswith("earlier_")


def test_weights_of_a_run_bring_its_tokens_and_new_ones_get_rows(train, tmp_path, pretraining):
    assert train(f"weights={pretraining}", "trainer.max_steps=0").status == 0
    (parent,) = (tmp_path / "weights").glob("*/seed=0")
    child = next(run for run in directory.list_runs(tmp_path) if run.parent == tmp_path)
    before, after = (load_run(each, "best", torch.device("cpu")) for each in (parent, child))
    size = before.tokenizer.size
    assert after.tokenizer.size == size + 3 and after.tokenizer.token(size) == "<start>"
    table, grown = before.model.wte.weight, after.model.model.wte.weight
    assert torch.equal(grown[:size], table) and grown.shape[0] == size + 3
    # A head of the same classes is kept, one of others is not without being told so.
    same = train(f"weights={child}", "trainer.max_steps=0", "name=same")
    assert same.status == 0, same.err
    kept = load_run(next(tmp_path.glob("same_*")), "best", torch.device("cpu"))
    assert torch.equal(kept.model.task_head.weight, after.model.task_head.weight)
    other = ("data.classes={1: sour, 5: sweet}", f"weights={child}", "trainer.max_steps=0")
    refused = train(*other)
    assert refused.status == 2 and "weights= come with a head for 1, 5, and this task has sour, sweet" in refused.err
    assert train(*other, "task.new_head=true").status == 0


# In and out of Hugging Face's format


@pytest.mark.parametrize(
    ("model", "pooling"), [("gpt", "extract"), ("gpt", "last"), ("gpt1", "extract"), ("llama", "last")]
)
def test_an_exported_classifier_scores_the_same_in_a_pipeline(train, molino, home, tmp_path, model, pooling):
    pools = f"task.pooling={pooling}"
    sizes = ("model.n_layer=1", "model.n_head=2", "model.n_embd=16", "data.block_size=16")
    assert train(f"model={model}", *sizes, pools, "trainer.max_steps=30", "data/tokenizer=char").status == 0
    (run,) = directory.list_runs(tmp_path)
    folder = tmp_path / "folder"
    assert molino("export", f"run={run}", f"to={folder}").status == 0
    texts = ["a witty film", "plot is dull", "a", "weak, tedious"]
    own_answers = package.load(run).predict(texts)
    theirs = transformers.pipeline("text-classification", str(folder), top_k=None)(texts, batch_size=4)
    for mine, other in zip(own_answers, theirs, strict=True):
        assert {each["label"]: each["score"] for each in other} == pytest.approx(mine["probabilities"], abs=1e-5)
    # Back again: asked as it is, and trained on, from the head that it comes with.
    again = package.load(folder).predict(texts)
    assert [each["score"] for each in again] == pytest.approx([each["score"] for each in own_answers], abs=1e-5)
    begun = ("model=pretrained", f"model.source={folder}", pools, "task.lm_coef=0")
    done = train(*begun, "trainer.max_steps=0", "name=tuned")
    assert done.status == 0, done.err
    tuned = package.load(next(tmp_path.glob("tuned_*"))).predict(texts)
    assert [each["score"] for each in tuned] == pytest.approx([each["score"] for each in own_answers], abs=1e-5)
    refused = train(*begun, "data.classes={1: sour, 5: sweet}")
    assert refused.status == 2 and "come with a head for 1, 5" in refused.err


def test_what_has_no_counterpart_is_not_exported(train, molino, tmp_path):
    assert train("task.pooling=mean", "trainer.max_steps=0").status == 0
    (run,) = directory.list_runs(tmp_path)
    refused = molino("export", f"run={run}", f"to={tmp_path / 'x'}", "format=gpt2")
    assert refused.status == 2 and "task.pooling=mean has no counterpart in transformers" in refused.err


# Mistakes


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("data.columns.label=star",), "data.columns.label=star is no column of reviews.csv; did you mean stars?"),
        (("data.columns.score=review", "task=similarity"), "is no number"),
        (("data.path=nothing.csv",), "data.path=nothing.csv is no file"),
        (("model=kneser_ney",), "KneserNey has no hidden states"),
        (("task.monitor=val/f2",), "task.monitor=val/f2 is not measured; did you mean val/f1?"),
        (("data.batches=windows",), "data.batches=windows has no use for examples"),
        (("weights=data=sst2 model='gpt",), "a quotation mark is not closed"),
        (("weights=data=sst2 weights=latest",), "latest is another run each time"),
        (("-m", "--cfg", "job"), "-m, --cfg and --info each do something else"),
        (("task.new_head=true",), "task.new_head=true: there is no head to forget"),
        (("zero_shot=[sst2]",), "zero_shot asks a language model"),
    ],
)
def test_mistakes_are_one_line(train, home, tmp_path, settings, says):
    (home / "text.txt").write_text("abc " * 100)
    done = train(*(word.format(text=home / "text.txt") for word in settings))
    assert done.status in (2, 3) and says in done.err and done.err.count("\n") == 1, done.err
    assert not directory.list_runs(tmp_path)
