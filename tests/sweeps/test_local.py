"""hydra/launcher=local: processes of their own, stopped, killed, with devices and threads, and other launchers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from sweeping import SMALL, places, run_of, runs_of, sweep_dir, weights

from molino.runs import directory
from molino.runs.status import CUT_OFF, DONE, FAILED, RUNNING, STATUS, read_status

LOCAL = ("hydra/launcher=local", "hydra.launcher.workers=2")
LONG = ("trainer.max_steps=100000", "trainer.checkpoint_every=50", "trainer.val_every=50000")


def start(tiny, tmp_path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *SMALL, *places(tiny, tmp_path), *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def running(tmp_path: Path) -> list[Path]:
    """Runs that have trained some steps."""
    runs = [path.parent for path in (tmp_path / "outputs").rglob(STATUS)]
    return [run for run in runs if read_status(run).state == RUNNING and read_status(run).progress.get("step", 0) > 50]


def process_of(run: Path) -> int:
    return json.loads((run / STATUS).read_text())["process"]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_two_workers_train_what_one_process_does(molino, tiny, tmp_path):
    local = molino("train", "-m", *LOCAL, *SMALL, *places(tiny, tmp_path / "local"), "seed=range(4)")
    assert local.status == 0, local.out + local.err
    basic = molino("train", "-m", *SMALL, *places(tiny, tmp_path / "basic"), "seed=range(4)")
    assert basic.status == 0
    runs = runs_of(sweep_dir(tmp_path / "local"))
    assert len(runs) == 4
    for run in runs:
        expected = weights(run_of(tmp_path / "basic", run.name))
        assert all(torch.equal(value, expected[name]) for name, value in weights(run).items())
        # What a run prints is in its directory, not between the lines of the sweep.
        assert "held-out loss" in (run / "log.txt").read_text() and "1 threads" in (run / "log.txt").read_text()
        loss = directory.read_summary(run)["val/loss"]
        assert re.search(rf"^\[\d/4\] done {run.name}: held-out loss {loss:.4f}$", local.out, re.MULTILINE)
    assert "corpus" not in local.out
    # Torch is loaded once for each worker, not once for each run.
    assert len({process_of(run) for run in runs}) == 2 and os.getpid() not in {process_of(run) for run in runs}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_processes_and_every_run_can_go_on(molino, tiny, tmp_path, number, status):
    sweep = start(tiny, tmp_path, *LOCAL, *LONG, "seed=0,1,2")
    until(lambda: len(running(tmp_path)) == 2, sweep)
    began = running(tmp_path)
    workers = [process_of(run) for run in began]
    sweep.send_signal(number)
    out = sweep.communicate(timeout=60)[0]
    assert sweep.returncode == status and "Traceback" not in out, out
    assert "stopping: the runs finish their block of steps" in out
    assert not any(map(alive, workers))
    for run in began:
        assert read_status(run).state == CUT_OFF and (run / directory.LAST).is_file()
        assert "saved; go on with" in (run / "log.txt").read_text()
    assert read_status(run_of(tmp_path, "seed=2")).state == "queued"


def test_workers_do_not_outlive_a_sweep_that_is_killed(tiny, tmp_path):
    sweep = start(tiny, tmp_path, *LOCAL, *LONG, "seed=0,1,2")
    until(lambda: len(running(tmp_path)) == 2, sweep)
    began = running(tmp_path)
    workers = [process_of(run) for run in began]
    sweep.kill()
    sweep.communicate()
    end = time.monotonic() + 30
    while any(map(alive, workers)):
        assert time.monotonic() < end
        time.sleep(0.1)
    for run in began:  # told by nobody, they have saved
        assert read_status(run).state == CUT_OFF
        assert "SIGTERM after step" in (run / "log.txt").read_text()


def test_a_process_that_is_killed_costs_its_run_alone(tiny, tmp_path):
    steps = ("trainer.max_steps=800", "trainer.checkpoint_every=50", "trainer.val_every=800")
    sweep = start(tiny, tmp_path, *LOCAL, *steps, "seed=0,1,2")
    until(lambda: len(running(tmp_path)) == 2, sweep)
    victim = running(tmp_path)[0]
    os.kill(process_of(victim), signal.SIGKILL)
    out = sweep.communicate(timeout=120)[0]
    assert sweep.returncode == 1 and "its process was ended by SIGKILL" in out, out
    states = {run.name: read_status(run) for run in runs_of(sweep_dir(tmp_path))}
    assert states.pop(victim.name).failures == 1 and read_status(victim).state == FAILED
    assert [status.state for status in states.values()] == [DONE, DONE]


def test_a_distributed_run_is_a_command_of_its_own(molino, tiny, tmp_path):
    small = [s for s in SMALL if not s.startswith("hardware=")]
    two = ("hardware=ddp", "hardware.accelerator=cpu", "hydra.launcher.workers=1")
    done = molino("train", "-m", *LOCAL[:1], *two, *small, *places(tiny, tmp_path), "seed=0")
    assert done.status == 0, done.out + done.err
    run = run_of(tmp_path, "defaults")
    assert read_status(run).state == DONE and "2 x cpu" in (run / "log.txt").read_text()
    assert [path.name for path in sweep_dir(tmp_path).iterdir() if path.is_dir()] == ["defaults"]
    one = molino("train", *SMALL, *places(tiny, tmp_path / "one"), "seed=0")
    assert one.status == 0
    loss = directory.read_summary(directory.find("latest", tmp_path / "one" / "outputs"))["val/loss"]
    assert directory.read_summary(run)["val/loss"] == pytest.approx(loss, rel=1e-4)


def test_joblibs_launcher_works_as_well(molino, tiny, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = molino("train", "-m", *joblib, *SMALL, *places(tiny, tmp_path), "optimizer.lr=0.1,-1")
    assert done.status == 2 and "1 of 2 runs failed" in done.err, done.err
    assert read_status(run_of(tmp_path, "optimizer.lr=0.1")).state == DONE
    assert "Invalid learning rate" in (run_of(tmp_path, "optimizer.lr=-1") / "traceback.txt").read_text()
    again = molino("train", "-m", *joblib, *SMALL, *places(tiny, tmp_path), "optimizer.lr=0.1,-1")
    assert "1 done, 1 to try again" in again.out or "1 to try again, 1 done" in again.out


def test_hydras_own_sweeper_works_as_well(molino, tiny, tmp_path):
    sweep = ("train", "-m", "hydra/sweeper=basic", *SMALL, *places(tiny, tmp_path), "sweep=mine", "seed=0,1")
    done = molino(*sweep)
    assert done.status == 0, done.err
    runs = runs_of(sweep_dir(tmp_path))
    assert len(runs) == 2 and all(map(directory.is_done, runs))
    by_workers = molino(*sweep[:-1], "seed=1,2", LOCAL[0], "hydra.launcher.workers=1")
    assert by_workers.status == 0, by_workers.out + by_workers.err
    assert len(runs_of(sweep_dir(tmp_path))) == 3


def test_fifty_runs_leave_nothing_behind(molino, tiny, tmp_path):
    """Neither models nor the errors that hold them stay in a process that trains run after run."""
    import gc

    from lightning.pytorch import LightningModule

    def kept() -> int:
        gc.collect()
        return sum(isinstance(thing, LightningModule) for thing in gc.get_objects())

    sizes = [s for s in SMALL if not s.startswith(("model", "debug"))]
    plan = ("trainer.max_steps=4", "trainer.log_every=2", "trainer.val_every=4", "trainer.checkpoint_every=4")
    quick = ("model=bigram", "scheduler=constant", *plan, "trainer.sample_tokens=0", "optimizer.lr=0.1,1e30")
    few = molino("train", "-m", *sizes, *quick, *places(tiny, tmp_path), "seed=99")
    modules, memory = kept(), resident()
    many = molino("train", "-m", *sizes, *quick, *places(tiny, tmp_path), "seed=range(25)")
    assert few.status == many.status == 6 and "25 of 50 runs failed" in many.err, many.err[-500:]
    assert kept() <= modules
    assert resident() - memory < 60 * 2**20


def resident() -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
