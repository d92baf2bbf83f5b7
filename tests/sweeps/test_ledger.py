"""A sweep given again: what is done is skipped, what was cut off goes on, what failed is tried again."""

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import CPU, ROOT, small_text
from sweeping import SMALL, places, run_of, runs_of, sweep_dir, weights

from molino.base.errors import SweepFailed
from molino.base.messages import typed
from molino.configuration.request import Request
from molino.runs import directory
from molino.runs.status import CUT_OFF, DONE, STATUS, enqueue, fail, read_status
from molino.sweeps.ledger import conclude


def stamps(sweep: Path) -> dict[str, int]:
    """When the weights of each run were written."""
    return {run.name: (run / directory.LAST).stat().st_mtime_ns for run in runs_of(sweep)}


def test_the_same_command_trains_what_is_new_and_skips_what_is_done(molino, tiny, tmp_path):
    sweep = ("train", "-m", *SMALL, *places(tiny, tmp_path))
    done = molino(*sweep, "seed=0,1")
    assert done.status == 0, done.err
    first = stamps(sweep_dir(tmp_path))
    assert set(first) == {"seed=0", "seed=1"} and "2 runs: 2 new" in done.out
    again = molino(*sweep, "seed=0,1")
    assert again.status == 0 and "2 runs: 2 done" in again.out and "step" not in again.out
    assert stamps(sweep_dir(tmp_path)) == first
    # In another order, with one more: the same sweep.
    more = molino("train", "seed=2,1,0", *reversed(SMALL), *places(tiny, tmp_path), "-m")
    assert more.status == 0 and "3 runs: 1 new, 2 done" in more.out, more.out
    assert stamps(sweep_dir(tmp_path)).items() > first.items()
    assert f"next: {typed('results', str(sweep_dir(tmp_path)))}\n" in more.out


def test_a_run_that_was_cut_off_goes_on(molino, tiny, tmp_path):
    sweep = ("train", "-m", *SMALL, *places(tiny, tmp_path), "seed=0,1")
    assert molino(*sweep).status == 0
    run = run_of(tmp_path, "seed=1")
    whole, summary = weights(run), directory.read_summary(run)
    # As if it had been killed at step 10 of 20, where best.ckpt may lie, before its summary.
    (run / directory.SUMMARY).unlink()
    status = json.loads((run / STATUS).read_text())
    (run / STATUS).write_text(json.dumps(status | {"state": "running"}))
    content = torch.load(run / directory.LAST, weights_only=True)
    assert content["global_step"] == 20 and read_status(run).state == CUT_OFF
    done = molino(*sweep)
    assert done.status == 0 and "2 runs: 1 done, 1 to go on with" in done.out
    assert re.search("resumed +after step 20", done.out)
    again = directory.read_summary(run)
    assert again.pop("seconds") > summary.pop("seconds") and again == summary
    assert all(torch.equal(value, whole[name]) for name, value in weights(run).items())


def test_what_failed_is_tried_again_up_to_a_limit(molino, tiny, tmp_path):
    sweep = ("train", "-m", *SMALL, *places(tiny, tmp_path), "optimizer.lr=-1,0.1", "hydra.sweeper.attempts=2")
    for number in (1, 2, 3):
        done = molino(*sweep)
        assert done.status == 2
        bad = run_of(tmp_path, "optimizer.lr=-1")
        assert read_status(bad).failures == min(number, 2)
        assert "optimizer.lr=-1" in done.out and "optimizer: Invalid learning rate: -1" in done.out
        assert (
            f"molino: 1 of 2 runs failed: see traceback.txt and log.txt in their directories, such as {bad}\n"
            in done.err
        )
        assert read_status(run_of(tmp_path, "optimizer.lr=0.1")).state == DONE
    assert "1 given up" in done.out
    assert (bad / "traceback.txt").read_text().count("Invalid learning rate: -1") >= 2
    assert molino(*sweep[:-1], "hydra.sweeper.attempts=3").status == 2 and read_status(bad).failures == 3


def test_of_many_that_failed_some_are_listed(tmp_path, capsys):
    requests = [Request({}, [f"seed={number}"], {}, tmp_path / f"{number:02}") for number in range(30)]
    for request in requests:
        enqueue(request.path, request.overrides, request.asked)
        fail(request.path, "it broke")
    with pytest.raises(SweepFailed, match="30 of 30 runs failed"):
        conclude(requests, tmp_path, SimpleNamespace(waits=True))
    told = capsys.readouterr().out
    assert told.count("it broke") == 20 and "... and 10 more" in told and "30 failed" in told


def test_a_defect_of_one_run_does_not_stop_the_others(molino, tiny, tmp_path, monkeypatch):
    original = torch.optim.SGD.__init__

    def broken(self, *arguments, **settings):
        if settings.get("lr") == 0.25:
            raise ZeroDivisionError("a defect")
        original(self, *arguments, **settings)

    monkeypatch.setattr(torch.optim.SGD, "__init__", broken)
    lrs = "optimizer.lr=0.25,0.1"
    done = molino("train", "-m", *SMALL, *places(tiny, tmp_path), "optimizer=sgd", lrs)
    assert done.status == 1 and "ZeroDivisionError: a defect" in done.out
    assert "a defect" in (run_of(tmp_path, "optimizer.lr=0.25") / "traceback.txt").read_text()
    assert read_status(run_of(tmp_path, "optimizer.lr=0.1")).state == DONE


def test_a_name_belongs_to_one_configuration(molino, tiny, tmp_path):
    named = ("train", "-m", *SMALL, *places(tiny, tmp_path), "sweep=mine")
    assert molino(*named, "seed=0,1").status == 0
    before = stamps(tmp_path / "outputs" / "sweeps" / "mine")
    done = molino(*named, "seed=0,1", "optimizer.lr=0.5")
    assert done.status == 4 and done.err.count("\n") == 1
    assert re.search(r"mine/seed=0 was trained with other settings \(optimizer\.lr [\d.e-]+ -> 0\.5\)", done.err)
    assert "with sweep=<name>" in done.err
    # What no earlier run has taken may join.
    assert molino(*named, "optimizer.lr=0.5", "seed=2,3").status == 0
    assert stamps(tmp_path / "outputs" / "sweeps" / "mine").items() > before.items()
    for bad in ("sweep=a/b", "sweep=.."):
        refused = molino("train", "-m", *SMALL, *places(tiny, tmp_path), bad, "seed=0,1")
        assert refused.status == 2 and "cannot name a sweep's directory" in refused.err


def test_an_edited_configuration_file_is_noticed(molino, tiny, tmp_path):
    """The command is the same, but what it asks for is not."""
    conf = tmp_path / "conf" / "experiment"
    conf.mkdir(parents=True)
    (conf / "mine.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.1\n")
    command = (
        "train",
        "--config-dir",
        str(tmp_path / "conf"),
        "-m",
        "experiment=mine",
        *SMALL,
        *places(tiny, tmp_path),
    )
    assert molino(*command, "seed=0,1").status == 0
    (conf / "mine.yaml").write_text("# @package _global_\noptimizer:\n  lr: 0.2\n")
    done = molino(*command, "seed=0,1")
    assert done.status == 4 and "optimizer.lr 0.1 -> 0.2" in done.err


def test_a_run_that_another_process_trains_is_left_to_it(molino, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("molino.sweeps.ledger.GRACE", 0.2)
    sweep = ("train", "-m", *SMALL, *places(tiny, tmp_path), "sweep=shared", "seed=0,1")
    held = tmp_path / "outputs" / "sweeps" / "shared" / "seed=0"
    held.mkdir(parents=True)
    (held / STATUS).write_text('{"state": "running"}')
    with (held / directory.LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = molino(*sweep)
    assert done.status == 0 and "seed=0 is being trained by another process" in done.out
    assert "1 done, 1 running" in done.out and not directory.is_done(held)
    assert molino(*sweep).status == 0 and directory.is_done(held)


def test_two_sweeps_at_once_train_each_run_once(tiny, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "train.py"),
        "-m",
        *SMALL,
        *places(tiny, tmp_path),
        "seed=range(6)",
    ]
    twins = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    outputs = [twin.communicate(timeout=120)[0] for twin in twins]
    assert [twin.returncode for twin in twins] == [0, 0], outputs
    runs = runs_of(sweep_dir(tmp_path))
    assert len(runs) == 6 and all(map(directory.is_done, runs))
    # Every run began once: it says so when it starts, and nothing was resumed.
    for run in runs:
        assert (run / "samples.txt").read_text().count("--- step 20 ---") == 1
        assert sum(out.count(f"next: {typed('generate', f'run={run}')} ") for out in outputs) == 1
    assert not any("resumed" in out for out in outputs)


def test_a_run_whose_directory_vanishes_is_not_forgotten(molino, tiny, tmp_path, monkeypatch):
    original = directory.write_summary

    def vanish(run, summary):
        original(run, summary)
        if run.name == "seed=0":
            shutil.rmtree(run)

    monkeypatch.setattr(directory, "write_summary", vanish)
    sweep = ("train", "-m", *SMALL, *places(tiny, tmp_path), "seed=0,1")
    done = molino(*sweep)
    assert done.status != 0 and "1 of 2 runs" in done.err, done.out + done.err
    monkeypatch.undo()
    assert molino(*sweep).status == 0


def test_resume_is_for_single_runs(molino, tiny, tmp_path):
    done = molino("train", "-m", f"resume={tiny.path},x", *places(tiny, tmp_path)[1:])
    assert done.status == 2 and "to go on with a sweep, give its command again" in done.err


def test_a_sweep_whose_reader_leaves(tiny, tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *SMALL, *places(tiny, tmp_path), "seed=0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 141


def test_a_sweeps_name_is_for_sweeps(molino, tiny, tmp_path):
    done = molino("train", "sweep=mine", *SMALL, *places(tiny, tmp_path))
    assert done.status == 2 and "add -m" in done.err and not (tmp_path / "outputs").exists()


def test_a_half_written_summary_is_not_written_over(molino, tiny, tmp_path):
    sweep = ("train", "-m", *SMALL, *places(tiny, tmp_path), "seed=0,1")
    assert molino(*sweep).status == 0
    run = run_of(tmp_path, "seed=1")
    (run / directory.SUMMARY).write_text('{"val/loss": 1.')
    done = molino(*sweep)
    assert done.status == 4 and "summary.json cannot be read" in done.out and "delete it" in done.out
    assert (run / directory.SUMMARY).read_text() == '{"val/loss": 1.'
    (run / directory.SUMMARY).unlink()
    assert molino(*sweep).status == 0 and directory.is_done(run)


def test_a_record_that_cannot_be_read_is_the_failure_of_its_run_alone(molino, tiny, tmp_path):
    sweep = ("train", "-m", *SMALL, *places(tiny, tmp_path))
    assert molino(*sweep, "seed=0,1").status == 0
    for name in ("seed=0", "seed=1"):
        (run_of(tmp_path, name) / "config.yaml").write_text("{{")
    (run_of(tmp_path, "seed=0") / directory.SUMMARY).unlink()
    done = molino(*sweep, "seed=0,1,2")
    assert done.status == 4 and "1 of 3 runs failed" in done.err, done.out + done.err
    failed = read_status(run_of(tmp_path, "seed=0"))
    assert "config.yaml cannot be read" in failed.error and failed.failures == 1
    assert all(read_status(run_of(tmp_path, name)).state == DONE for name in ("seed=1", "seed=2"))


def test_a_sweep_of_somebody_else_meets_other_settings(molino, tiny, tmp_path):
    """Hydra's own sweeper does not ask what lies there; the run does."""
    typed = ("hydra/sweeper=basic", "sweep=mine", "hydra.sweep.subdir=run-${seed}", "seed=0,1")
    sweep = ("train", "-m", *SMALL, *places(tiny, tmp_path), *typed)
    assert molino(*sweep).status == 0
    before = {path: path.read_bytes() for path in (tmp_path / "outputs").rglob("summary.json")}
    assert {path.parent.name for path in before} == {"run-0", "run-1"}
    assert molino(*sweep, "logger.csv=null").status == 0
    done = molino(*sweep, "optimizer.lr=0.5")
    assert done.status == 4 and "run-0 was trained with other settings (optimizer.lr 0.003 -> 0.5)" in done.err
    assert {path: path.read_bytes() for path in before} == before


def test_a_distributed_run_needs_a_launcher_that_can(molino, tiny, tmp_path):
    ddp = ("hardware=ddp", "hardware.accelerator=cpu")
    small = [s for s in SMALL if not s.startswith("hardware=")]
    done = molino("train", "-m", *small, *ddp, *places(tiny, tmp_path), "seed=0,1")
    assert done.status == 2 and done.err.count("\n") == 1
    assert "hydra/launcher=local" in done.err and "hydra/launcher=slurm" in done.err
    assert not list((tmp_path / "outputs").rglob("*.json"))


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["sweep=a,b", "seed=0,1"], "sweep= takes one name"),
        (["optimizer.lr=interval(0,1)"], "search with hydra/sweeper=optuna"),
        (["seed=range(2,2)"], "lists no values"),
        (["hydra/launcher=lcal", "seed=0,1"], "Could not find 'hydra/launcher/lcal'"),
        (["hydra/sweeper=gird", "seed=0,1"], "Could not find 'hydra/sweeper/gird'"),
        (["hydra.sweeper.attempts=0", "seed=0,1"], "hydra.sweeper.attempts=0 must be at least 1"),
        (["hydra.sweeper.attempts=x", "seed=0,1"], "hydra.sweeper.attempts must be int, but it is 'x'"),
        (
            ["hydra/launcher=local", "hydra.launcher.workers=0", "seed=0,1"],
            "hydra.launcher.workers=0 must be at least 1",
        ),
        (["hydra/launcher=local", "hydra.launcher.workers=x", "seed=0,1"], "hydra.launcher.workers must be int | null"),
        (["hydra/launcher=local", "hydra.launcher.wrokers=2", "seed=0,1"], "hydra.launcher.wrokers is not a setting"),
        (["model.n_layr=2,3"], "model.n_layr is not a setting"),
        (["hydra.job.chdir=true", "seed=0,1"], "hydra.job.chdir=True has no effect on the runs of a sweep"),
        (["+hydra.job.env_set.A=b", "seed=0,1"], "hydra.job.env_set={'A': 'b'} has no effect"),
        (["model=gpt,gtp"], "Could not find 'model/gtp'"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_a_sweep_that_makes_no_sense_trains_nothing(molino, tiny, tmp_path, settings, part):
    done = molino("train", "-m", *places(tiny, tmp_path), "data=text", f"data.path={tiny.file}", *CPU, *settings)
    assert done.status == 2 and part in done.err and done.err.count("\n") == 1, done.err
    assert not list((tmp_path / "outputs").rglob("*.*"))  # nor is anything recorded as queued


def test_everything_a_run_was_asked_for_is_on_record(molino, tiny, tmp_path):
    assert molino("train", "-m", *SMALL, *places(tiny, tmp_path), "seed=0,1").status == 0
    run = run_of(tmp_path, "seed=1")
    environment = json.loads((run / "environment.json").read_text())
    assert environment["choices"]["model"] == "gpt" and environment["choices"]["data"] == "text"
    assert "-m" in environment["command"] and "seed=0,1" in environment["command"]
    typed = yaml.safe_load((run / "overrides.yaml").read_text())
    assert "seed=1" in typed and "model.n_layer=1" in typed and not any(o.startswith("hydra") for o in typed)


# The whole of it: 2 models x 2 corpora x 2 seeds, trained by workers, killed and given again.

GRID = ("model=bigram,gpt", "data.path={a},{b}", "seed=0,1")


def grid(tmp_path: Path, tiny) -> list[str]:
    for seed, name in enumerate("ab"):
        (tmp_path / f"{name}.txt").write_text(small_text(seed + 10, 200), "utf-8")
    listed = [part.format(a=tmp_path / "a.txt", b=tmp_path / "b.txt") for part in GRID]
    sizes = ("data.block_size=16", "data.batch_size=4", "trainer.max_steps=30", "trainer.log_every=5")
    plan = (
        "trainer.val_every=15",
        "trainer.checkpoint_every=5",
        "trainer.sample_tokens=10",
        "scheduler.warmup_steps=5",
    )
    return ["-m", "data=text", *sizes, *plan, *CPU, f"paths.cache={tmp_path / 'cache'}", *listed]


def test_a_sweep_killed_in_the_middle_equals_an_undisturbed_one(molino, tiny, tmp_path):
    arguments = grid(tmp_path, tiny)
    undisturbed = molino("train", *arguments, f"paths.outputs={tmp_path / 'undisturbed'}")
    assert undisturbed.status == 0, undisturbed.err
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "hydra/launcher=local", *arguments]
    command += ["hydra.launcher.workers=2", f"paths.outputs={tmp_path / 'outputs'}"]
    moment = random.SystemRandom().randint(2, 5)
    killed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    while killed.poll() is None and len(list((tmp_path / "outputs").rglob("summary.json"))) < moment:
        time.sleep(0.01)
    processes = [json.loads(path.read_text()).get("process") for path in (tmp_path / "outputs").rglob(STATUS)]
    killed.kill()
    for process in {number for number in processes if number}:
        # The workers as well, at whatever they were doing.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, 9)
    killed.communicate()
    sweep = sweep_dir(tmp_path)
    before = {run: (run / directory.SUMMARY).read_bytes() for run in runs_of(sweep) if directory.is_done(run)}
    assert moment <= len(before) < 8
    again = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{len(before)} done" in again.stdout.splitlines()[0] and "corpus" not in again.stdout
    # Torch is loaded once for each worker, not once for each run.
    assert len({json.loads((run / STATUS).read_text())["process"] for run in runs_of(sweep)}) <= 4
    assert all((run / directory.SUMMARY).read_bytes() == content for run, content in before.items())
    assert len(runs_of(sweep)) == 8
    for run in runs_of(sweep):
        (other,) = (tmp_path / "undisturbed").rglob(f"{run.name}/summary.json")
        mine, wanted = directory.read_summary(run), json.loads(other.read_text())
        for figures in (mine, wanted):
            for timing in ("seconds", "tokens_per_second", "train/tokens_per_second"):
                figures.pop(timing)
        assert mine == wanted
        expected = weights(other.parent)
        assert all(torch.equal(value, expected[name]) for name, value in weights(run).items())
        assert read_status(run).state == DONE
        # What a run prints is in its directory, not between the lines of the sweep.
        assert "held-out loss" in (run / "log.txt").read_text() and "(1 thread)" in (run / "log.txt").read_text()
        if run not in before:
            assert f"done {run.name}: held-out loss {mine['val/loss']:.4f}\n" in again.stdout
