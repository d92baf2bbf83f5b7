"""evaluate.py against a loop by hand: one prediction at a time, in float64."""

import json
import math

import pytest
import tokenizers
import torch
from conftest import CPU, small_text

import molino as package
from molino.machine.hardware import Hardware
from molino.runs import directory
from molino.trained.load import load_run
from molino.verbs.evaluate import evaluate


def measure(run, split="val", stride=None, checkpoint="last", floors=False, data=None):
    paths = {"outputs": str(run.outputs), "cache": str(run.cache), "mirror": None}
    return evaluate(str(run.path), None, checkpoint, split, stride, floors, Hardware("cpu", threads=1), paths, data)


@torch.no_grad()
def loss_by_hand(run, text, stride):
    """Mean of -ln p(token | the window's tokens before it) over all tokens but the first."""
    ids = tokenizers.Tokenizer.from_file(str(run.path / "tokenizer.json")).encode(text).ids
    model = load_run(run.path, "last", torch.device("cpu")).model.double()
    losses = []
    for place in range(1, len(ids)):
        start = 0
        while place - start > model.block_size:  # the first window that holds this target
            start += stride
        logits = model(torch.tensor([ids[start:place]]))[0, -1]
        losses.append(-logits.log_softmax(0)[ids[place]].item())
    return math.fsum(losses) / len(losses)


@pytest.mark.parametrize("stride", [None, 1, 5])
def test_the_loss_is_that_of_a_loop_by_hand(tiny, stride):
    held_out = tiny.text[int(0.9 * len(tiny.text)) :]
    assert measure(tiny, stride=stride) == pytest.approx(loss_by_hand(tiny, held_out, stride or 16), abs=1e-6)


@pytest.mark.parametrize(("split", "part"), [("train", slice(0, 540)), ("val", slice(540, 600))])
def test_another_corpus_is_read_with_the_runs_tokenizer(tiny, tmp_path, split, part):
    text = small_text(5, 60)[:600]
    (tmp_path / "other.txt").write_text(text, "utf-8")
    node = {"_target_": "molino.data.corpora.local.UserText", "path": str(tmp_path / "other.txt")}
    loss = measure(tiny, split, data={"corpus": node})
    assert loss == pytest.approx(loss_by_hand(tiny, text[part], 16), abs=1e-6)


def test_training_said_the_same(tiny):
    summary = json.loads((tiny.path / "summary.json").read_text())
    assert measure(tiny) == summary["val/loss"]
    assert measure(tiny, checkpoint="best") == summary["val/best_loss"]


def test_documents_are_read_apart(tiny_documents):
    summary = json.loads((tiny_documents.path / "summary.json").read_text())
    assert measure(tiny_documents) == summary["val/loss"]


def test_what_a_person_sees(molino, tiny, tmp_path):
    summary = json.loads((tiny.path / "summary.json").read_text())
    outcome = molino("evaluate", "run=latest", "checkpoint=last", *tiny.settings)
    assert (outcome.status, outcome.err) == (0, "")
    rows = {
        line.split("  ")[0].strip(): line.split("  ", 1)[1].strip() for line in outcome.out.splitlines() if "  " in line
    }
    held_out = tiny.text[int(0.9 * len(tiny.text)) :]
    assert rows["loss"] == f"{summary['val/loss']:.4f} nats a token"
    assert rows["perplexity"] == f"{math.exp(summary['val/loss']):.4f}"
    bits = summary["val/loss"] * (len(held_out) - 1) / math.log(2)
    assert rows["bits per character"] == f"{bits / len(held_out):.4f}"
    assert rows["text"] == f"{len(held_out):,} characters, {len(held_out.encode()):,} bytes"
    assert rows["tokens predicted"] == f"{len(held_out) - 1:,}"
    for name in ("unigram", "bigram"):
        floor = summary[f"floor/{name}"]
        assert rows[f"{name} floor"] == f"{floor:.4f} ({summary['val/loss'] - floor:+.4f})"
    assert rows["Kneser-Ney floor"].startswith(f"{summary['floor/kneser_ney']:.4f} (")
    bits = summary["val/bits_per_byte"]
    for name, row in (("gzip", "gzip -9"), ("bzip2", "bzip2 -9"), ("xz", "xz -9")):
        floor = summary[f"floor/{name}"]
        assert rows[row] == f"{floor:.4f} ({bits - floor:+.4f}) bits per byte"


def test_floors_can_be_left_out_and_the_corpus_exchanged(molino, tiny, tmp_path):
    (tmp_path / "other.txt").write_text(small_text(5, 60) + "€", "utf-8")
    data = ["data=text", f"data.path={tmp_path / 'other.txt'}"]
    outcome = molino("evaluate", f"run={tiny.path}", *tiny.settings, *data, "floors=false")
    assert outcome.status == 0
    assert "floor" not in outcome.out
    assert "other.txt, val split" in outcome.out
    assert "1 of " in outcome.out  # the euro sign is unknown


def test_a_test_split_is_looked_at_when_asked_and_the_looks_are_counted(molino, tiny, tmp_path):
    places = [f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}", *CPU]
    text = ["data=text", f"data.path={tiny.file}", "data.test_fraction=0.1"]
    sizes = ["data.block_size=16", "data.batch_size=4", "model.n_layer=1", "model.n_head=2", "model.n_embd=16"]
    done = molino("train", *text, *sizes, *places, "debug=fast")
    assert done.status == 0 and "split=test" not in done.out, done.err  # which is for the end
    (run,) = directory.list_runs(tmp_path)
    assert not [tag for tag in directory.read_summary(run) if tag.startswith("test/")]
    outcome = molino("evaluate", "run=latest", "split=test", "checkpoint=last", *places)
    assert outcome.status == 0, outcome.err
    summary = directory.read_summary(run)
    assert f"{summary['test/loss']:.4f} nats a token" in outcome.out and summary["test/looks"] == 1
    assert summary["test/step"] == 20 and summary["test/bits_per_byte"] > 0
    with_python = package.load(run, checkpoint="last").evaluate("test", overrides=places[1:2])
    assert with_python["test/loss"] == summary["test/loss"] and directory.read_summary(run)["test/looks"] == 2
    # Another text is no split of the run's own.
    other = molino("evaluate", "run=latest", "split=test", *text, *places)
    assert other.status == 0 and directory.read_summary(run)["test/looks"] == 2
    shown = molino("results", f"paths.outputs={tmp_path}").out
    assert "test/loss" in shown and f"{summary['test/loss']:.4f}" in shown and "looked at 2 times, in 1 run" in shown
