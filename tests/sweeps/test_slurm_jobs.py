"""Sweeps on a real Slurm: submitted, signalled, preempted, cancelled, distributed."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cluster
import pytest
import torch
from conftest import ROOT
from sweeping import SMALL, places, run_of, runs_of, sweep_dir, weights

from molino.configuration.door import ALLOW
from molino.runs import directory
from molino.runs.status import CUT_OFF, DONE, RUNNING, read_status

# One cluster for all of these, so that they run in one process.
pytestmark = pytest.mark.xdist_group("slurm")

# The rare checkpoints are those of a signal. ENDLESS is over when a test says so, however fast the machine trains.
RARE = (*SMALL, "trainer.checkpoint_every=1000000", "trainer.val_every=1000000", "model.dropout=0.1")
ENDLESS = (*RARE, "trainer.max_steps=1000000")
SLURM = ("hydra/launcher=slurm", "hydra.launcher.cpus=1", "hydra.launcher.minutes=30")


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    if reason := cluster.missing():
        pytest.skip(reason)
    # Sockets lie in it: its path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with cluster.slurm(folder / "c", cpus=3) as environment:
            yield os.environ | environment | {"OMP_NUM_THREADS": "1"}
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def train(slurm) -> Callable[..., subprocess.CompletedProcess]:
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *arguments]
        return subprocess.run(command, env=slurm | {ALLOW: "mylab"}, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def ask(slurm) -> Callable[..., str]:
    """Ask or tell Slurm something."""

    def run(*command: str) -> str:
        return subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=60).stdout

    return run


def until(condition: Callable[[], bool], what: str, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for: {what}"
        time.sleep(0.1)


def training(run: Path, after: int = 50) -> bool:
    status = read_status(run)
    return status.state == RUNNING and status.progress.get("step", 0) > after


def job_of(run: Path) -> str:
    return json.loads((run / "slurm.json").read_text())["job"]


def same_weights(run: Path, other: Path) -> bool:
    expected = weights(other)
    return all(torch.equal(value, expected[name]) for name, value in weights(run).items())


def test_a_job_that_is_signalled_saves_and_goes_on_bit_for_bit(train, ask, molino, tiny, tmp_path, monkeypatch):
    # With a part of one's own, although the jobs are handed nothing of this environment but these variables.
    monkeypatch.chdir(ROOT / "examples" / "mylab")
    monkeypatch.setenv(ALLOW, "mylab")
    own = "+callbacks.norm={_target_: mylab.callbacks.WeightNorm}"
    bare = "hydra.launcher.options={export: 'PATH,HOME,SLURM_CONF,OMP_NUM_THREADS,SUBMITIT_EXECUTOR'}"
    # The long one trains for some seconds, of which the signal needs a tenth.
    sweep = (*RARE, "trainer.max_steps=2000,200", own)
    done = train(*SLURM, bare, *sweep, *places(tiny, tmp_path))
    assert done.returncode == 0 and "submitted 2 runs as Slurm job" in done.stdout and "2 queued" in done.stdout, done
    long, short = (run_of(tmp_path, f"trainer.max_steps={steps}") for steps in (2000, 200))
    assert job_of(long).partition("_")[0] == job_of(short).partition("_")[0]  # an array
    # Given again while they wait or run, nothing is submitted twice.
    again = train(*SLURM, bare, *sweep, *places(tiny, tmp_path))
    assert again.returncode == 0 and "in Slurm's queue already" in again.stdout and "submitted" not in again.stdout
    until(lambda: training(long), "training")
    ask("scancel", "--signal=USR2", job_of(long))
    until(lambda: read_status(long).state == CUT_OFF, "the signalled run to save")
    until(lambda: "SIGUSR2 after step" in (long / "log.txt").read_text(), "the run to say so")
    until(lambda: directory.is_done(long) and directory.is_done(short), "both runs to end")
    assert "resumed" in (long / "log.txt").read_text() and "resumed" not in (short / "log.txt").read_text()
    local = molino("train", "-m", *sweep, *places(tiny, tmp_path / "local"))
    assert local.status == 0, local.err
    for run in runs_of(sweep_dir(tmp_path)):
        other = run_of(tmp_path / "local", run.name)
        assert same_weights(run, other)
        assert directory.read_summary(run)["val/loss"] == directory.read_summary(other)["val/loss"]


def test_a_job_that_must_give_way_comes_back_and_one_that_is_cancelled_does_not(train, ask, tiny, tmp_path):
    done = train(*SLURM, "hydra.launcher.cpus=3", *ENDLESS, *places(tiny, tmp_path), "seed=5")
    assert done.returncode == 0, done.stderr
    run = run_of(tmp_path, "defaults")
    until(lambda: training(run), "training")
    ask("sbatch", "--partition=high", "--nodes=2", "--cpus-per-task=3", "--output=/dev/null", "--wrap=sleep 1")
    until(lambda: read_status(run).state == CUT_OFF, "the preempted run to save")
    until(lambda: "SIGTERM after step" in (run / "log.txt").read_text(), "the run to say so")
    saved = read_status(run).progress["step"]
    until(lambda: training(run, after=saved), "the run to come back")
    assert "resumed" in (run / "log.txt").read_text()

    ask("scancel", job_of(run))
    until(lambda: read_status(run).state == CUT_OFF, "the cancelled run to save")
    until(lambda: not ask("squeue", "--noheader", "--array", "--format=%i"), "the job to leave the queue")
    assert (run / "log.txt").read_text().count("SIGTERM after step") == 2


def test_a_distributed_run_has_its_processes_started_by_slurm(train, molino, tiny, tmp_path):
    small = [s for s in SMALL if not s.startswith("hardware=")]
    two = ("hardware=ddp", "hardware.accelerator=cpu", "hydra.launcher.wait=true")
    done = train(*SLURM, *two, *small, *places(tiny, tmp_path), "seed=0")
    assert done.returncode == 0, done.stdout + done.stderr
    run = run_of(tmp_path, "defaults")
    assert read_status(run).state == DONE and "2 x cpu" in (run / "log.txt").read_text()
    submission = next((sweep_dir(tmp_path) / ".slurm").glob("*_submission.sh")).read_text()
    assert "#SBATCH --ntasks-per-node=2" in submission and "#SBATCH --nodes=1" in submission
    one = molino("train", *SMALL, *places(tiny, tmp_path / "one"), "seed=0")
    assert one.status == 0
    loss = directory.read_summary(directory.find("latest", tmp_path / "one" / "outputs"))["val/loss"]
    assert directory.read_summary(run)["val/loss"] == pytest.approx(loss, rel=1e-4)


def test_a_failing_job_is_told_and_a_job_that_never_began_too(train, tiny, tmp_path):
    done = train(*SLURM, "hydra.launcher.wait=true", *SMALL, *places(tiny, tmp_path), "optimizer.lr=-1")
    assert done.returncode == 2 and "1 failed" in done.stdout, done.stdout
    assert "Invalid learning rate" in (run_of(tmp_path, "defaults") / "traceback.txt").read_text()
    setup = ("hydra.launcher.setup=[exit 3]", "hydra.launcher.wait=true")
    done = train(*SLURM, *setup, *SMALL, *places(tiny, tmp_path / "never"), "seed=0")
    assert done.returncode == 1 and "its Slurm job ended before it began" in done.stdout, done.stdout


def test_what_is_asked_of_slurm(train, ask, tiny, tmp_path):
    """With the command of docs/commands.md."""
    (command,) = [
        line
        for line in (ROOT / "docs" / "commands.md").read_text("utf-8").splitlines()
        if "hydra/launcher=slurm " in line
    ]
    arguments = shlex.split(command, comments=True)
    assert arguments[:3] == ["molino", "train", "-m"]
    small = [*arguments[3:], "seed=0,1", *SLURM[1:], *SMALL, *places(tiny, tmp_path)]
    done = train(*small, "hydra.launcher.partition=nowhere")
    # After sbatch's own words, which submitit shows.
    assert done.returncode == 5 and "Traceback" not in done.stderr
    assert re.match(r"molino: Slurm refuses the jobs: .*invalid partition", done.stderr.splitlines()[-1])
    asked = ("hydra.launcher.memory=1", "hydra.launcher.options={nice: 10}", "hydra.launcher.at_once=1")
    done = train(*small, "hydra.launcher.partition=high", *asked)
    assert done.returncode == 0, done.stderr
    submission = next((sweep_dir(tmp_path) / ".slurm").glob("*_submission.sh")).read_text()
    wanted = ("mem=1GB", "partition=high", "nice=10", "array=0-1%1", "time=30", "cpus-per-task=1", "signal=USR2@120")
    assert all(f"#SBATCH --{option}" in submission for option in (*wanted, "requeue"))
    ask("scancel", "--me")
    until(lambda: not ask("squeue", "--noheader", "--array", "--format=%i"), "the jobs to leave the queue")


def test_a_search_waits_for_its_jobs(train, tiny, tmp_path):
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "optimizer.lr=0.01,0.1")
    refused = train(*SLURM, *search, *SMALL, *places(tiny, tmp_path))
    assert refused.returncode == 2 and "add hydra.launcher.wait=true" in refused.stderr


@pytest.mark.parametrize(("hide", "says"), [("slurm", "there is no sbatch here"), ("submitit", "pip install submitit")])
def test_without_slurm_or_submitit(molino, tiny, tmp_path, monkeypatch, hide, says):
    if hide == "slurm":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setitem(sys.modules, "submitit", None)
        monkeypatch.setattr("shutil.which", lambda program: program)
    done = molino("train", "-m", "hydra/launcher=slurm", *SMALL, *places(tiny, tmp_path), "seed=0,1")
    assert done.status == 5 and says in done.err and done.err.count("\n") == 1
    assert not list((tmp_path / "outputs").rglob("*.json"))
