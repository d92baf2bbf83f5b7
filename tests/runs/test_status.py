"""What a run's directory says of it: not begun, running, done, failed, cut off."""

import json
import signal
import subprocess
import sys
import time

import pytest

from molino.base.errors import ConfigError, Interrupted
from molino.runs import directory
from molino.runs.status import (
    CUT_OFF,
    DONE,
    FAILED,
    NOT_BEGUN,
    RUNNING,
    STATUS,
    TRACEBACK,
    Busy,
    claim,
    enqueue,
    exclusive,
    fail,
    read_status,
    update,
)

HOLD = """
import sys, time
from pathlib import Path
from molino.runs.status import claim
with claim(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_run_goes_through_its_states(tmp_path):
    run = tmp_path / "run"
    assert read_status(run).state == ""
    enqueue(run, ["seed=1"], "abc")
    queued = read_status(run)
    assert (queued.state, queued.overrides, queued.asked) == (NOT_BEGUN, ["seed=1"], "abc")
    with claim(run):
        update(run, progress={"step": 5, "max_steps": 10})
        running = read_status(run)
        assert running.state == RUNNING and running.progress["step"] == 5 and running.overrides == ["seed=1"]
        directory.write_summary(run, {"val/loss": 1.5})
    done = read_status(run)
    assert done.state == DONE and done.summary == {"val/loss": 1.5} and done.asked == "abc"


def test_a_failure_is_counted_and_told(tmp_path):
    for number in (1, 2):
        with pytest.raises(ConfigError), claim(tmp_path):
            raise ConfigError("lr is\nwrong")
        status = read_status(tmp_path)
        assert (status.state, status.error, status.exit_code, status.failures) == (FAILED, "lr is wrong", 2, number)
    told = (tmp_path / TRACEBACK).read_text("utf-8")
    assert told.count("Traceback (most recent call last)") == 2 and "raise ConfigError" in told
    with pytest.raises(ZeroDivisionError), claim(tmp_path):
        _ = 1 / 0
    status = read_status(tmp_path)
    assert status.error == "ZeroDivisionError: division by zero" and status.exit_code == 1


@pytest.mark.parametrize("error", [Interrupted("stopped", signal.SIGTERM), KeyboardInterrupt(), SystemExit(143)])
def test_what_was_stopped_can_go_on(tmp_path, error):
    with pytest.raises(type(error)), claim(tmp_path):
        raise error
    assert read_status(tmp_path).state == CUT_OFF and read_status(tmp_path).failures == 0
    assert not (tmp_path / TRACEBACK).exists()


def test_a_dead_process_leaves_no_running_run(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert read_status(tmp_path).state == RUNNING
    with pytest.raises(Busy, match="is being trained by another process"), claim(tmp_path):
        pass
    assert read_status(tmp_path).state == RUNNING and read_status(tmp_path).failures == 0
    process.kill()
    process.wait()
    assert json.loads((tmp_path / STATUS).read_text())["state"] == RUNNING  # nobody was left to write another
    assert read_status(tmp_path).state == CUT_OFF
    with claim(tmp_path):
        assert read_status(tmp_path).state == RUNNING


def test_asking_does_not_keep_others_from_claiming(tmp_path):
    """Whoever asks whether a run is locked holds its lock for a moment."""
    update(tmp_path, state=RUNNING)
    (tmp_path / directory.LOCK).touch()
    code = f"""
import time
from pathlib import Path
from molino.runs.status import read_status
print("asking", flush=True)
end = time.monotonic() + 3
while time.monotonic() < end:
    read_status(Path({str(tmp_path)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    started = time.monotonic()
    while time.monotonic() - started < 2:
        with claim(tmp_path):
            pass
        update(tmp_path, state=RUNNING)
    process.kill()
    process.wait()


def test_a_run_of_before_there_was_a_status(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert read_status(tmp_path).state == CUT_OFF
    with exclusive(tmp_path):
        assert read_status(tmp_path).state == RUNNING
    directory.write_summary(tmp_path, {"val/loss": 2.0})
    assert read_status(tmp_path).state == DONE


@pytest.mark.parametrize("content", [b"", b'{"val/loss": 1.', b"[]"])
def test_a_half_written_summary_is_a_failure_that_says_what_to_do(tmp_path, content):
    (tmp_path / directory.SUMMARY).write_bytes(content)
    status = read_status(tmp_path)
    assert status.state == FAILED and "summary.json" in status.error and "delete it" in status.error
    assert "\n" not in status.error and (tmp_path / directory.SUMMARY).read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_status_is_as_none(tmp_path, content):
    (tmp_path / STATUS).write_bytes(content)
    assert read_status(tmp_path).state == ""
    enqueue(tmp_path, [], "abc")
    assert read_status(tmp_path).state == NOT_BEGUN


def test_a_death_that_others_tell_of(tmp_path):
    enqueue(tmp_path, [], "abc")
    fail(tmp_path, "its process was ended by SIGKILL")
    status = read_status(tmp_path)
    assert status.state == FAILED and status.failures == 1 and status.exit_code == 1
    enqueue(tmp_path, [], "abc")  # to be tried again; that it has failed is not forgotten
    assert read_status(tmp_path).failures == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [directory.LOCK, STATUS]


def test_a_run_without_its_summary_is_not_done(tmp_path):
    with claim(tmp_path):
        directory.write_summary(tmp_path, {"val/loss": 1.5})
    (tmp_path / directory.SUMMARY).unlink()
    assert read_status(tmp_path).state == ""
    (tmp_path / directory.CONFIG).write_text("seed: 0\n")
    assert read_status(tmp_path).state == CUT_OFF


def test_only_the_process_that_trains_a_run_writes_its_status(tmp_path):
    with claim(tmp_path):
        update(tmp_path, progress={"step": 5})
        enqueue(tmp_path, ["seed=0"], "abc")
        fail(tmp_path, "dead")
        status = read_status(tmp_path)
        assert (status.state, status.failures, status.asked) == (RUNNING, 0, None) and status.progress == {"step": 5}


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / f".{STATUS}.abc.tmp").write_text("{")
    with claim(tmp_path):
        assert not list(tmp_path.glob(".*.tmp"))


def test_one_process_writes_a_run(tmp_path):
    code = """
import sys
from pathlib import Path
from molino.base.errors import CheckpointError
from molino.runs.status import exclusive
try:
    with exclusive(Path(sys.argv[1])):
        print("mine")
except CheckpointError as error:
    print(error)
"""

    def other_process():
        return subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True).stdout

    with exclusive(tmp_path):
        assert other_process().startswith(f"{tmp_path.name} is being trained by another process")
    assert other_process() == "mine\n"
