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
from conftest import ROOT
from sweeping import SMALL, places, run_of, runs_of, sweep_dir

from molino.configuration.door import ALLOW
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
    runs = sorted(path.parent for path in (tmp_path / "outputs").rglob(STATUS))
    return [run for run in runs if read_status(run).state == RUNNING and read_status(run).progress.get("step", 0) > 50]


def process_of(run: Path) -> int:
    return json.loads((run / STATUS).read_text())["process"]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_processes_that_are_killed_and_told_to_end(tiny, tmp_path):
    """One of a sweep's processes is killed, then the sweep is told to end, then given again and killed itself."""
    sweep = start(tiny, tmp_path, *LOCAL, *LONG, "seed=0,1,2")
    until(lambda: len(running(tmp_path)) == 2, sweep)
    victim = running(tmp_path)[0]
    os.kill(process_of(victim), signal.SIGKILL)
    until(lambda: read_status(victim).state == FAILED, sweep)
    status = read_status(victim)
    assert "its process was ended by SIGKILL: see" in status.error and status.failures == 1
    # Another process takes its place, and the next run.
    until(lambda: len(running(tmp_path)) == 2, sweep)
    began = running(tmp_path)
    workers = [process_of(run) for run in began]
    assert victim not in began and len(set(workers)) == 2
    sweep.send_signal(signal.SIGINT)
    out = sweep.communicate(timeout=60)[0]
    assert sweep.returncode == 130 and "Traceback" not in out, out
    assert "stopping: the runs finish their block of steps" in out and f"failed {victim.name}: its process" in out
    assert not any(map(alive, workers))
    for run in began:
        assert read_status(run).state == CUT_OFF and (run / directory.LAST).is_file()
        assert "saved; go on with" in (run / "log.txt").read_text()

    saved = {run: read_status(run).progress["step"] for run in [victim, *began]}

    def resumed() -> list[Path]:
        """Runs that have trained on: by then they listen to signals, which they do not yet when they say so."""
        return [run for run in running(tmp_path) if read_status(run).progress["step"] > saved[run]]

    sweep = start(tiny, tmp_path, *LOCAL, *LONG, "seed=0,1,2")
    until(lambda: len(resumed()) == 2, sweep)
    began = resumed()
    workers = [process_of(run) for run in began]
    assert all("resumed" in (run / "log.txt").read_text() for run in began if run != victim)
    sweep.kill()
    assert "1 to try again, 2 to go on with" in sweep.communicate()[0]
    end = time.monotonic() + 30
    while any(map(alive, workers)):
        assert time.monotonic() < end
        time.sleep(0.1)
    for run in began:  # told by nobody, they have saved
        assert read_status(run).state == CUT_OFF and "SIGTERM after step" in (run / "log.txt").read_text()


def test_a_distributed_run_is_a_command_of_its_own(molino, tiny, tmp_path, monkeypatch):
    # Whose processes, too, let in what their sweep does.
    monkeypatch.chdir(ROOT / "examples" / "mylab")
    monkeypatch.setenv(ALLOW, "mylab")
    own = "+callbacks.norm={_target_: mylab.callbacks.WeightNorm}"
    small = [s for s in SMALL if not s.startswith("hardware=")]
    two = ("hardware=ddp", "hardware.accelerator=cpu", "hydra.launcher.workers=1")
    done = molino("train", "-m", *LOCAL[:1], *two, *small, *places(tiny, tmp_path), own, "seed=0")
    assert done.status == 0, done.out + done.err
    run = run_of(tmp_path, "defaults")
    assert read_status(run).state == DONE and "2 x cpu" in (run / "log.txt").read_text()
    assert "weights/norm" in (run / "metrics.csv").read_text()
    assert [path.name for path in sweep_dir(tmp_path).iterdir() if path.is_dir()] == ["defaults"]
    one = molino("train", *SMALL, *places(tiny, tmp_path / "one"), "seed=0")
    assert one.status == 0
    loss = directory.read_summary(directory.find("latest", tmp_path / "one" / "outputs"))["val/loss"]
    assert directory.read_summary(run)["val/loss"] == pytest.approx(loss, rel=1e-4)


def test_a_process_of_a_distributed_run_that_is_killed_is_named_and_the_run_goes_on(tiny, tmp_path):
    two = [each for each in SMALL if not each.startswith("hardware")] + ["hardware=ddp", "hardware.accelerator=cpu"]
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", LOCAL[0], *two, *LONG, *places(tiny, tmp_path)]
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: len(running(tmp_path)) == 1, sweep)
    run = running(tmp_path)[0]
    children = Path(f"/proc/{process_of(run)}/task/{process_of(run)}/children").read_text().split()
    (second,) = [pid for pid in children if b"LOCAL_RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(int(second), signal.SIGKILL)
    until(lambda: "process 1 was ended by SIGKILL" in (run / "log.txt").read_text(), sweep)
    until(lambda: "resumed" in (run / "log.txt").read_text() and running(tmp_path), sweep)
    assert read_status(run).failures == 0
    sweep.terminate()
    assert sweep.wait(60) == 143


def test_joblibs_launcher_works_as_well(molino, tiny, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="hydra-joblib-launcher is not installed")
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = molino("train", "-m", *joblib, *SMALL, *places(tiny, tmp_path), "optimizer.lr=0.1,-1")
    assert done.status == 2 and "1 of 2 runs failed" in done.err, done.err
    assert read_status(run_of(tmp_path, "optimizer.lr=0.1")).state == DONE
    assert "Invalid learning rate" in (run_of(tmp_path, "optimizer.lr=-1") / "traceback.txt").read_text()


def test_hydras_own_sweeper_works_as_well(molino, tiny, tmp_path):
    sweep = ("train", "-m", "hydra/sweeper=basic", *SMALL, *places(tiny, tmp_path), "sweep=mine", "seed=0,1")
    done = molino(*sweep)
    assert done.status == 0, done.err
    runs = runs_of(sweep_dir(tmp_path))
    assert len(runs) == 2 and all(map(directory.is_done, runs))
    by_workers = molino(*sweep[:-1], "seed=1,2", LOCAL[0], "hydra.launcher.workers=1")
    assert by_workers.status == 0, by_workers.out + by_workers.err
    assert len(runs_of(sweep_dir(tmp_path))) == 3


def test_many_runs_leave_nothing_behind(molino, tiny, tmp_path):
    """Neither models nor the errors that hold them stay in a process that trains run after run."""
    import gc

    from lightning.pytorch import LightningModule

    def kept() -> int:
        gc.collect()
        return sum(isinstance(thing, LightningModule) for thing in gc.get_objects())

    sizes = [s for s in SMALL if not s.startswith(("model", "debug"))]
    plan = ("trainer.max_steps=2", "trainer.log_every=2", "trainer.val_every=2", "trainer.checkpoint_every=2")
    quick = ("model=bigram", "scheduler=constant", *plan, "trainer.sample_tokens=0", "optimizer.lr=0.1,1e30")
    few = molino("train", "-m", *sizes, *quick, *places(tiny, tmp_path), "seed=99")
    modules, memory = kept(), resident()
    many = molino("train", "-m", *sizes, *quick, *places(tiny, tmp_path), "seed=range(8)")
    assert few.status == many.status == 6 and "8 of 16 runs failed" in many.err, many.err[-500:]
    assert kept() <= modules
    assert resident() - memory < 20 * 2**20


def resident() -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
