"""Where runs stand, by their directories and by what a scheduler says of their jobs."""

import json
from pathlib import Path

import pytest

from molino.base.errors import CheckpointError, ResourceError
from molino.runs.status import (
    CANCELLED,
    CUT_OFF,
    DONE,
    FAILED,
    NOT_BEGUN,
    PENDING,
    RUNNING,
    enqueue,
    exclusive,
    read_status,
    update,
)
from molino.sweeps import standing
from molino.sweeps.jobs import Job, Submission, read_job, read_submission, write_job, write_submission
from molino.sweeps.scheduler import Told
from molino.sweeps.slurm import asking


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A sweep of four runs, submitted as the array 7; `says` is what the scheduler tells of its jobs."""
    home, says = tmp_path / ".slurm" / "abc", {}
    home.mkdir(parents=True)
    write_submission(home, Submission("7", {}, ["x"] * 4, True, str(tmp_path / ".slurm")))
    for index in range(4):
        enqueue(tmp_path / f"r{index}", [], "x")
        write_job(tmp_path / f"r{index}", Job("slurm", home, index))
    told = lambda submissions: {(home, index): each for index, each in says.items()}  # noqa: E731
    monkeypatch.setitem(standing.ASKED, "slurm", told)
    return [tmp_path / f"r{index}" for index in range(4)], says


def states(runs: list[Path]) -> list[str]:
    return [status.state for status in standing.statuses(runs).values()]


def test_what_waits_runs_or_has_ended(sweep):
    runs, says = sweep
    says |= {
        0: Told("7_0", PENDING, "Priority"),
        1: Told("7_1", RUNNING, since="2026-01-01T00:00:00"),
        2: Told("7_2", CANCELLED),
        3: Told("7_3", FAILED, "NonZeroExitCode"),
    }
    found = list(standing.statuses(runs).values())
    assert [each.state for each in found] == [PENDING, RUNNING, CANCELLED, FAILED]
    assert (found[0].job, found[0].reason, found[1].reason) == ("7_0", "Priority", "since 2026-01-01T00:00:00")
    assert "job 7_3 ended (NonZeroExitCode) before molino began" in found[3].error
    # Only who asks in order to go on records it.
    assert [read_status(run).state for run in runs] == [NOT_BEGUN] * 4 and read_job(runs[3]).ended is None
    standing.settled(runs)
    assert [read_status(run).state for run in runs] == [NOT_BEGUN, NOT_BEGUN, NOT_BEGUN, FAILED]
    assert [read_job(run).ended for run in runs] == [None, None, CANCELLED, FAILED]
    says.clear()
    assert states(runs)[2:] == [CANCELLED, FAILED] and standing.settled(runs)[runs[3]].failures == 1


def test_what_the_queue_does_not_know_does_not_wait(sweep):
    runs, _ = sweep
    log = runs[0].parent / ".slurm" / "7_1.log"
    log.write_text("\nmodule: not found\n\n")
    write_job(runs[2], read_job(runs[2]), began=True)
    (runs[3] / "config.yaml").write_text("{}")
    (runs[3] / "summary.json").write_text(json.dumps({"val/loss": 1.0}))
    found = list(standing.statuses(runs).values())
    assert [each.state for each in found] == [CANCELLED, FAILED, CUT_OFF, DONE]
    assert found[0].reason.startswith("it has left the queue without a trace; hydra.launcher.retry=cancelled")
    assert "before molino began: module: not found: see" in found[1].error and found[1].log == log
    assert found[2].error == "job 7_2 is gone from the queue"


def test_the_directory_decides_about_what_it_knows(sweep):
    runs, says = sweep
    says |= {index: Told(f"7_{index}", PENDING, "BeginTime") for index in range(4)}
    update(runs[0], state=FAILED, error="an old one")
    update(runs[2], state=FAILED, error="of the run itself")
    write_job(runs[2], read_job(runs[2]), began=True, ended=FAILED)
    with exclusive(runs[1]):
        update(runs[1], state=RUNNING)
        found = list(standing.statuses(runs).values())
    # What is submitted again is not told by its old failure.
    assert [each.state for each in found[:3]] == [PENDING, RUNNING, FAILED] and found[0].error is None
    assert found[2].error == "of the run itself"


def test_a_submission_that_was_not_answered_is_known_by_its_script_or_never_was(sweep):
    runs, says = sweep
    home = read_job(runs[0]).submission
    known = read_submission(home)
    write_submission(home, Submission(None, *list(vars(known).values())[1:]))
    assert states(runs) == [NOT_BEGUN] * 4
    says |= {index: Told(f"9_{index}", PENDING) for index in range(4)}
    assert states(runs) == [PENDING] * 4 and read_submission(home).id is None
    standing.settled(runs)
    assert read_submission(home).id == "9"


def test_a_scheduler_that_is_silent_is_an_error_only_for_who_has_to_know(sweep, monkeypatch):
    runs, _ = sweep

    def silent(submissions):
        raise ResourceError("Slurm does not answer: no")

    monkeypatch.setitem(standing.ASKED, "slurm", silent)
    found = standing.statuses(runs)
    assert {(each.state, each.reason) for each in found.values()} == {("", "Slurm does not answer: no")}
    with pytest.raises(ResourceError, match="does not answer"):
        standing.settled(runs)


@pytest.mark.parametrize(
    "job",
    [
        "{", "[]", '{"index": 1}', '{"scheduler": "slurm", "submission": ".slurm/abc", "index": [0]}',
        '{"scheduler": "pbs", "submission": ".slurm/abc", "index": 0}',
        '{"scheduler": "slurm", "submission": ".slurm/abc", "index": 99}',
        '{"scheduler": "slurm", "submission": 3, "index": 0}',
        '{"scheduler": [], "submission": ".slurm/abc", "index": 0}',
    ],
)  # fmt: skip
def test_a_damaged_record_hides_nothing(sweep, job):
    runs, says = sweep
    says |= {0: Told("7_0", PENDING), 1: Told("7_1", PENDING, "Priority")}
    (runs[0] / "job.json").write_text(job)
    assert states(runs[:2])[1] == PENDING and states(runs[:1])[0] in ("", NOT_BEGUN, CANCELLED)
    if read_job(runs[0]) is None:
        assert states(runs[:1]) == [""]  # unknown
        # Whether there is a job nobody can tell, so no second one is submitted.
        with pytest.raises(CheckpointError, match=r"job\.json is damaged or gone: .*squeue"):
            standing.settled(runs)


def test_an_id_that_is_none_of_a_scheduler_is_not_asked_for(sweep):
    runs, says = sweep
    home = read_job(runs[0]).submission
    known = read_submission(home)
    write_submission(home, Submission("--user=x", *list(vars(known).values())[1:]))
    says |= {0: Told("7_0", PENDING)}
    assert read_submission(home) is None and states(runs[:1]) == [""]
    with pytest.raises(CheckpointError, match=r"submission\.json is damaged"):
        standing.settled(runs)


@pytest.mark.parametrize("changed", [{"asked": 3}, {"logs": 7}, {"settings": []}, {"array": "yes"}, None])
def test_a_damaged_submission_hides_nothing(sweep, changed):
    runs, _ = sweep
    home = read_job(runs[0]).submission
    if changed is None:
        (home / "submission.json").unlink()
    else:
        content = json.loads((home / "submission.json").read_text()) | changed
        (home / "submission.json").write_text(json.dumps(content))
    assert states(runs) == [""] * 4
    # What has ended has no job that could wait.
    write_job(runs[1], read_job(runs[1]), began=True, ended=FAILED)
    assert states(runs)[1] == NOT_BEGUN


def test_a_folder_that_moves_takes_its_jobs_along(sweep, tmp_path):
    assert len(sweep[0]) == 4
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert read_job(moved / "r1").submission == moved / ".slurm" / "abc"


SQUEUE = """\
7_0|PENDING|Priority|N/A|/x/.slurm/abc/job.sh
7_1|COMPLETING|None|2026-01-01T00:00:00|/x/.slurm/abc/job.sh
8|CANCELLED|None|N/A|/x/.slurm/a|b/job.sh
"""
SACCT = """\
7_[2-3%1]|PENDING|0:0|Unknown
7_2|CANCELLED by 1000|0:0|None
7_3|FAILED|3:0|2026-01-01T00:00:00
"""


def test_what_slurm_prints_is_read(monkeypatch):
    printed = {"squeue": SQUEUE, "sacct": SACCT}
    asked = []
    monkeypatch.setattr(asking, "answer", lambda *command: asked.append(command) or printed[command[0]])
    array, single = Path("/x/.slurm/abc"), Path("/x/.slurm/a|b")
    submissions = {
        array: Submission("7", {}, ["x"] * 4, True, ""),
        single: Submission(None, {}, ["x"], False, ""),
    }
    assert asking.ask(submissions) == {
        (array, 0): Told("7_0", PENDING, "Priority"),
        (array, 1): Told("7_1", RUNNING, "None", "2026-01-01T00:00:00"),
        (array, 2): Told("7_2", CANCELLED),
        (array, 3): Told("7_3", FAILED, "FAILED, exit code 3"),
        (single, 0): Told("8", CANCELLED),
    }
    assert "--me" in asked[0]
    printed["squeue"] = "9_0|/x/.slurm/abc/job.sh\n9_1|/x/.slurm/abc/job.sh\n"
    assert asking.find(array) == "9" and asking.find(single) is None
