"""Batch scripts of one's own on a real Slurm: their tasks are one run, and a script that is queued again goes on."""

import json
import os
import re
import shutil
import signal
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
from ranks import bare, by_hand, srun
from running import metrics, weights

from molino.base.errors import Interrupted
from molino.configuration.composer import compose
from molino.configuration.request import Request
from molino.configuration.started import check_started
from molino.runs import directory
from molino.runs.status import RUNNING, read_status
from molino.training import jobs
from molino.training.jobs import JOB, recall, remember, requeuing
from molino.training.meeting import FOLDER

# With the other tests that have a Slurm of their own.
pytestmark = pytest.mark.xdist_group("slurm")

SIZES = (
    "data=text", "data.block_size=16", "data.batch_size=4", "model.n_layer=1", "model.n_head=2", "model.n_embd=16",
    "model.dropout=0.1", "hardware.accelerator=cpu", "hardware.threads=1", "trainer.sample_tokens=0",
    "trainer.max_steps=200", "trainer.val_every=100", "trainer.log_every=10", "trainer.checkpoint_every=1000",
)  # fmt: skip


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    if reason := cluster.missing():
        pytest.skip(reason)
    # Sockets lie in it: its path has to be short.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with cluster.slurm(folder / "c", cpus=3) as environment:
            yield bare() | environment
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def submit(slurm, tmp_path) -> Callable[..., str]:
    """Submit a script of these lines; return its job."""

    def run(*lines: str, options: tuple[str, ...] = ()) -> str:
        script = tmp_path / "job.sh"
        script.write_text("\n".join(["#!/bin/bash", *lines]) + "\n")
        command = ["sbatch", "--parsable", "--output=job.out", "--open-mode=append", *options, str(script)]
        done = subprocess.run(command, env=slurm, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def until(condition: Callable[[], bool], home: Path, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, (home / "job.out").read_text()
        time.sleep(0.1)


def runs(home: Path) -> dict[str, Path]:
    return {run.name.partition("_")[0]: run for run in directory.list_runs(home / "outputs")}


def test_a_script_that_is_queued_again_goes_on_bit_for_bit(submit, slurm, tiny, tmp_path):
    train = f"srun {sys.executable} {ROOT / 'scripts' / 'train.py'} {' '.join(SIZES)} hardware=ddp "
    train += f"data.path={tiny.file} paths.cache={tiny.cache}"
    job = submit(
        f"{train} name=first", f"{train} name=second", "touch over", options=("--nodes=1", "--ntasks=2", "--requeue")
    )

    def training() -> bool:
        status = read_status(runs(tmp_path)["second"]) if "second" in runs(tmp_path) else None
        return status is not None and status.state == RUNNING and status.progress.get("step", 0) > 20

    until(training, tmp_path)
    subprocess.run(["scancel", "--signal=USR1", job], env=slurm, check=True)
    until(lambda: "queued again" in (tmp_path / "job.out").read_text(), tmp_path)
    (tmp_path / "over").unlink(missing_ok=True)  # the script may have come to its end before Slurm ended it
    until((tmp_path / "over").exists, tmp_path)
    said = (tmp_path / "job.out").read_text()
    assert f"saved; job {job} is queued again and goes on" in said and "resumed" in said
    assert "is done: this job has trained it before it was queued again" in said
    assert len(directory.list_runs(tmp_path / "outputs")) == 2 and not (tmp_path / "outputs" / FOLDER).exists()
    first, second = (runs(tmp_path)[name] for name in ("first", "second"))
    expected = weights(first)
    assert all(torch.equal(value, expected[name]) for name, value in weights(second).items())
    assert metrics(second) == metrics(first)
    record = json.loads((second / JOB).read_text())
    assert record["job"] == job and record["life"] == 1


def test_another_number_of_tasks_is_refused_in_a_line(submit, tiny, tmp_path):
    train = f"{sys.executable} {ROOT / 'scripts' / 'train.py'} {' '.join(SIZES)} data.path={tiny.file} "
    lines = (
        f"srun {train} hardware=ddp 2>three",
        f"srun --ntasks=2 {train} 2>two",
        f"{train} hardware.num_nodes=2 2>one",
    )
    submit(*lines, "touch over", options=("--nodes=1", "--ntasks=3"))
    until((tmp_path / "over").exists, tmp_path)
    three, two, one = (
        [line for line in (tmp_path / name).read_text().splitlines() if line.startswith("molino")]
        for name in ("three", "two", "one")
    )
    assert three == [
        "molino: srun has started 3 tasks, and hardware asks for 2 (hardware.devices=2): add hardware.devices=3, or "
        "start it by srun --nodes=1 --ntasks=2 --ntasks-per-node=2"
    ]
    assert len(two) == 1 and "srun has started 2 tasks, and hardware asks for one process" in two[0]
    assert len(one) == 1 and "nobody has started a process on each of them: start it by srun --nodes=2" in one[0]
    assert not (tmp_path / "outputs").exists()


SCRIPTS = re.findall(r"```bash\n(#!/bin/bash\n.*?)```", (ROOT / "docs" / "clusters.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_that_are_shown_start_what_they_ask_for(script, in_job, monkeypatch, tmp_path):
    """Bash reads them, their settings compose, and both ways to say how many processes there are agree."""
    (tmp_path / "script.sh").write_text(script)
    subprocess.run(["bash", "-n", str(tmp_path / "script.sh")], check=True)
    (line,) = [line for line in script.replace("\\\n", " ").splitlines() if "molino train" in line]
    starter, settings = line.split("molino train ")
    asked = compose("train", settings.split())
    options = dict(re.findall(r"--([\w-]+)=(\w+)", script))
    nodes = int(options.get("nodes", 1))
    if "torchrun" in starter:
        each = options["nproc-per-node"]
        assert options["nnodes"] == options["nodes"] and options["ntasks-per-node"] == "1"
        assert options["gpus-per-node"] == each
        values = by_hand(0, (nodes * int(each),), 29500) | {"TORCHELASTIC_RUN_ID": "7", "LOCAL_WORLD_SIZE": each}
    else:
        # One task starts its other process by itself, and has the devices for it.
        tasks = int(options.get("ntasks-per-node", options.get("ntasks", 0)))
        values = srun(0, (tasks,) * nodes)
        values = values if nodes * tasks > 1 else {}
        assert options["gpus-per-node"] == str(asked.devices)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    check_started(asked)


@pytest.fixture
def in_job(monkeypatch, tmp_path):
    """In a job that was queued again so many times."""
    for name in set(os.environ) - set(bare()):
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def ask(life: int, *typed: str, **more) -> Request:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(life))
        return Request({"paths": {"outputs": str(tmp_path)}}, list(typed), {}, **more)

    return ask


def run(home: Path, name: str) -> Path:
    (home / name).mkdir()
    (home / name / directory.CONFIG).touch()
    return home / name


def test_a_job_finds_its_own_runs_in_the_order_in_which_they_began(in_job, tmp_path, monkeypatch):
    one, two, other = (run(tmp_path, name) for name in ("one", "two", "other"))
    for number, each in enumerate((one, two, other)):
        os.utime(each / directory.CONFIG, (number, number))
    for each, typed in ((one, "seed=1"), (two, "seed=1"), (other, "seed=2")):
        assert recall(in_job(0, typed)) is None
        remember(each, in_job(0, typed))
    for life in (1, 2):
        assert recall(in_job(life, "seed=2")) == other and recall(in_job(life, "seed=3")) is None
        for each in (one, two):  # the same command twice
            assert recall(in_job(life, "seed=1")) == each
            remember(each, in_job(life, "seed=1"))
        assert recall(in_job(life, "seed=1")) is None
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert recall(in_job(3, "seed=1")) is None
    # A task of an array is a job.
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert recall(in_job(3, "seed=1")) is None
    remember(one, in_job(3, "seed=1"))
    assert recall(in_job(4, "seed=1")) == one and json.loads((one / JOB).read_text())["job"] == "7_1"


def test_a_run_of_a_sweep_belongs_to_its_sweep(in_job, tmp_path):
    asked = in_job(1, "seed=1", path=tmp_path / "place")
    remember(run(tmp_path, "place"), asked)
    assert recall(asked) is None and not (tmp_path / "place" / JOB).exists()
    with pytest.raises(Interrupted, match=r"^saved$"), requeuing(asked):
        raise Interrupted("saved", 10)


@pytest.mark.parametrize(
    ("number", "answer", "says"),
    [
        (10, "exit 0", "saved; job 7 is queued again and goes on"),
        (12, "echo Requested operation is disabled >&2; exit 1",
         "saved; go on with it; Slurm does not queue job 7 again (Requested operation is disabled)"),
        (15, "exit 0", "saved; go on with it"),
    ],
)  # fmt: skip
def test_a_run_that_was_told_to_give_way_has_its_job_queued_again(in_job, monkeypatch, tmp_path, number, answer, says):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\n{answer}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, *jobs.REQUEUE)}
    try:
        with pytest.raises(Interrupted) as stop, requeuing(in_job(0)):
            raise Interrupted("saved; go on with it", number)
    finally:
        ignored = signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        signal.signal(signal.SIGTERM, before[signal.SIGTERM])
    # Slurm ends the job, whose process has yet to say so.
    assert ignored == (number != 15)
    assert {each: signal.getsignal(each) for each in before} == before
    assert str(stop.value) == says and stop.value.exit_code == 128 + number
    asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else None
    assert asked == (None if number == 15 else "requeue 7\n")


def test_a_signal_while_a_text_is_prepared_has_the_job_queued_again(in_job, monkeypatch):
    monkeypatch.setattr(jobs, "_requeue", lambda stop: stop)
    with pytest.raises(Interrupted, match="SIGUSR1 while nothing was trained"), requeuing(in_job(0)):
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(5)
    # Of several processes the first one answers.
    for name, value in srun(1, (2,)).items():
        monkeypatch.setenv(name, value)
    with requeuing(in_job(0)):
        os.kill(os.getpid(), signal.SIGUSR1)
