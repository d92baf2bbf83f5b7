"""Sweeps on a real Slurm: submitted, signalled, preempted, cancelled, distributed."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from on_slurm import ENDLESS, RARE, SLURM, WAIT, ask, job_of, queue, running_slurm, script_of, training, until, using
from sweeping import SMALL, places, run_of, runs_of, sweep_dir, weights

from molino.configuration.door import ALLOW
from molino.runs import directory
from molino.runs.status import CANCELLED, CUT_OFF, DONE, read_status
from molino.sweeps.standing import statuses

# One cluster for all of these, so that they run in one process.
pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    with running_slurm(cpus=3) as environment:
        yield environment


@pytest.fixture(autouse=True)
def on_slurm(slurm) -> Iterator[None]:
    with using(slurm):
        yield


@pytest.fixture
def train() -> Callable[..., subprocess.CompletedProcess]:
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return run


def same_weights(run: Path, other: Path) -> bool:
    expected = weights(other)
    return all(torch.equal(value, expected[name]) for name, value in weights(run).items())


def test_a_job_that_is_signalled_saves_and_goes_on_bit_for_bit(train, molino, tiny, tmp_path, monkeypatch):
    # With a part of one's own, although the jobs are handed nothing of this environment but these variables.
    monkeypatch.chdir(ROOT / "examples" / "mylab")
    monkeypatch.setenv(ALLOW, "mylab")
    own = "+callbacks.norm={_target_: mylab.callbacks.WeightNorm}"
    bare = "hydra.launcher.options={export: 'PATH,HOME,SLURM_CONF'}"
    # The long one trains for some seconds, of which the signal needs a tenth.
    sweep = (*RARE, "trainer.max_steps=2000,200", own)
    done = train(*SLURM, bare, *sweep, *places(tiny, tmp_path))
    assert done.returncode == 0 and "submitted 2 runs as Slurm job" in done.stdout and "0 done, 2 " in done.stdout, done
    long, short = (run_of(tmp_path, f"trainer.max_steps={steps}") for steps in (2000, 200))
    assert job_of(long).partition("_")[0] == job_of(short).partition("_")[0]  # an array
    until(lambda: training(long), "training")
    ask("scancel", "--signal=USR2", job_of(long))
    until(lambda: read_status(long).state == CUT_OFF, "the signalled run to save")
    until(lambda: "SIGUSR2 after step" in (long / "log.txt").read_text(), "the run to say so")
    # Given again while they wait or run, nothing is submitted twice.
    again = train(*SLURM, bare, *sweep, *places(tiny, tmp_path))
    assert again.returncode == 0 and "in Slurm's queue already" in again.stdout and "submitted" not in again.stdout
    until(lambda: directory.is_done(long) and directory.is_done(short), "both runs to end")
    assert "resumed" in (long / "log.txt").read_text() and "resumed" not in (short / "log.txt").read_text()
    local = molino("train", "-m", *sweep, *places(tiny, tmp_path / "local"))
    assert local.status == 0, local.err
    for run in runs_of(sweep_dir(tmp_path)):
        other = run_of(tmp_path / "local", run.name)
        assert same_weights(run, other)
        assert directory.read_summary(run)["val/loss"] == directory.read_summary(other)["val/loss"]


def test_a_job_that_must_give_way_comes_back_and_one_that_is_cancelled_does_not(train, tiny, tmp_path):
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
    until(lambda: not queue(), "the job to leave the queue")
    assert (run / "log.txt").read_text().count("SIGTERM after step") == 2
    assert statuses([run])[run].state == CANCELLED


def test_a_distributed_run_has_its_processes_started_by_slurm(train, molino, tiny, tmp_path):
    small = [s for s in SMALL if not s.startswith("hardware=")]
    two = ("hardware=ddp", "hardware.accelerator=cpu", "hydra.launcher.wait=true")
    done = train(*SLURM, *two, *small, *places(tiny, tmp_path), "seed=0")
    assert done.returncode == 0, done.stdout + done.stderr
    run = run_of(tmp_path, "defaults")
    assert read_status(run).state == DONE and "2 x cpu" in (run / "log.txt").read_text()
    submission = script_of(sweep_dir(tmp_path))
    assert "#SBATCH --ntasks-per-node=2" in submission and "#SBATCH --nodes=1" in submission
    one = molino("train", *SMALL, *places(tiny, tmp_path / "one"), "seed=0")
    assert one.status == 0
    loss = directory.read_summary(directory.find("latest", tmp_path / "one" / "outputs"))["val/loss"]
    assert directory.read_summary(run)["val/loss"] == pytest.approx(loss, rel=1e-4)


def test_a_failing_job_is_told(train, tiny, tmp_path):
    done = train(*SLURM, WAIT, *SMALL, *places(tiny, tmp_path), "optimizer.lr=1e30")
    assert done.returncode == 6 and "1 failed" in done.stdout, done.stdout
    assert "NonFiniteError" in (run_of(tmp_path, "defaults") / "traceback.txt").read_text()


def test_what_is_asked_of_slurm(train, tiny, tmp_path):
    """With the command of docs/commands.md."""
    (command,) = [
        line
        for line in (ROOT / "docs" / "commands.md").read_text("utf-8").splitlines()
        if "hydra/launcher=slurm " in line
    ]
    arguments = shlex.split(command, comments=True)
    assert arguments[:3] == ["molino", "train", "-m"]
    small = [*arguments[3:], "seed=0,1", *SLURM[1:], *SMALL, *places(tiny, tmp_path)]
    done = train(*small, "hydra.launcher.partition=shor")
    assert done.returncode == 2 and "did you mean short?" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not runs_of(tmp_path) and not queue()
    # What only sbatch knows.
    done = train(*small, "hydra.launcher.reservation=nobodys")
    assert done.returncode == 5 and done.stderr.count("\n") == 1
    assert re.match(r"molino: Slurm refuses the jobs: .*reservation", done.stderr)
    asked = ("hydra.launcher.memory=1", "hydra.launcher.options={nice: 10}", "hydra.launcher.at_once=1")
    done = train(*small, "hydra.launcher.partition=high", *asked)
    assert done.returncode == 0, done.stderr
    submission = max(
        (sweep_dir(tmp_path) / ".slurm").glob("*/job.sh"), key=lambda path: path.stat().st_mtime
    ).read_text()
    wanted = ("mem=1024M", "partition=high", "nice=10", "array=0-1%1", "time=30", "cpus-per-task=1", "signal=USR2@120")
    assert all(f"#SBATCH --{option}\n" in submission for option in (*wanted, "requeue"))


def test_a_search_waits_for_its_jobs(train, tiny, tmp_path):
    search = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "optimizer.lr=0.01,0.1")
    refused = train(*SLURM, *search, *SMALL, *places(tiny, tmp_path))
    assert refused.returncode == 2 and "add hydra.launcher.wait=true" in refused.stderr


def test_without_slurm(molino, tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PATH", str(tmp_path))
        done = molino("train", "-m", "hydra/launcher=slurm", *SMALL, *places(tiny, tmp_path), "seed=0,1")
    assert done.status == 5 and "there is no sbatch here" in done.err and done.err.count("\n") == 1
    assert not list((tmp_path / "outputs").rglob("*.json"))
