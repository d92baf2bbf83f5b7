"""Whole runs: killed and resumed, interrupted, shared by processes, gone wrong."""

import json
import random
import re
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from conftest import small_text
from running import assert_same_run, finish, free_port, metrics, only_run, start, tensorboard, wait_for_step, weights

from molino.runs import directory
from molino.runs.status import exclusive
from molino.trained.load import load_checkpoint
from molino.training.checkpoints import Checkpoints

# Dropout, a schedule and accumulation are on, so that whatever a step draws or counts has to be restored.
SMALL = (
    "data=text", "data.block_size=16", "data.batch_size=4", "model.n_layer=1", "model.n_head=2", "model.n_embd=16",
    "model.dropout=0.2", "scheduler=wsd", "scheduler.warmup_steps=10", "hardware=cpu", "hardware.threads=1",
    "trainer.accumulate=2", "trainer.log_every=5", "trainer.val_every=25", "trainer.checkpoint_every=10",
    "trainer.sample_tokens=10",
)  # fmt: skip
LONG = (*SMALL, "trainer.max_steps=300")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("text") / "mancha.txt"
    file.write_text(small_text(3, 2000), "utf-8")
    return file


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, molino, text) -> Path:
    """A run that nothing happened to."""
    home = tmp_path_factory.mktemp("undisturbed")
    places = (f"paths.outputs={home / 'outputs'}", f"paths.cache={home / 'cache'}")
    done = molino("train", *LONG, f"data.path={text}", *places)
    assert done.status == 0, done.err
    return only_run(home)


@pytest.mark.xdist_group("undisturbed")
def test_killed_at_any_moment_a_resumed_run_is_the_same_run(tmp_path, text, undisturbed):
    moments = random.Random(time.time_ns())  # really at random: every run of the suite tries other moments
    killed, home = 0, tmp_path / "killed"
    process = start(home, *LONG, f"data.path={text}")
    for _ in range(3):
        wait_for_step(process, home, moments.randint(1, 8))
        time.sleep(moments.random() * 0.03)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        process.communicate()
        process = start(home, "resume=latest")
    assert finish(process) == ""
    assert killed >= 2
    assert_same_run(only_run(home), undisturbed)
    assert not list(only_run(home).rglob("*.tmp"))


@pytest.mark.xdist_group("undisturbed")
def test_a_signal_ends_the_block_saves_and_says_how_to_go_on(tmp_path, text, undisturbed):
    home = tmp_path / "stopped"
    process = start(home, *LONG, f"data.path={text}")
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        wait_for_step(process, home, 5)
        process.send_signal(number)
        message = finish(process, status)
        run = only_run(home)
        again = f"resume={run.relative_to(home)}"
        assert re.search(rf"saved; go on with \S*molino train {re.escape(again)}\n", message), message
        assert load_checkpoint(run / directory.LAST)["global_step"] % 5 == 0 and not directory.is_done(run)
        process = start(home, again)
    finish(process)
    assert_same_run(run, undisturbed)


def interrupt_at(step: int, monkeypatch) -> list[int]:
    """Send a run SIGINT while the validation after `step` ends; return the steps at which it was sent."""
    told = []

    def interrupt(checkpoints, trainer, module):
        if trainer.global_step == step:
            checkpoints.signal = signal.SIGINT
            told.append(trainer.global_step)
        on_validation_end(checkpoints, trainer, module)

    on_validation_end = Checkpoints.on_validation_end
    monkeypatch.setattr(Checkpoints, "on_validation_end", interrupt)
    return told


def test_a_signal_after_the_last_step_changes_nothing(molino, text, tmp_path, monkeypatch):
    told = interrupt_at(20, monkeypatch)
    settings = [s for s in SMALL if not s.startswith(("trainer", "scheduler"))]
    places = (f"paths.outputs={tmp_path / 'outputs'}", f"paths.cache={tmp_path}")
    done = molino("train", *settings, "debug=fast", f"data.path={text}", *places)
    assert done.status == 0 and told == [20] and directory.is_done(only_run(tmp_path)), done.err


def test_two_processes_share_a_batch_and_train_the_same_model(molino, tmp_path, text):
    settings = (*SMALL, "model.dropout=0.0", f"data.path={text}", "trainer.max_steps=50")
    places = (f"paths.outputs={tmp_path / 'one' / 'outputs'}", f"paths.cache={tmp_path / 'cache'}")
    assert molino("train", *settings, *places).status == 0
    finish(start(tmp_path / "two", *settings, "hardware=ddp", "hardware.accelerator=cpu"))
    one, two = only_run(tmp_path / "one"), only_run(tmp_path / "two")
    for mine, wanted in zip(metrics(two), metrics(one), strict=True):
        assert mine.keys() == wanted.keys()
        for tag in mine:
            assert (mine[tag] == wanted[tag] == "") or float(mine[tag]) == pytest.approx(float(wanted[tag]), rel=1e-4)
    expected = weights(one)
    for name, value in weights(two).items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3)
    assert directory.is_done(two)


def test_a_run_of_one_process_goes_on_with_two(molino, tmp_path, text, monkeypatch):
    """Both train what the first settled: the second does not read how the run began."""
    settings = [s for s in SMALL if not s.startswith(("trainer", "scheduler", "model.dropout"))]
    places = (f"data.path={text}", f"paths.cache={tmp_path / 'cache'}")
    undisturbed = molino("train", *settings, "debug=fast", *places, f"paths.outputs={tmp_path / 'one' / 'outputs'}")
    assert undisturbed.status == 0, undisturbed.err
    interrupt_at(10, monkeypatch)
    stopped = molino("train", *settings, "debug=fast", *places, f"paths.outputs={tmp_path / 'two' / 'outputs'}")
    assert stopped.status == 130 and "SIGINT after step 10" in stopped.err
    finish(start(tmp_path / "two", "resume=latest", "hardware=ddp", "hardware.accelerator=cpu"))
    one, two = only_run(tmp_path / "one"), only_run(tmp_path / "two")
    assert directory.read_summary(two)["val/loss"] == pytest.approx(directory.read_summary(one)["val/loss"], rel=1e-4)


def test_processes_that_do_not_meet_are_one_line(molino, tiny, tmp_path, monkeypatch):
    """As on the first of two machines of which the other never starts; but it does not wait for half an hour."""
    meet = torch.distributed.init_process_group
    seconds = {"timeout": timedelta(seconds=1)}
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *a, **given: meet(*a, **given | seconds))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    two = ("hardware=ddp", "hardware.accelerator=cpu", "hardware.devices=1", "hardware.num_nodes=2")
    places = (f"data.path={tiny.file}", f"paths.cache={tiny.cache}", f"paths.outputs={tmp_path}")
    done = molino("train", "data=text", *two, "model=bigram", "debug=fast", *places)
    assert done.status == 5 and done.err.startswith("molino: the processes of the run did not find each other: Timed")
    assert done.err.count("\n") == 1 and not directory.is_done(directory.find("latest", tmp_path))


def test_a_run_that_began_from_weights_goes_on_without_them(molino, tiny, text, tmp_path, monkeypatch):
    source = tmp_path / "source"
    assert molino("export", f"run={tiny.path}", f"to={source}").status == 0
    begin = ("model=pretrained", f"model.source={source}", "data=text", f"data.path={text}", "data.block_size=16")
    begin = ("train", *begin, "data.batch_size=4", "debug=fast", "hardware=cpu", f"paths.cache={tmp_path / 'cache'}")
    one, two = tmp_path / "one", tmp_path / "two"
    assert molino(*begin, f"paths.outputs={one / 'outputs'}").status == 0
    interrupt_at(10, monkeypatch)
    assert molino(*begin, f"paths.outputs={two / 'outputs'}").status == 130
    monkeypatch.undo()
    shutil.rmtree(source)
    done = molino("train", "resume=latest", f"paths.outputs={two / 'outputs'}", f"paths.cache={tmp_path / 'cache'}")
    assert done.status == 0, done.err
    assert_same_run(only_run(two), only_run(one))


def test_a_run_killed_before_its_first_checkpoint_starts_again(molino, tiny, tmp_path):
    run = tmp_path / "outputs" / "early"
    shutil.copytree(tiny.path, run)
    shutil.rmtree(run / "checkpoints")
    (run / "summary.json").unlink()
    # TensorBoard orders files of the same second by their names alone.
    (events,) = run.glob("events*")
    events.rename(run / "events.out.tfevents.1000000000.earlier")
    done = molino("train", f"resume={run}", f"paths.cache={tiny.cache}", f"paths.outputs={tmp_path}")
    assert done.status == 0, done.err
    assert_same_run(run, tiny.path)


def test_a_resumed_run_keeps_its_settings(molino, tiny, tmp_path):
    (tmp_path / "config.yaml").write_bytes((tiny.path / "config.yaml").read_bytes())
    # The second is no setting of today's default optimizer, but may be one of the run's.
    for setting in ("optimizer.lr=1", "optimizer.muon_lr=1"):
        done = molino("train", f"resume={tmp_path}", setting, *tiny.settings)
        assert done.status == 2 and f"{setting} cannot be changed in a run that is resumed" in done.err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: edit(run / "config.yaml", "optimizer:", "optimiser:"), "config.yaml is damaged: optimiser is not"),
        (lambda run: edit(run / "config.yaml", "  corpus:", "  corpse:"), "says nothing of data.corpus"),
        (lambda run: edit(run / "config.yaml", "max_steps: 20", "max_steps: 10"), "step 20, but trainer.max_steps=10"),
        (lambda run: (run / "metrics.csv").write_text("seed"), "metrics.csv is damaged (it has no column of steps)"),
        (lambda run: (run / "metrics.csv").write_bytes(b"step\n\xff"), "metrics.csv is damaged ('utf-8' codec"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_not_resumed(molino, tiny, tmp_path, change, says):
    run = Path(shutil.copytree(tiny.path, tmp_path / "outputs" / "run"))
    (run / "summary.json").unlink()
    change(run)
    done = molino("train", f"resume={run}", f"paths.cache={tiny.cache}", f"paths.outputs={tmp_path}")
    assert done.status == 4 and says in done.err and done.err.count("\n") == 1, done.err


def edit(file: Path, old: str, new: str) -> None:
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_a_run_is_not_resumed_on_another_text(molino, text, tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(text.read_bytes())
    places = (f"paths.outputs={tmp_path / 'outputs'}", f"paths.cache={tmp_path}")
    assert molino("train", *SMALL, "debug=fast", f"data.path={file}", *places).status == 0
    (run,) = directory.list_runs(tmp_path / "outputs")
    (run / "summary.json").unlink()
    file.write_text(small_text(4, 2000), "utf-8")
    done = molino("train", "resume=latest", *places)
    assert done.status == 4 and "a text or with a tokenizer that has changed" in done.err


def test_a_run_that_another_process_trains_is_left_alone(molino, tiny, tmp_path):
    (tmp_path / "config.yaml").write_bytes((tiny.path / "config.yaml").read_bytes())
    with exclusive(tmp_path):
        done = molino("train", f"resume={tmp_path}", *tiny.settings)
    assert done.status == 4 and "is being trained by another process" in done.err


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_a_good_checkpoint(molino, text, tmp_path):
    settings = [s for s in SMALL if not s.startswith("scheduler")]
    explode = (
        "optimizer=sgd",
        "optimizer.lr=1e20",
        "scheduler=constant",
        "scheduler.warmup_steps=0",
        "trainer.clip=null",
    )
    done = molino(
        "train", *settings, f"data.path={text}", *explode, f"paths.outputs={tmp_path}", "trainer.max_steps=50"
    )
    assert done.status == 6 and "the loss became" in done.err and "optimizer.lr" in done.err
    (run,) = directory.list_runs(tmp_path)
    assert not directory.is_done(run)
    if (run / directory.LAST).exists():
        assert all(torch.isfinite(value).all() for value in weights(run).values())


def test_a_failing_run_of_a_sweep_is_named_and_does_not_stop_the_others(molino, text, tmp_path):
    settings = [s for s in SMALL if not s.startswith(("trainer", "scheduler"))]
    places = (f"paths.outputs={tmp_path}", f"paths.cache={tmp_path}")
    done = molino("train", "-m", *settings, f"data.path={text}", "debug=fast", *places, "optimizer.lr=-1,0.1")
    assert done.status == 2 and "molino: optimizer.lr=-1: optimizer: Invalid learning rate: -1\n" in done.err
    (run,) = directory.list_runs(tmp_path / "sweeps")
    assert run.name == "optimizer.lr=0.1" and directory.is_done(run)


@pytest.mark.parametrize("every", [5, 10, 50])
def test_early_stopping_stops_at_the_validation_that_is_no_better(molino, text, tmp_path, every):
    settings = [s for s in SMALL if not s.startswith(("trainer", "scheduler"))]
    plan = (
        f"trainer.log_every={every}",
        "trainer.val_every=10",
        "trainer.checkpoint_every=10",
        "trainer.max_steps=200",
    )
    stop = "{_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss, patience: 1, min_delta: 10}"
    places = (f"paths.outputs={tmp_path}", f"paths.cache={tmp_path}")
    done = molino("train", *settings, *plan, f"data.path={text}", f"+callbacks.stop={stop}", *places)
    assert done.status == 0, done.err
    run = directory.find("latest", tmp_path)
    summary, before = directory.read_summary(run), metrics(run)
    # The first validation sets the mark, the second is not better by 10.
    assert summary["steps"] == 20 and summary["best_step"] == 20
    assert summary["tokens_per_second"] == summary["train/tokens_per_second"] > 0 and summary["train/loss"] > 0
    # A run that was killed between its last checkpoint and its summary remembers that it had stopped.
    (run / "summary.json").unlink()
    done = molino("train", "resume=latest", *places)
    assert done.status == 0, done.err
    again = directory.read_summary(run)
    assert again.pop("seconds") > summary.pop("seconds") and again == summary and metrics(run) == before


def test_a_sweep_trains_every_choice_in_a_directory_that_names_it(molino, text, tmp_path):
    done = molino("train", "-m", *SMALL, f"data.path={text}", "debug=fast", f"paths.outputs={tmp_path}", "seed=0,1")
    assert done.status == 0, done.err
    runs = directory.list_runs(tmp_path / "sweeps")
    assert [run.name for run in runs] == ["seed=0", "seed=1"] and all(map(directory.is_done, runs))
    assert runs[0].parent == runs[1].parent
    losses = {directory.read_summary(run)["val/loss"] for run in runs}
    assert len(losses) == 2


def test_one_batch_can_be_learnt_by_heart(molino, text, tmp_path):
    settings = [s for s in SMALL if not s.startswith(("scheduler", "trainer", "model.dropout"))]
    more = ("debug=overfit", "model.n_embd=64", "optimizer.lr=1e-2", f"paths.outputs={tmp_path}")
    done = molino("train", *settings, f"data.path={text}", *more)
    assert done.status == 0, done.err
    (run,) = directory.list_runs(tmp_path)
    assert directory.read_summary(run)["train/loss"] < 0.3


def test_the_profiler_writes_a_trace(molino, text, tmp_path):
    settings = [s for s in SMALL if not s.startswith(("scheduler", "trainer"))]
    done = molino("train", *settings, f"data.path={text}", "debug=profiler", f"paths.outputs={tmp_path}")
    assert done.status == 0, done.err
    (run,) = directory.list_runs(tmp_path)
    names = {event.get("name") for event in json.loads((run / "trace.json").read_text())["traceEvents"]}
    assert "aten::embedding" in names and "ui.perfetto.dev" in done.out


def test_a_slow_validation_says_how_far_it_is(molino, text, tmp_path, monkeypatch):
    monkeypatch.setattr("molino.training.progress.SECONDS_BETWEEN_LINES", -1.0)
    monkeypatch.setattr("molino.data.batches.EVALUATION_TOKENS", 1000)
    settings = [s for s in SMALL if not s.startswith(("trainer", "scheduler"))]
    places = (f"paths.outputs={tmp_path / 'outputs'}", f"paths.cache={tmp_path}")
    done = molino("train", *settings, "debug=fast", f"data.path={text}", *places)
    assert "step 10/20 | held-out text: 33%\n" in done.out and "step 10/20 | held-out text: 100%\n" in done.out


def test_summary_tensorboard_and_csv_agree(tiny):
    summary, events, rows = directory.read_summary(tiny.path), tensorboard(tiny.path), metrics(tiny.path)
    for tag in ("val/loss", "val/perplexity", "val/bits_per_character", "train/loss", "train/gradient_norm"):
        assert events[tag][-1] == (20, pytest.approx(summary[tag], rel=1e-6))
        assert float(rows[-1][tag]) == summary[tag]
    assert summary["floor/unigram"] > summary["floor/kneser_ney"] and summary["tokens"] == 20 * 4 * 16
