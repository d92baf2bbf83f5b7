"""What a job makes of the words of srun and of its processes."""

import signal

import pytest

from molino.runs.status import FAILED, Status, read_status, update
from molino.sweeps.slurm.inside import Heard, _failed, _hear


def heard_of(*lines: str, several: bool = False) -> tuple[Heard, str]:
    heard = Heard()
    return heard, "".join(_hear(line, heard, several) for line in lines)


@pytest.mark.parametrize(
    ("line", "first", "saved", "died"),
    [
        ("srun: error: node2: task 1: Killed\n", (1, "node2", "Killed"), None, "process 1 on node2 was ended: Killed"),
        ("srun: error: n: tasks 2-3: Exited with exit code 140\n", (2, "n", "Exited with exit code 140"), 12, None),
        ("srun: error: n: task 0: Exited with exit code 143\n", (0, "n", "Exited with exit code 143"), 15, None),
        ("srun: error: n: task 0: Exited with exit code 3\n", (0, "n", "Exited with exit code 3"), None, None),
        # While it starts up nothing saves, and nobody has ended it from outside.
        ("srun: error: n: task 0: Terminated\n", (0, "n", "Terminated"), 15, None),
        ("srun: error: n: task 0: User defined signal 2\n", (0, "n", "User defined signal 2"), signal.SIGUSR2, None),
    ],
)
def test_who_ended_first_and_how(line, first, saved, died):
    heard, _ = heard_of(line, "srun: error: n: task 9: Segmentation fault\n")
    assert (heard.first, heard.saved, heard.died) == (first, saved, died)


def test_lines_of_several_processes_are_told_apart():
    heard, log = heard_of("0: step 1\n", "1: molino: no\n", "1: \n", "0: step 2\n", several=True)
    assert log == "step 1\n[1] molino: no\n[1] \nstep 2\n" and heard.last == {0: "step 2", 1: "molino: no"}


def test_what_srun_refuses_is_the_reason(tmp_path):
    lines = ("srun: unrecognized option '--nope'\n", 'Try "srun --help" for more information\n')
    heard, log = heard_of(*lines)
    heard.status = 255
    (tmp_path / "run").mkdir()
    _failed(tmp_path / "run", heard, Status(""))
    assert log == "".join(lines) and "srun: unrecognized option '--nope'" in read_status(tmp_path / "run").error


def test_the_process_that_failed_first_is_named_and_not_the_echo(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    update(run, state=FAILED, error="Connection reset by peer", failures=1)  # as the first process has it
    heard, _ = heard_of(
        "1: molino: the loss is nan\n", "srun: error: n2: task 1: Exited with exit code 6\n", several=True
    )
    heard.status = 6
    _failed(run, heard, Status(""))
    assert read_status(run).error == "process 1 on n2 failed first: molino: the loss is nan"
    assert read_status(run).failures == 1
