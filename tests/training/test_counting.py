"""Models that are trained by counting, and networks that stand on counts: whole runs."""

import dataclasses
import functools
import itertools
import json
import math
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CPU, small_text
from models.slow_kneser_ney import grams_of, model
from running import assert_same_run, finish, only_run, start, wait_for_step

import molino as package
from molino.data.corpora.local import UserText
from molino.data.counts import PARTS, best_order, count_parts
from molino.data.tokenizers import train_char, train_word
from molino.data.tokens import TokenizedCorpus, prepare
from molino.models import IGNORE_INDEX
from molino.runs import directory
from molino.tasks.language_model import LanguageModel
from molino.trained.load import load_run

MYLAB = Path(__file__).parents[2] / "examples" / "mylab"
SIZES = ("data=text", "data.block_size=16", "data.batch_size=4", *CPU)
NETWORK = ("model.n_layer=1", "model.n_head=2", "model.n_embd=16", "task.on_floor=true")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("counts")
    (home / "mancha.txt").write_text(small_text(3, 500), "utf-8")
    return home


@pytest.fixture(scope="module")
def train(home, molino):
    """Train and return the run; or, where that fails, what is said of it."""

    def train(*settings: str, text: str = "mancha.txt") -> Path | str:
        before = set(directory.list_runs(home / "outputs"))
        places = (f"paths.outputs={home / 'outputs'}", f"paths.cache={home / 'cache'}", f"data.path={home / text}")
        done = molino("train", *SIZES, *places, *settings)
        new = set(directory.list_runs(home / "outputs")) - before
        if done.status:
            assert not new
            return done.err
        return new.pop()

    return train


@pytest.fixture(scope="module")
def counted(train) -> Path:
    return train("model=kneser_ney", "model.order=4")


def slow_loss(home: Path, order: int) -> float:
    """Return the loss of the held-out tenth by another implementation."""
    text = (home / "mancha.txt").read_text("utf-8")
    first, rest = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
    numbers = {character: number for number, character in enumerate(sorted(set(first)), start=3)}
    train, heldout = ([numbers[character] for character in part] for part in (first, rest))
    slow = model(grams_of([train], order), len(numbers) + 3)
    return np.mean([-math.log(slow(gram[:-1], gram[-1])) for gram in grams_of([heldout], order)])


def test_a_counted_model_has_the_loss_of_counting_whatever_windows_it_is_cut_into(home, counted, molino):
    summary = directory.read_summary(counted)
    assert summary["val/loss"] == pytest.approx(slow_loss(home, 4), abs=1e-6)
    assert summary["steps"] == summary["parameters"] == 0 and summary["val/best_loss"] == summary["val/loss"]
    places = (f"paths.outputs={home / 'outputs'}", f"paths.cache={home / 'cache'}", *CPU)
    for stride in (1, 7, 16):
        done = molino("evaluate", f"run={counted}", f"stride={stride}", "floors=false", *places)
        assert re.search(rf"^ loss +{summary['val/loss']:.4f} ", done.out, re.MULTILINE), done.out + done.err


def test_the_order_is_chosen_on_the_last_tenth_of_the_training_split(home, train):
    run = train("model=kneser_ney")
    summary, text = directory.read_summary(run), (home / "mancha.txt").read_text("utf-8")
    training = text[: int(0.9 * len(text))]
    (order_file,) = (home / "cache" / "counts").glob("*/order.json")
    order, inner = summary["floor/kneser_ney_order"], json.loads(order_file.read_text())["losses"]
    assert summary["val/loss"] == pytest.approx(summary["floor/kneser_ney"], abs=1e-6)
    assert summary["val/loss"] == pytest.approx(slow_loss(home, order), abs=1e-6)
    assert min(inner, key=inner.get) == str(order) and len(inner) == 8
    # By the same split of the training text alone, without what is scored.
    tokens = len(training)
    first, last = training[: tokens - tokens // 10], training[tokens - tokens // 10 - 1 :]
    numbers = {character: number for number, character in enumerate(sorted(set(training)), start=3)}
    slow = model(grams_of([[numbers[c] for c in first]], 3), len(numbers) + 3)
    grams = grams_of([[numbers[c] for c in last]], 3)
    assert inner["3"] == pytest.approx(np.mean([-math.log(slow(gram[:-1], gram[-1])) for gram in grams]), rel=1e-9)


def test_a_counted_model_is_used_like_any_other(home, counted, molino, tmp_path):
    moved = shutil.copytree(counted, tmp_path / "moved")
    run = package.load(moved)
    text = small_text(9, 30)
    tokens = run.tokenizer.encode(text).tolist()
    logits_TV = run.logits(text[:16])
    assert torch.allclose(logits_TV.exp().sum(-1), torch.ones(16), atol=1e-5)
    assert run.loss(text[:16]) == pytest.approx(
        -logits_TV.log_softmax(-1)[:-1].gather(1, torch.tensor(tokens[1:16])[:, None]).double().mean().item(), abs=1e-6
    )
    # In windows of 16, each of which reads what is before it.
    network = load_run(moved, "best", torch.device("cpu")).model
    whole = network(torch.tensor(tokens)[None])[0, :-1].gather(1, torch.tensor(tokens[1:])[:, None])
    assert run.loss(text) == pytest.approx(-whole.double().mean().item(), abs=1e-6)
    places = (f"paths.outputs={home / 'outputs'}", *CPU)
    outs = [
        molino("generate", f"run={moved}", "prompt=de la ", "max_new_tokens=60", f"cache={cache}", *places).out
        for cache in ("true", "false")
    ]
    assert outs[0] == outs[1] and len(outs[0]) > 60
    assert molino("explain", f"run={moved}", "prompt=de la", *places).status == 0
    as_gpt2 = (f"to={tmp_path / 'out'}", "format=gpt2", f"paths.outputs={home / 'outputs'}")
    refused = molino("export", f"run={moved}", *as_gpt2)
    assert refused.status == 2 and "Traceback" not in refused.err


@pytest.mark.parametrize("typed", ["trainer.max_steps=5", "optimizer.lr=1", "scheduler=constant", "optimizer=sgd"])
def test_what_says_how_steps_are_taken_is_refused(train, typed):
    assert train("model=kneser_ney", typed) == (
        f"molino: {typed} has no effect: KneserNey is trained by counting, without steps; leave it out\n"
    )


def test_orders_out_of_range_are_refused(train, home):
    assert "model.order=0 is too small" in train("model=kneser_ney", "model.order=0")
    assert "model.order=17 is too large: choose 16 or less" in train("model=kneser_ney", "model.order=17")
    assert "model=kneser_ney is these counts alone" in train("model=kneser_ney", "task.on_floor=true")
    (home / "short.txt").write_text("en un lugar", "utf-8")
    assert "n-grams of 12 need more text" in train(
        "model=kneser_ney", "model.order=12", "data.block_size=4", text="short.txt"
    )


def test_a_sweep_compares_counted_models_with_others(home, molino):
    places = (f"paths.outputs={home / 'sweeps'}", f"paths.cache={home / 'cache'}", f"data.path={home / 'mancha.txt'}")
    sweep = ("-m", *SIZES, *places, "sweep=orders", "model=kneser_ney,bigram", "trainer.max_steps=10")
    done = molino("train", *sweep)
    assert done.status == 0, done.err
    again = molino("train", *sweep)
    assert again.status == 0 and "2 runs: 2 done" in again.out, again.err
    table = molino("results", f"paths.outputs={home / 'sweeps'}").out
    assert "kneser_ney" in table and "bigram" in table and "best" in table


def test_what_training_looks_up_does_not_know_its_part(home, tmp_path):
    """Each part of the training split against a slow model of the other parts."""
    text = prepare(UserText(str(home / "mancha.txt"), 0.9, "utf-8"), functools.partial(train_char), tmp_path)
    tables, contexts_N = count_parts(text, 3)
    tokens, V = text.splits["train"].tokens.tolist(), text.tokenizer.size
    grams = grams_of([tokens], 3)
    bounds = np.linspace(0, len(grams), PARTS + 1).astype(int)
    assert len(contexts_N) == len(tokens)
    for part, (begin, end) in enumerate(itertools.pairwise(bounds)):
        slow = model(grams[:begin] + grams[end:], V)
        places = np.linspace(begin, end - 1, 5).astype(int)
        p_PV = tables.log_probabilities(torch.from_numpy(contexts_N[places].astype(np.int64))).exp()
        for place, p_V in zip(places, p_PV, strict=True):
            wanted = [slow(grams[place][:-1], token) for token in range(V)]
            assert p_V.tolist() == pytest.approx(wanted, rel=1e-4), (part, place)


@pytest.mark.parametrize(("batches", "make"), [("windows", train_char), ("documents", train_word)])
def test_each_token_comes_with_the_context_that_ends_with_it(tmp_path, batches, make):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number:02}.txt").write_text(small_text(number, 1 + number % 4), "utf-8")
    text = prepare(UserText(str(folder), 0.9, "utf-8"), functools.partial(make), tmp_path / "cache")
    tables = count_parts(text, best_order(text))[0]
    train = text.splits["train"]
    draw = LanguageModel(on_floor=True).draw(text, batches, 6, seed=0)
    plain = LanguageModel().draw(text, batches, 6, seed=0)
    rows = np.arange(40)
    fields, wanted = draw(rows).fields, plain(rows).fields
    assert all(np.array_equal(fields[name], wanted[name]) for name in ("tokens", "targets"))
    # Every place of the split, by what is read from the beginning of its document.
    found = torch.zeros(len(train.tokens), dtype=torch.long)
    for begin, end in itertools.pairwise(train.marks.tolist()):
        document = torch.from_numpy(train.tokens[begin : end + 1].astype(np.int64))
        found[begin:end] = tables.find(document[None], len(document))[0, :-1]
    places = LanguageModel().draw(replace_tokens(text, np.arange(len(train.tokens))), batches, 6, seed=0)(rows).fields
    counts = wanted["targets"] != IGNORE_INDEX
    contexts = torch.from_numpy(fields["contexts"][counts].astype(np.int64)) % tables.contexts
    assert torch.equal(contexts, found[torch.from_numpy(places["tokens"][counts].astype(np.int64))])


def replace_tokens(text: TokenizedCorpus, tokens: np.ndarray) -> TokenizedCorpus:
    train = dataclasses.replace(text.splits["train"], tokens=tokens)
    return dataclasses.replace(text, splits={"train": train})


@pytest.mark.parametrize("model", ["gpt", "llama", "bigram"])
def test_a_network_on_counts_begins_with_their_loss_and_learns_more(train, model):
    sizes = () if model == "bigram" else NETWORK[:3]
    start = train(f"model={model}", *sizes, "task.on_floor=true", "trainer.max_steps=0")
    summary = directory.read_summary(start)
    assert summary["val/loss"] == pytest.approx(summary["floor/kneser_ney"], abs=1e-6)
    if model != "bigram":
        steps = ("trainer.max_steps=60", "trainer.val_every=60", "scheduler.warmup_steps=0", "optimizer.lr=1e-2")
        learnt = directory.read_summary(train(f"model={model}", *NETWORK, *steps))
        assert learnt["val/loss"] < summary["val/loss"] - 0.005


@pytest.fixture(scope="module")
def on_counts(train) -> Path:
    return train(*LONG)


# Dropout is on, so that whatever a step draws has to be restored.
LONG = (
    *NETWORK, "model.dropout=0.2", "trainer.max_steps=120", "trainer.log_every=5", "trainer.val_every=40",
    "trainer.checkpoint_every=5", "trainer.sample_tokens=10",
)  # fmt: skip


@pytest.mark.xdist_group("on_counts")
def test_killed_and_resumed_it_is_the_same_run(home, on_counts, tmp_path):
    process = start(tmp_path / "killed", *SIZES, *LONG, f"data.path={home / 'mancha.txt'}")
    wait_for_step(process, tmp_path / "killed", 9)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    finish(start(tmp_path / "killed", "resume=latest"))
    assert_same_run(only_run(tmp_path / "killed"), on_counts)


@pytest.mark.xdist_group("on_counts")
def test_two_processes_learn_what_one_learns(home, train, tmp_path):
    shared = tmp_path / "shared"
    finish(start(shared, *SIZES, *LONG, "model.dropout=0", "hardware=ddp", "hardware.accelerator=cpu",
                 "hardware.devices=2", f"data.path={home / 'mancha.txt'}"))  # fmt: skip
    one, two = (directory.read_summary(run) for run in (train(*LONG, "model.dropout=0"), only_run(shared)))
    assert two["val/loss"] == pytest.approx(one["val/loss"], abs=1e-5)
    assert two["train/loss"] == pytest.approx(one["train/loss"], abs=1e-5)


@pytest.mark.xdist_group("on_counts")
def test_a_run_keeps_its_counts_and_knows_them(home, on_counts, counted, molino, tmp_path):
    places = (f"paths.outputs={home / 'outputs'}", *CPU)
    moved = shutil.copytree(on_counts, tmp_path / "moved")
    figures = package.load(moved).evaluate(overrides=[f"paths.cache={tmp_path / 'cache'}"])
    assert figures["val/loss"] == pytest.approx(directory.read_summary(on_counts)["val/loss"], abs=1e-6)
    outs = [
        molino("generate", f"run={moved}", "prompt=de la ", "max_new_tokens=60", f"cache={cache}", *places).out
        for cache in ("true", "false")
    ]
    assert outs[0] == outs[1] and len(outs[0]) > 60
    shutil.copyfile(counted / directory.COUNTS, moved / directory.COUNTS)
    said = molino("evaluate", f"run={moved}", *places).err
    assert "counts.safetensors is not what best.ckpt was trained with: bring that back" in said
    (moved / directory.COUNTS).unlink()
    assert "has lost its counts.safetensors" in molino("generate", f"run={moved}", "prompt=a", *places).err


def test_whoever_stays_above_counting_is_told_what_goes_below(home, molino, tmp_path):
    places = (f"paths.outputs={tmp_path}", f"paths.cache={home / 'cache'}", f"data.path={home / 'mancha.txt'}")
    done = molino("train", *SIZES, *places, "model=bigram", "trainer.max_steps=5")
    last = done.out.splitlines()[-1]
    assert "molino train data=text" in last and "model=bigram" in last
    assert last.endswith("task.on_floor=true   # stands on counting")
    for settings in (("model=kneser_ney",), ("model=bigram", "trainer.max_steps=5", "task.on_floor=true")):
        assert "stands on counting" not in molino("train", *SIZES, *places, *settings).out


@pytest.mark.parametrize(("model", "told"), [("gpt", True), ("llama", True), ("mylab", False)])
def test_own_models_stand_on_counts_too_and_those_that_can_are_told_what_they_say(train, model, told, monkeypatch):
    if model == "mylab":
        monkeypatch.setenv("MOLINO_ALLOW", "mylab")
        monkeypatch.syspath_prepend(str(MYLAB))
        settings = ("--config-dir", str(MYLAB / "conf"), "model=parallel")
    else:
        settings = (f"model={model}",)
    run = train(*settings, *NETWORK, "trainer.max_steps=0")
    summary = directory.read_summary(run)
    assert summary["val/loss"] == pytest.approx(summary["floor/kneser_ney"], abs=1e-6)
    state = load_run(run, "last", torch.device("cpu")).model.state_dict()
    assert ("told.matrix.weight" in state) == told and "turn.weight" in state


def test_weights_are_those_of_the_whole_network(train):
    steps = ("trainer.max_steps=40", "trainer.val_every=40", "scheduler.warmup_steps=0", "optimizer.lr=1e-2")
    first = train(*NETWORK, *steps, "name=first")
    again = train("task.on_floor=true", f"weights={first}", "trainer.max_steps=0", "name=again")
    wanted = directory.read_summary(first)["val/best_loss"]
    assert directory.read_summary(again)["val/loss"] == pytest.approx(wanted, abs=1e-6)
    # Without the counts they would mean little.
    assert "which would be lost: add task.on_floor=true" in train(
        "task.on_floor=false", f"weights={first}", "name=alone"
    )
    counting = train("model=kneser_ney", "model.order=2", "name=counting")
    assert "was trained by counting and has no weights" in train(f"weights={counting}", "name=nothing")


def test_of_the_text_they_counted_it_is_said_that_they_recite_it(train, home, molino):
    counting = train("model=kneser_ney", "model.order=3", "name=recites")
    for split, said in (("train", True), ("val", False)):
        done = molino("evaluate", f"run={counting}", f"split={split}", f"paths.cache={home / 'cache'}", *CPU)
        assert done.status == 0 and ("made of this very split" in done.out) == said, done.out + done.err


def test_there_is_nothing_to_continue(home, counted, molino):
    places = (f"paths.outputs={home / 'outputs'}", f"paths.cache={home / 'cache'}")
    said = molino("train", f"continue={counted}", "trainer.max_steps=5", *places).err
    assert said.endswith("has nothing that steps could train: there is nothing to continue\n")


@pytest.mark.parametrize("name", ["order.json", "[0-9].safetensors", "[0-9]-parts.safetensors"])
def test_what_is_damaged_in_the_cache_is_said_in_a_line(home, molino, tmp_path, name):
    places = (f"data.path={home / 'mancha.txt'}", f"paths.cache={tmp_path / 'cache'}", f"paths.outputs={tmp_path}")
    train = (*SIZES, *NETWORK, *places, "trainer.max_steps=0")
    assert molino("train", *train).status == 0
    (path,) = (tmp_path / "cache" / "counts").glob(f"*/{name}")
    path.write_bytes(path.read_bytes()[:20])
    done = molino("train", *train)
    assert done.status == 3 and done.err.count("\n") == 1 and "delete that file" in done.err and path.name in done.err
    path.unlink()
    assert molino("train", *train).status == 0
