"""Runs whose processes somebody else has started: one run, the same numbers, and nobody waits for ever."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import bare, by_hand, ended, launch, mpirun, srun
from running import free_port, metrics, only_run, weights

from molino.base.errors import Followed, ResourceError
from molino.base.files import lock
from molino.configuration.request import Request
from molino.runs import directory
from molino.runs.status import CUT_OFF, read_status
from molino.training import meeting as meetings
from molino.training.meeting import FOLDER, meet

# Large enough for the number of threads to show in the weights.
SIZES = (
    "data=text", "data.block_size=32", "data.batch_size=16", "model.n_layer=1", "model.n_head=4", "model.n_embd=64",
    "model.dropout=0.0", "debug=fast", "trainer.sample_tokens=0", "hardware.accelerator=cpu", "hardware.threads=1",
)  # fmt: skip
TWO = (*SIZES, "hardware=ddp")
NODES = (*TWO, "hardware.devices=1", "hardware.num_nodes=2")
# Which cores the first process sees, and the second.
CORES = ("0", "0-1")


@pytest.fixture
def settings(tiny) -> list[str]:
    return [f"data.path={tiny.file}", f"paths.cache={tiny.cache}"]


def train(home: Path, environments: list[dict[str, str]], *settings: str) -> list[tuple[int, str, str]]:
    places = zip(environments, CORES, strict=True)
    return ended(*(launch(home, environment, *settings, cores=cores) for environment, cores in places))


def of_two(starter, *more) -> list[dict[str, str]]:
    return [starter(rank, *more) for rank in range(2)]


def same_weights(run: Path, other: Path) -> bool:
    expected = weights(other)
    return all(torch.equal(value, expected[name]) for name, value in weights(run).items())


@pytest.fixture(scope="module")
def by_lightning(tiny, tmp_path_factory) -> Path:
    """The run of two processes of which Lightning starts the second, on one core."""
    home = tmp_path_factory.mktemp("by_lightning")
    places = (f"data.path={tiny.file}", f"paths.cache={tiny.cache}")
    ((status, _, err),) = ended(launch(home, {}, *TWO, *places, cores="0"))
    assert status == 0, err
    return only_run(home)


def test_lightnings_own_start_sums_as_one_process_does(by_lightning, molino, settings, tmp_path):
    done = molino("train", *SIZES, *settings, f"paths.outputs={tmp_path / 'outputs'}")
    assert done.status == 0, done.err
    expected = weights(only_run(tmp_path))
    for name, value in weights(by_lightning).items():
        torch.testing.assert_close(value, expected[name], atol=4e-5, rtol=1e-3)


@pytest.mark.parametrize("way", ["srun", "mpirun", "torchrun"])
def test_the_tasks_of_a_job_are_one_run_of_the_same_numbers(way, by_lightning, settings, tmp_path):
    """Whatever cores each sees, and where nothing but the setting says how many threads compute."""
    if way == "srun":  # on two nodes
        said = train(tmp_path, of_two(srun, (1, 1)), *NODES, *settings)
    elif way == "mpirun":
        said = train(tmp_path, of_two(mpirun, (2,)), *TWO, *settings)
    else:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "molino"]
        done = subprocess.run(
            [*torchrun, "train", *TWO, *settings], cwd=tmp_path, env=bare(), capture_output=True, text=True, timeout=120
        )
        said = [(done.returncode, done.stdout, done.stderr), (0, "", "")]
    (status, out, err), (further, silent, also_silent) = said
    assert status == further == 0, err + also_silent
    assert out.count("\nresult\n") == 1 and silent == "" and "2 x cpu (1 thread)" in out
    run = only_run(tmp_path)
    assert directory.is_done(run) and same_weights(run, by_lightning) and metrics(run) == metrics(by_lightning)
    assert not (tmp_path / "outputs" / FOLDER).exists()


def test_a_run_begins_from_another_and_goes_on(tiny, settings, tmp_path):
    begun = [f"weights=data=text data.path={tiny.file} {' '.join(TWO[1:])}", "name=child", "hardware=ddp"]
    small = [each for each in SIZES if not each.startswith("model.n_")]
    said = train(tmp_path, of_two(by_hand, (2,), free_port()), *small, *begun, *settings)
    assert [status for status, *_ in said] == [0, 0], said
    (child,) = (tmp_path / "outputs").glob("child*")
    (origin,) = (tmp_path / "outputs" / "weights").glob("*/seed=0")
    assert directory.is_done(origin) and not same_weights(child, origin)
    # As if it had been cut off before its summary.
    summary = directory.read_summary(child)
    (child / directory.SUMMARY).unlink()
    said = train(tmp_path, of_two(srun, (2,)), f"resume={child}", *settings[1:])
    assert [status for status, *_ in said] == [0, 0] and "resumed" in said[0][1], said
    assert directory.read_summary(child)["val/loss"] == summary["val/loss"]
    assert not (tmp_path / "outputs" / FOLDER).exists()


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        (("optimizer.lr=-1",), 2, "Invalid learning rate"),
        (("-m", "seed=0,1"), 2, "-m trains many runs from one process, and srun has started 2"),
    ],
)
def test_what_goes_wrong_is_told_once(more, status, says, settings, tmp_path):
    (first, out, err), (further, *silent) = train(tmp_path, of_two(srun, (2,)), *TWO, *settings, *more)
    assert first == further == status and silent == ["", ""], (out, err, silent)
    assert says in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_is_killed_the_others_end(victim, settings, tmp_path):
    endless = ("trainer.max_steps=1000000", "trainer.val_every=1000000", "trainer.checkpoint_every=10")
    processes = [launch(tmp_path, srun(rank, (2,)), *TWO, *settings, *endless) for rank in range(2)]
    end = time.monotonic() + 60
    while not list((tmp_path / "outputs").glob("*/checkpoints/last.ckpt")) and time.monotonic() < end:
        time.sleep(0.1)
    processes[victim].kill()
    said = ended(*processes)
    assert [status for status, *_ in said] == [-9 if number == victim else 137 for number in range(2)], said
    assert "a process of the run has died: go on with" in said[1 - victim][2] and "Traceback" not in said[0][2]
    assert read_status(only_run(tmp_path)).state == CUT_OFF and not (tmp_path / "outputs" / FOLDER).exists()


@pytest.fixture
def further(monkeypatch, tmp_path):
    """The second process, in this one."""
    for name in set(os.environ) - set(bare()):
        monkeypatch.delenv(name)
    for name, value in srun(1, (2,)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(meetings, "LEAVING", 0.1)
    monkeypatch.setattr(meetings.signal, "signal", lambda *_: None)
    return Request({"paths": {"outputs": str(tmp_path)}}, ["seed=1"], {})


def test_what_an_earlier_start_has_told_is_for_nobody(further, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(meetings, "COMING", 0.5)
    with pytest.raises(Followed) as left, meet(further) as meeting:
        told = {"from": "0-a", "to": ["1-b"], "request": None, "status": 0}
        (meeting.folder / "0-a").touch()
        (meeting.folder / "told-1.json").write_text(json.dumps(told))
        list(meeting.follow())
    assert left.value.exit_code == 5 and not (tmp_path / FOLDER).exists()
    assert "the first process of the 2 has not come within" in capsys.readouterr().err


def test_who_does_not_come_is_named(further, monkeypatch, tmp_path):
    monkeypatch.setattr(meetings, "COMING", 0.3)
    monkeypatch.setenv("SLURM_PROCID", "0")
    with (
        pytest.raises(ResourceError, match="process 1 of the 2 that srun has started has not come"),
        meet(further) as meeting,
        meeting.handed_over(further),
    ):
        pass
    assert not (tmp_path / FOLDER).exists()


def test_two_starts_that_cannot_be_told_apart_are_refused(further, monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_PROCID", "0")
    with (
        pytest.raises(ResourceError, match="two processes are number 0 of the same start"),
        meet(further) as one,
        lock(one.folder / "0-another"),
        one.handed_over(further),
    ):
        pass
