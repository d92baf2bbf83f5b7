"""Where the runs of a sweep stand on a real Slurm with accounting and limits, and what the command given again does."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cluster
import pytest
from conftest import ROOT
from on_slurm import ENDLESS, HELD, SLURM, WAIT, ask, job_of, queue, running_slurm, script_of, training, until, using
from sweeping import SMALL, places, run_of, runs_of, sweep_dir

from molino.runs.status import CANCELLED, CUT_OFF, DONE, PENDING, RUNNING, read_status
from molino.sweeps.slurm import asking
from molino.sweeps.standing import statuses

pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    with running_slurm(cpus=3, accounting=True, max_array=9, min_job_age=5) as environment:
        yield environment


@pytest.fixture(autouse=True)
def on_slurm(slurm) -> Iterator[None]:
    with using(slurm):
        yield


@pytest.fixture
def train(molino, tiny, tmp_path):
    """Give the command of a sweep."""
    return lambda *arguments: molino("train", "-m", *SLURM, *SMALL, *places(tiny, tmp_path), *arguments)


def where(sweep: Path) -> dict[str, str]:
    """Where the runs of a sweep stand, by name."""
    runs = sorted(path.parent for path in sweep.glob("*/status.json"))
    return {run.name: status.state for run, status in statuses(runs).items()}


def test_what_the_cluster_allows_is_submitted_and_the_rest_later(train, slurm, tmp_path):
    seeds = "seed=range(0,12)"
    cluster.limit(slurm, MaxSubmitJobs=3)
    try:
        done = train(seeds, HELD)
        assert done.status == 0, done.err
        assert len(queue()) == 3 and "9 runs are left, for which Slurm has no place" in done.out
        assert "9 not begun" in done.out and "3 pending (3 JobHeldUser)" in done.out
        again = train(seeds, HELD)
        assert again.status == 0 and "3 runs are in Slurm's queue already" in again.out and len(queue()) == 3
    finally:
        cluster.limit(slurm, MaxSubmitJobs=None)
    # More than an array takes here.
    done = train(seeds, HELD)
    assert done.status == 0 and "submitted 9 runs" in done.out and len(queue()) == 12
    assert set(where(sweep_dir(tmp_path)).values()) == {PENDING}


def test_an_array_is_no_larger_than_the_cluster_takes(train, tmp_path):
    done = train("seed=range(0,12)", HELD)
    assert "submitted 9 runs" in done.out and "submitted 3 runs" in done.out and len(queue()) == 12


def test_what_is_cancelled_stays_so_until_it_is_asked_for(train, molino, tmp_path):
    assert train("seed=0,1", HELD).status == 0
    first = run_of(tmp_path, "seed=0")
    ask("scancel", job_of(first))
    done = train("seed=0,1", HELD)
    assert "1 cancelled, 1 pending" in done.out and "add hydra.launcher.retry=cancelled" in done.out
    # Also when the controller has forgotten it, and by the directory alone when there are no books either.
    assert len(queue()) == 1 and where(sweep_dir(tmp_path)) == {"seed=0": CANCELLED, "seed=1": PENDING}
    table = molino("results", str(sweep_dir(tmp_path)))
    assert f"job {job_of(first)}" in table.out and "JobHeldUser" in table.out, table.out
    done = train("seed=0,1", HELD, "hydra.launcher.retry=cancelled")
    assert done.status == 0 and "submitted 1 run as" in done.out and len(queue()) == 2


def test_what_waits_is_submitted_anew_with_what_is_said_now(train, tmp_path):
    assert train("seed=0,1", HELD, "sweep=mine").status == 0
    before = queue()
    done = train("seed=0,1", HELD, "sweep=mine", "hydra.launcher.minutes=20")
    assert done.status == 0 and "2 runs that wait are submitted anew" in done.out
    assert len(queue()) == 2 and not set(queue()) & set(before)
    assert ask("squeue", "--noheader", "--array", "--format=%l").split() == ["20:00", "20:00"]
    # A sweep that has not begun may be given with other settings.
    done = train("seed=0,1", HELD, "sweep=mine", "hydra.launcher.minutes=20", "trainer.max_steps=7")
    assert done.status == 0 and "2 runs that wait are submitted anew" in done.out and len(queue()) == 2
    ask("scontrol", "release", *queue())
    until(
        lambda: all(read_status(run_of(tmp_path, name)).state == DONE for name in ("seed=0", "seed=1")), "both to end"
    )
    assert read_status(run_of(tmp_path, "seed=0")).summary["steps"] == 7


def test_a_correction_that_slurm_refuses_leaves_what_waits_as_it_is(train, tmp_path):
    assert train("seed=0,1", HELD).status == 0
    before = queue()
    done = train("seed=0,1", HELD, "hydra.launcher.account=nobodys")
    assert done.status == 5 and "those that wait stay as they are" in done.err and "anew" not in done.out
    assert queue() == before and set(where(sweep_dir(tmp_path)).values()) == {PENDING}


def test_odd_names_and_a_folder_that_moves(train, molino, tiny, tmp_path):
    odd = ("sweep='50%j it\\'s, \"x\"'", f"paths.outputs='{tmp_path}/o %A'")
    assert train("seed=0,1", HELD, "hydra.launcher.comment='it\\'s \"so\"'", *odd).status == 0
    before = queue()
    assert ask("squeue", "--noheader", "--array", "--format=%k").splitlines() == ['it\'s "so"'] * 2
    (tmp_path / "o %A").rename(tmp_path / "moved")
    moved = (odd[0], f"paths.outputs='{tmp_path}/moved'")
    done = train("seed=0,1", WAIT, *moved)
    assert done.status == 0 and "2 runs that wait are submitted anew" in done.out, done.out + done.err
    assert not set(queue()) & set(before)
    again = train("seed=0,1", WAIT, *moved)
    assert again.status == 0 and "2 done" in again.out and "submitted" not in again.out


def test_what_ends_before_it_begins_has_failed_and_its_log_is_shown(train, tmp_path):
    setup = "hydra.launcher.setup=[echo nothing to load, 'false', echo not here]"
    done = train("seed=0", setup, WAIT)
    run = run_of(tmp_path, "defaults")
    assert done.status == 1 and "before molino began: nothing to load: see" in done.out and "end of" in done.out
    assert "not here" not in done.out and read_status(run).failures == 1
    again = train("seed=0", setup, WAIT)
    assert "1 to try again" in again.out and read_status(run).failures == 2
    # What is submitted again is not told by its old failure.
    done = train("seed=0", HELD)
    assert done.status == 0 and "1 pending" in done.out and "failed" not in done.out


def test_a_command_that_is_killed_while_it_submits_does_not_submit_twice(train, tiny, slurm, tmp_path, monkeypatch):
    slow = tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True).stdout.strip()
    slow.write_text(f'#!/bin/sh\n{real} "$@"\ntouch {tmp_path}/asked\nsleep 3\n')
    slow.chmod(0o755)
    path = f"{slow.parent}:{os.environ['PATH']}"
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *SLURM, *SMALL, HELD, "seed=0,1"]
    first = subprocess.Popen(
        [*command, *places(tiny, tmp_path)], env=os.environ | {"PATH": path}, stdout=subprocess.PIPE, text=True
    )
    until((tmp_path / "asked").exists, "sbatch to answer")
    first.kill()
    done = train("seed=0,1", HELD)
    assert done.status == 0 and "2 runs are in Slurm's queue already" in done.out, done.out + done.err
    assert len(queue()) == 2 and job_of(run_of(tmp_path, "seed=1")) == queue()[-1]
    first.communicate()


def test_what_the_jobs_read_is_prepared_before_the_first_of_them_begins(train, tmp_path):
    done = train("seed=0", HELD, f"paths.cache={tmp_path / 'cache'}")
    assert done.status == 0 and len(queue()) == 1
    kept = {file.name for file in (tmp_path / "cache").rglob("*") if file.is_file()}
    assert {"meta.json", "train.documents.npy"} <= kept, kept


def test_print_shows_the_script_and_submits_nothing(train, tmp_path):
    template = tmp_path / "mine.sh"
    template.write_text("#!/bin/bash\n# of the lab\n{{directives}}\n{{setup}}\necho here\n{{command}}\n")
    more = (
        "hydra.launcher.account=tests", "hydra.launcher.constraint=a100", "hydra.launcher.mail_user=a@b",
        "hydra.launcher.mail_type=END", "hydra.launcher.memory_per_cpu=0.5", "hydra.launcher.setup=[module load x]",
    )  # fmt: skip
    done = train("seed=0,1", "hydra.launcher.print=true", f"hydra.launcher.template={template}", *more)
    assert done.status == 0 and "#!/bin/bash\n# of the lab\n" in done.out and "module load x\n" in done.out
    for line in (
        "account=tests",
        "constraint=a100",
        "mail-user=a@b",
        "mail-type=END",
        "mem-per-cpu=512M",
        "array=0-1%256",
    ):
        assert f"#SBATCH --{line}\n" in done.out
    assert subprocess.run(["bash", "-n"], input=done.out.partition("#!/bin")[2], text=True).returncode == 0
    assert not queue() and not list(tmp_path.rglob("status.json"))


def test_hardware_auto_asks_for_a_gpu_where_the_partition_has_some(train, tmp_path):
    shown = ("hydra.launcher.print=true", "hardware=auto", "hardware.threads=1")
    assert "#SBATCH --gpus-per-node=1\n" in train("hydra.launcher.partition=gpu", *shown).out
    assert "gpus" not in train("hydra.launcher.partition=plain", *shown).out
    named = train("hydra.launcher.partition=gpu", *shown, "hydra.launcher.gres='gpu:2'").out
    assert "#SBATCH --gres=gpu:2\n" in named and "gpus-per-node" not in named
    refused = train("hydra.launcher.partition=plain", "hydra.launcher.print=true", "hardware=gpu")
    assert refused.status == 2 and "partition plain has none" in refused.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hydra.launcher.minutes=1", "hydra.launcher.signal_seconds=60"], "is no less than the job's time"),
        (["+x=1"], "x is not a setting"),
        (["model.n_head=1,3"], "n_head=3: "),
        (["hydra.launcher.options={array: 3}"], "follows from hydra.launcher.at_once"),
        (["hydra.launcher.options={time: 3}"], "says what hydra.launcher.minutes does"),
        (["hydra.launcher.options={mail_type: END}"], "write mail-type"),
        (["hydra.launcher.retry=all"], "choose cancelled"),
        (["hydra.launcher.memory=1", "hydra.launcher.memory_per_cpu=1"], "exclude each other"),
        (["hydra.launcher.template=nowhere.sh"], "cannot be read"),
        (["hydra.launcher.srun=[--ntasks=2]"], "follow from hardware"),
        (["hydra.launcher.logs=/proc/nowhere"], "set hydra.launcher.logs"),
        (["hydra.launcher.cpus=0"], "must be at least 1"),
        (["hydra.launcher.partition=short"], "partition short allows 10"),
        (["hydra.launcher.cpus=4"], "takes 4 cores of a node (hydra.launcher.cpus), and the default partition has 3"),
        (["hydra.launcher.options={test-only: true}"], "follows from hydra.launcher.print"),
        (["hydra.launcher.options={test: true}"], "follows from hydra.launcher.print"),
        (["sweep='back\\\\sl'"], "for the backslash in its name"),
        (["hydra.launcher.options={parsable: true}"], "follows from how molino asks for jobs"),
        (["hydra.launcher.gpus=1", "hydra.launcher.gres='gpu:1'"], "exclude each other"),
    ],
)
def test_refused_before_anything_is_submitted(train, tmp_path, arguments, says):
    done = train(*arguments)
    assert done.status in (2, 5) and says in done.err and done.err.count("\n") == 1, done.err + done.out
    assert not queue() and not list(tmp_path.rglob("job.json"))


def test_without_an_answer_nothing_is_submitted_and_results_say_so(train, molino, tmp_path, monkeypatch):
    assert train("seed=0", HELD).status == 0
    with monkeypatch.context() as silent:
        silent.setattr(asking, "SECONDS", 2)
        silent.setenv("SLURM_CONF", str(tmp_path / "nowhere.conf"))
        done = train("seed=0", HELD)
        assert done.status == 5 and "Slurm does not answer" in done.err and done.err.count("\n") == 1
        table = molino("results", str(sweep_dir(tmp_path)))
        assert table.status == 0 and "Slurm does not answer" in table.out and "unknown" in table.out
    assert len(queue()) == 1


def test_a_run_that_is_trained_here_gets_no_job(train, tiny, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "train.py"),
        "-m",
        *ENDLESS,
        *places(tiny, tmp_path),
        "sweep=mine",
    ]
    here = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    until(lambda: list(tmp_path.rglob("config.yaml")) and training(run_of(tmp_path, "defaults")), "training")
    done = train(*ENDLESS, "sweep=mine")
    assert done.status == 0 and "or are being trained" in done.out and not queue(), done.out + done.err
    here.send_signal(signal.SIGTERM)
    here.wait()


def test_what_waits_in_the_queue_is_left_to_it_by_others(train, molino, tiny, tmp_path):
    assert train("seed=0,1", HELD).status == 0
    done = molino("train", "-m", *SMALL, *places(tiny, tmp_path), "seed=0,1")
    assert "pending as job" in done.out and len(queue()) == 2 and not runs_of(sweep_dir(tmp_path))


def test_waiting_is_taken_up_again(train, tmp_path):
    assert train("seed=0,1", HELD).status == 0
    ask("scontrol", "release", *queue())
    done = train("seed=0,1", HELD, WAIT)
    assert done.status == 0 and "[2/2] done" in done.out and "submitted" not in done.out, done.out + done.err


@pytest.mark.parametrize("deaths", [1, 0])
def test_a_process_that_dies_is_told_and_its_run_goes_on_so_often(train, molino, tmp_path, deaths):
    two = ("hardware=ddp", "hardware.accelerator=cpu", f"hydra.launcher.deaths={deaths}")
    arguments = (*ENDLESS, *two, "seed=0")
    assert train(*arguments).status == 0
    run = run_of(tmp_path, "defaults")
    until(lambda: training(run, after=5), "training")
    (second,) = [pid for pid in _processes(run) if b"SLURM_PROCID=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(second, signal.SIGKILL)
    until(lambda: read_status(run).state == CUT_OFF, "the death to be noticed")
    until(
        lambda: read_status(run).error and "process 1 on 127.0.0.1 was ended: Killed" in read_status(run).error, "why"
    )
    assert read_status(run).failures == 0
    if deaths:
        saved = read_status(run).progress.get("step", 0)
        until(lambda: training(run, after=saved), "the run to come back")
        return
    until(lambda: not queue(), "the job to end")
    table = molino("results", str(sweep_dir(tmp_path)))
    assert "lost a process (hydra.launcher.deaths=0)" in table.out, table.out


def test_a_task_of_an_array_speaks_for_itself_alone(train, tmp_path):
    """The last task of an array bears the number of the whole."""
    assert train(*ENDLESS, "seed=0,1,2").status == 0
    runs = [run_of(tmp_path, f"seed={seed}") for seed in range(3)]
    # One is cancelled while it starts up: nothing has begun that could save.
    until(lambda: read_status(runs[0]).state == RUNNING or _processes(runs[0]), "the first to start")
    ask("scancel", job_of(runs[0]))
    until(lambda: statuses([runs[0]])[runs[0]].state == CANCELLED, "the first to end")
    until(lambda: training(runs[1], after=5) and training(runs[2], after=5), "training")
    os.kill(_processes(runs[2])[0], signal.SIGKILL)
    until(lambda: "was ended: Killed" in (read_status(runs[2]).error or ""), "the death to be noticed")
    until(lambda: statuses([runs[2]])[runs[2]].state == PENDING, "its job to wait")
    step = read_status(runs[1]).progress["step"]
    until(lambda: training(runs[2], after=0), "it to come back")
    assert training(runs[1], after=step) and "resumed" not in (runs[1] / "log.txt").read_text()
    assert where(sweep_dir(tmp_path))["seed=0"] == CANCELLED
    assert json.loads((runs[0] / "job.json").read_text())["deaths"] == 0


def _processes(run: Path) -> list[int]:
    """The processes that train a run."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
                told = (process / "environ").read_bytes()
            except OSError:
                continue
            if (
                b"train" in command
                and b"MOLINO_REQUEST=" in told
                and str(run).encode() in told
                and command[0] != b"srun"
            ):
                found.append(int(process.name))
    return found


def test_a_run_that_is_queued_again_goes_on_and_one_that_runs_out_of_time_too_often_says_so(train, tmp_path):
    assert train(*ENDLESS, "seed=0", "hydra.launcher.requeues=0").status == 0
    run = run_of(tmp_path, "defaults")
    until(lambda: training(run, after=5), "training")
    ask("scontrol", "requeue", job_of(run))
    until(lambda: read_status(run).state == CUT_OFF, "the run to save")
    saved = read_status(run).progress["step"]
    until(lambda: statuses([run])[run].state == PENDING, "the job to wait")
    until(lambda: training(run, after=saved), "the run to come back")
    ask("scancel", "--signal=USR2", job_of(run))
    until(lambda: not queue(), "the job to end")
    status = statuses([run])[run]
    assert status.state == CUT_OFF and "ran out of time (hydra.launcher.requeues=0)" in status.error


def test_a_command_that_is_typed_in_a_job_hands_on_nothing_of_it(train, tmp_path, monkeypatch):
    told = {
        "SLURM_ARRAY_JOB_ID": "99",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_RESTART_COUNT": "1",
        "SBATCH_PARTITION": "plain",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    done = train("seed=0", WAIT, "hydra.launcher.partition=high", "hydra.launcher.options={nice: 1}")
    assert done.status == 0, done.out + done.err
    run = run_of(tmp_path, "defaults")
    assert ask("sacct", "--noheader", "--jobs", job_of(run), "--format=Partition", "-X").split() == ["high"]


def test_a_job_that_is_handed_no_environment_trains(train, tmp_path, monkeypatch):
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    done = train("seed=0", WAIT)
    assert done.status == 0, done.out + done.err
    assert "OMP_NUM_THREADS=1\n" in script_of(sweep_dir(tmp_path))


def test_a_search_that_was_killed_waits_for_the_trials_that_are_in_the_queue(train, tiny, tmp_path):
    pytest.importorskip("optuna")
    search = (
        WAIT,
        HELD,
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.batch=2",
        "seed=choice(1,2,3)",
    )
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *SLURM, *SMALL, *search, "sweep=mine"]
    first = subprocess.Popen([*command, *places(tiny, tmp_path)], stdout=subprocess.DEVNULL)
    until(lambda: len(queue()) == 2, "two trials to wait")
    first.kill()
    first.wait()
    ask("scontrol", "release", *queue())
    done = train(*search, "sweep=mine")
    assert done.status == 0 and "0 of 2 trials have ended, 2 to go on with" in done.out, done.out + done.err
    assert "2 trials ended as planned" in done.out and "submitted" not in done.out
