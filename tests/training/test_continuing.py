"""From one run to the next: trained for longer, begun from another's weights, no step at all, lengths in epochs."""

import json
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
import yaml
from conftest import CPU, small_text
from running import finish, metrics, only_run, start, wait_for_step, weights

from molino.base.errors import ConfigError
from molino.configuration.origins import check_continued, find_run, force
from molino.data.tokenizers import Tokenizer
from molino.runs import directory
from molino.trained.load import load_run

SIZES = ("data.block_size=16", "data.batch_size=4", "model.n_layer=1", "model.n_head=2", "model.n_embd=16")
# Intervals that do not divide the lengths.
PLAN = ("trainer.log_every=4", "trainer.val_every=10", "trainer.checkpoint_every=6", "trainer.sample_tokens=8")
GPT = ("model=gpt", "model.dropout=0.2", "scheduler=constant", "scheduler.warmup_steps=5")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("continuing")
    (folder / "text.txt").write_text(small_text(0, 400), "utf-8")
    (folder / "other.txt").write_text(small_text(1, 300) + "¿€?", "utf-8")
    return folder


@pytest.fixture(scope="module")
def places(home):
    return (f"paths.outputs={home / 'outputs'}", f"paths.cache={home / 'cache'}")


@pytest.fixture(scope="module")
def train(molino, home, places):
    """Train by these settings; return the run."""

    def run(name, *settings):
        done = molino("train", *CPU, *places, f"name={name}", *settings)
        assert done.status == 0, done.err
        return directory.find(name, home / "outputs")

    return run


@pytest.fixture(scope="module")
def fresh(train, home):
    """The same for a run of its own on the text."""
    return lambda name, *settings: train(
        name, "data=text", f"data.path={home / 'text.txt'}", *SIZES, *PLAN, *GPT, *settings
    )


@pytest.fixture(scope="module")
def short(fresh):
    return fresh("short", "trainer.max_steps=30")


@pytest.fixture(scope="module")
def long(fresh):
    return fresh("long", "trainer.max_steps=70")


def test_a_run_that_is_continued_is_the_run_that_was_longer_from_the_start(train, short, long):
    more = train("more", f"continue={short}", "trainer.max_steps=70")
    # What TensorBoard has of the first steps is the parent's.
    assert metrics(more)[:1] == metrics(long)[:1]
    extra = [row["step"] for row in metrics(more) if row["step"] not in {row["step"] for row in metrics(long)}]
    assert extra == [] and metrics(more)[-1] == metrics(long)[-1]
    expected = weights(long)
    assert all(torch.equal(value, expected[name]) for name, value in weights(more).items())
    best, wanted = (load_run(run, "best", torch.device("cpu")) for run in (more, long))
    assert best.step == wanted.step
    assert (more / "samples.txt").read_text() == (long / "samples.txt").read_text()
    assert directory.read_config(more)["continue"] == str(short)
    summary, whole = (directory.read_summary(run) for run in (more, long))
    timings = ("seconds", "tokens_per_second", "train/tokens_per_second")
    assert all(summary[key] == value for key, value in whole.items() if key not in timings)


def test_it_may_look_up_at_other_steps(train, short, fresh):
    every = ("trainer.val_every=35", "trainer.checkpoint_every=5", "trainer.log_every=7")
    more = train("seldom", f"continue={short}", "trainer.max_steps=71", *every)
    long = fresh("seldom_from_the_start", "trainer.max_steps=71", *every)
    expected = weights(long)
    assert all(torch.equal(value, expected[name]) for name, value in weights(more).items())
    new = [row for row in metrics(more) if int(row["step"]) > 30]
    assert [row["step"] for row in new if row.get("val/loss")] == ["35", "70", "71"]
    assert new == [{k: v for k, v in row.items() if k in new[0]} for row in metrics(long) if int(row["step"]) > 30]


def test_a_killed_one_goes_on(home, short, long, tmp_path):
    settings = (f"continue={short}", "trainer.max_steps=70", "trainer.checkpoint_every=2", *CPU)
    process = start(tmp_path / "x", *settings, f"paths.cache={home / 'cache'}")
    wait_for_step(process, tmp_path / "x", 3)
    process.kill()
    process.wait()
    run = only_run(tmp_path / "x")
    assert not directory.is_done(run)
    finish(start(tmp_path / "x", "resume=latest", f"paths.cache={home / 'cache'}"))
    expected = weights(long)
    assert all(torch.equal(value, expected[name]) for name, value in weights(run).items())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ((), "yes, exactly"),
        # Half a cosine has ended at a tenth where it would have been far from its end.
        (("scheduler=cosine", "scheduler.warmup_steps=5"), "no: the schedule was at 1 of optimizer.lr in step 30, not"),
        (("optimizer.lr=1e-4",), "no: optimizer.lr was 0.003 and is 0.0001"),
        (("hardware=cpu_bf16",), "no: hardware.precision was 32-true and is bf16-mixed"),
        (("scheduler.warmup_steps=0",), "no: the schedule was at 0.8 of optimizer.lr in step 4, not at 1"),
    ],
)
def test_it_says_what_differs(molino, places, short, settings, says):
    done = molino("train", *places, f"continue={short}", "trainer.max_steps=31", "name=differs", *settings)
    assert done.status == 0, done.err
    (told,) = [line for line in done.out.splitlines() if "as from the start" in line]
    assert says in " ".join(told.split()), told


def test_a_new_rate_counts(train, short):
    more = train("slower", f"continue={short}", "trainer.max_steps=32", "optimizer.lr=1e-5")
    assert float(metrics(more)[-1]["train/learning_rate"]) == 1e-5


def test_it_can_be_swept_and_given_again(molino, home, places, short):
    command = ("-m", *places, f"continue={short}", "sweep=ways", "trainer.max_steps=34", "optimizer.lr=1e-3,1e-4", *CPU)
    done = molino("train", *command)
    assert done.status == 0 and "2 done" in done.out, done.err
    again = molino("train", *command)
    assert again.status == 0 and "2 runs: 2 done" in again.out, again.out + again.err
    shown = molino("results", "ways", places[0], "format=csv", "metric=val/loss").out.splitlines()
    assert "optimizer.lr" in shown[0].split(","), shown
    assert len(shown) == 3


@pytest.mark.parametrize(
    ("settings", "status", "says"),
    [
        (("seed=1",), 2, "seed=1 cannot be changed in a run that is continued: length, intervals, schedule"),
        (("model=gpt",), 2, "model=gpt cannot be changed"),
        (("data.batch_size=2",), 2, "data.batch_size=2 cannot be changed"),
        (("+callbacks.x._target_=y",), 2, "+callbacks.x._target_=y cannot be changed"),
        (("weights=x",), 2, "weights='x' cannot be changed"),
        (("resume=x",), 2, "cannot be changed in a run that is resumed"),
        ((), 2, "has trained for 30 steps already, and 30 are no more: say how many with trainer.max_steps, or"),
        (("trainer.max_steps=20",), 2, "and 20 are no more"),
        (
            ("trainer.max_steps=40", "scheduler.gamma=1"),
            2,
            "scheduler.gamma is not a setting. Known here: warmup",
        ),
        (("trainer.max_steps=40", "trainer.epochs=2"), 2, "are two lengths"),
        (("trainer.max_steps=40", "hardware.threads=0"), 2, "hardware.threads=0 must be at least 1"),
    ],
)
def test_what_makes_another_run_is_refused(molino, home, places, short, settings, status, says):
    before = directory.list_runs(home / "outputs")
    done = molino("train", *places, f"continue={short}", *settings)
    assert done.status == status and says in done.err and done.err.count("\n") == 1, done.err
    assert directory.list_runs(home / "outputs") == before


def test_a_run_that_is_not_finished_or_was_stopped_is_not_continued(molino, places, short, tmp_path):
    shutil.copytree(short, tmp_path / "cut")
    (tmp_path / "cut" / "summary.json").unlink()
    done = molino("train", *places, f"continue={tmp_path / 'cut'}", "trainer.max_steps=70")
    assert done.status == 4 and "cut has not finished, so there is nothing to continue: go on with " in done.err
    shutil.copytree(short, tmp_path / "stopped")
    config = directory.read_config(short)
    config["trainer"]["max_steps"] = 50
    (tmp_path / "stopped" / "config.yaml").write_text(yaml.safe_dump(config))
    done = molino("train", *places, f"continue={tmp_path / 'stopped'}", "trainer.max_steps=70")
    assert done.status == 4 and "stopped was stopped early, at step 30 of 50, and would be again" in done.err
    done = molino("train", *places, "continue=nothing", "trainer.max_steps=70")
    assert done.status == 4 and "there is no run nothing" in done.err


@pytest.mark.parametrize("setting", ["continue=", "weights=", "resume=", "++continue="])
def test_a_run_that_is_not_named_is_none(molino, tmp_path, setting):
    """As where a shell's variable is empty: the default run would be trained in its place."""
    done = molino("train", setting, f"paths.outputs={tmp_path / 'none'}")
    assert done.status == 2 and "names no run: add its path, its name, or latest" in done.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("content", "says"), [(None, "there is no checkpoint"), (b"PK", "is damaged")])
def test_a_parent_has_its_best_checkpoint(molino, places, short, tmp_path, content, says):
    shutil.copytree(short, tmp_path / "copy")
    best = tmp_path / "copy" / "checkpoints" / "best.ckpt"
    best.unlink() if content is None else best.write_bytes(content)
    done = molino("train", *places, f"continue={tmp_path / 'copy'}", "trainer.max_steps=70")
    assert done.status == 4 and says in done.err and done.err.count("\n") == 1, done.err


def test_runs_with_one_tokenizer_are_compared_wherever_it_came_from(train, molino, home, long, tmp_path):
    """The run that made it, one that begins from that one's weights, and one from a copy of it."""
    shutil.copytree(long, tmp_path / "copy")
    text = ("data=text", f"data.path={home / 'text.txt'}", "trainer.max_steps=1")
    runs = [train(f"of_{n}", *text, f"weights={run}") for n, run in enumerate((long, tmp_path / "copy"))]
    done = molino("results", str(long), *map(str, runs), "format=csv", f"paths.outputs={home / 'outputs'}")
    assert done.out.count(",best,") == 1, done.out


def test_what_is_said_of_a_group_is_said_of_the_runs_choice():
    line = ["continue=x", "scheduler.gamma=1", "scheduler=step", "trainer.max_steps=2", "paths.cache=a"]
    assert force(line) == ["continue=x", "++scheduler.gamma=1", *line[2:]]
    assert force(line[1:]) == line[1:] and force(["continue=null", *line[1:]]) == ["continue=null", *line[1:]]
    check_continued(force(line))
    check_continued(["seed=1"])
    with pytest.raises(ConfigError, match=r"^~model\.x cannot be changed"):
        check_continued([*line, "~model.x"])


# Weights of a run


def test_weights_of_a_run_bring_its_model_and_its_tokenizer_to_another_corpus(train, home, long):
    other = (f"data.path={home / 'other.txt'}", "data=text", f"weights={long}")
    run = train("begun", *other, "trainer.max_steps=0")
    assert directory.read_config(run)["model"] == directory.read_config(long)["model"]
    assert directory.read_config(run)["data"]["block_size"] == 16
    assert Tokenizer.load(run / "tokenizer.json").size == Tokenizer.load(long / "tokenizer.json").size
    best = load_run(long, "best", torch.device("cpu"))
    assert all(torch.equal(value, best.model.state_dict()[name[6:]]) for name, value in weights(run).items())
    # The loss before training is what the other run has learnt of this text, computed here one window at a time.
    text = (home / "other.txt").read_text("utf-8")
    ids = torch.tensor(best.tokenizer.encode(text[math.floor(len(text) * 0.9) :]).astype("int64"))
    total = 0.0
    for first in range(0, len(ids) - 1, 16):
        window = ids[first : first + 17]
        with torch.no_grad():
            logits_TV = best.model(window[None, :-1])[0].double()
        total += F.cross_entropy(logits_TV, window[1:], reduction="sum").item()
    assert directory.read_summary(run)["val/loss"] == pytest.approx(total / (len(ids) - 1), abs=1e-6)


def test_rows_of_special_tokens_that_came_later_are_as_the_seed_makes_them(train, home, long, tmp_path):
    tokenizer = json.loads((long / "tokenizer.json").read_text("utf-8"))
    size = Tokenizer.load(long / "tokenizer.json").size
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokenizer["added_tokens"] += [{"id": size, "content": "<start>", **special}]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    other = ("data=text", f"data.path={home / 'other.txt'}", "data/tokenizer=pretrained", f"weights={long}")
    run = train("extended", *other, f"data.tokenizer.path={tmp_path / 'tokenizer.json'}", "trainer.max_steps=0")
    best = load_run(long, "best", torch.device("cpu")).model.state_dict()
    new = {name.removeprefix("model."): value for name, value in weights(run).items()}
    grown = [name for name in new if new[name].shape != best[name].shape]
    assert grown and all(torch.equal(new[name][:size], best[name]) for name in grown)
    assert all(new[name][size:].abs().sum() > 0 for name in grown)
    assert all(torch.equal(new[name], best[name]) for name in new if name not in grown)


@pytest.mark.parametrize(
    ("settings", "status", "says"),
    [
        (("model=bigram",), 2, "model=bigram is said against weights="),
        (("model.n_layer=3",), 2, "model.n_layer=3 is said against weights="),
        (("data/tokenizer=word",), 2, "data/tokenizer=word is said against weights="),
        (("experiment=quijote_gpt",), 2, "experiment=quijote_gpt is said against weights="),
        (("data.block_size=32",), 2, "data.block_size=32 is beyond the model's context of 16"),
        (("data/tokenizer=pretrained", "data.tokenizer.path={other}"), 4, "data.tokenizer does not go with weights="),
    ],
)
def test_what_is_said_against_weights_is_refused(molino, train, home, places, long, tmp_path, settings, status, says):
    tokenizer = json.loads((long / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    last, first = list(vocabulary)[-1], list(vocabulary)[-2]
    vocabulary[last], vocabulary[first] = vocabulary[first], vocabulary[last]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    settings = [each.format(other=tmp_path / "tokenizer.json") for each in settings]
    before = directory.list_runs(home / "outputs")
    data = () if any("experiment" in each for each in settings) else ("data=text", f"data.path={home / 'other.txt'}")
    done = molino("train", *places, f"weights={long}", *data, *settings, "trainer.max_steps=1", *CPU)
    assert done.status == status and says in done.err and done.err.count("\n") == 1, done.err
    assert directory.list_runs(home / "outputs") == before


def test_a_run_is_told_from_a_folder_of_weights(home, long, tmp_path):
    outputs = str(home / "outputs")
    assert find_run(str(long), outputs) == long and find_run("long", outputs) == long
    assert find_run(long.name, outputs) == long and find_run("latest", outputs) is not None
    (tmp_path / "config.json").write_text("{}")
    assert find_run(str(tmp_path), outputs) is None and find_run("gpt2", outputs) is None


# Lengths


def test_no_step_at_all_measures_and_samples_what_has_not_been_trained(train, fresh, molino, places, home, long):
    run = fresh("untrained", "trainer.max_steps=0")
    summary = directory.read_summary(run)
    assert summary["steps"] == summary["best_step"] == 0 and "train/loss" not in summary
    assert 0 < summary["val/loss"] < 10 and "--- step 0 ---" in (run / "samples.txt").read_text()
    done = molino("evaluate", f"run={run}", "floors=false", *places, *CPU)
    assert f"{summary['val/loss']:.4f}" in done.out
    # It is a run like others: in tables, and to be continued.
    assert "untrained" in molino("results", str(run), places[0], "format=json").out
    more = train("from_nothing", f"continue={run}", "trainer.max_steps=70")
    expected = weights(long)
    assert all(torch.equal(value, expected[name]) for name, value in weights(more).items())
    assert metrics(more)[0]["step"] == "0"


def test_epochs_of_windows_are_counted_in_tokens(fresh, home, molino, places):
    run = fresh("epochs", "trainer.epochs=0.5")
    tokens = math.floor(len((home / "text.txt").read_text("utf-8")) * 0.9)
    steps = math.ceil(0.5 * tokens / (16 * 4))
    assert directory.read_summary(run)["steps"] == steps
    assert directory.read_config(run)["trainer"]["max_steps"] == steps
    # In a sweep given again it is the same run.
    command = ("-m", "data=text", f"data.path={home / 'text.txt'}", *SIZES, "model=bigram", "trainer.epochs=0.1,0.2")
    command = [each for each in command if not each.startswith("model.n")]
    done = molino("train", *command, "sweep=lengths", *places, *CPU)
    assert done.status == 0 and "2 done" in done.out, done.err
    again = molino("train", *command, "sweep=lengths", *places, *CPU)
    assert again.status == 0 and "2 runs: 2 done" in again.out, again.out + again.err


def test_epochs_of_documents_are_counted_in_documents(molino, tiny_documents, tmp_path):
    documents = math.floor(40 * 0.9)
    settings = ("data=text", f"data.path={tiny_documents.file}", "data.batches=documents", "data.batch_size=5")
    settings = (*settings, "data.block_size=8", "model=bigram", f"paths.outputs={tmp_path}", *CPU)
    done = molino("train", *settings, f"paths.cache={tiny_documents.cache}", "trainer.epochs=3")
    assert done.status == 0, done.err
    steps = math.ceil(3 * documents / 5)
    assert f"{steps} steps of 40 tokens: {steps * 5 / documents:.1f} epochs" in done.out
    assert directory.read_summary(only_run_of(tmp_path))["steps"] == steps


def only_run_of(outputs):
    (run,) = directory.list_runs(outputs)
    return run


@pytest.mark.parametrize("settings", [("trainer.max_steps=5", "trainer.epochs=1"), ("trainer.epochs=-1",)])
def test_two_lengths_and_negative_ones_are_refused(molino, tiny, tmp_path, settings):
    done = molino("train", "data=text", f"data.path={tiny.file}", f"paths.outputs={tmp_path / 'none'}", *settings)
    assert done.status == 2 and done.err.count("\n") == 1 and not (tmp_path / "none").exists()
