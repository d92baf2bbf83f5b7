"""Runs and sweeps of before: written by the version of before settings were recorded whole and rooms were moved.

`tests/earlier` holds them as they were left, but for TensorBoard's events: a run that is done, one that was killed, a
sweep that was killed with two runs done, one in the middle and one queued, a sweep that nobody named, and a search.
`expected.json` holds what that version made of them when it went on.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import CPU

from molino.runs import directory
from molino.runs.status import CUT_OFF, DONE, NOT_BEGUN, read_status
from molino.trained.load import load_run

EARLIER = Path(__file__).parent / "earlier"
EXPECTED = json.loads((EARLIER / "expected.json").read_text())
TYPED = (
    "data=grammar", "data.corpus.characters=20000", "data.block_size=16", "data.batch_size=4", "debug=fast", *CPU,
    "model=bigram",
)  # fmt: skip
KEPT = (
    "-m", *TYPED, "sweep=kept", "optimizer.lr=1e-2,1e-3", "seed=0,1", "trainer.max_steps=4000",
    "trainer.val_every=2000", "trainer.log_every=200", "trainer.checkpoint_every=200",
)  # fmt: skip
SEARCHED = (
    "-m", *TYPED, "sweep=searched", "hydra/sweeper=optuna", "hydra.sweeper.startup_trials=1",
    "optimizer.lr=tag(log,interval(1e-3,1e-1))",
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def outputs(tmp_path):
    return Path(shutil.copytree(EARLIER, tmp_path / "outputs"))


@pytest.fixture
def train(molino, outputs, cache):
    def run(*settings: str):
        return molino("train", *settings, f"paths.outputs={outputs}", f"paths.cache={cache}")

    return run


def assert_as_expected(run: Path, name: str) -> None:
    summary = directory.read_summary(run)
    for tag, value in EXPECTED[name].items():
        # Bit for bit on the machine they were made on; other processors round otherwise.
        assert summary[tag] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-3)), tag


def stamps(sweep: Path) -> dict[str, int]:
    """When the summaries of a sweep were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in sweep.glob("*/summary.json")}


def test_a_run_that_was_killed_goes_on(train, outputs):
    assert read_status(outputs / "cut_off").state == CUT_OFF
    done = train("resume=cut_off")
    assert done.status == 0, done.err
    assert "resumed" in done.out
    assert_as_expected(outputs / "cut_off", "cut_off")


def test_a_run_that_is_done_is_evaluated_sampled_explained_and_exported(molino, outputs, cache, tmp_path):
    loaded = load_run(outputs / "done", "last", torch.device("cpu"))
    assert loaded.step == 20
    places = [f"paths.outputs={outputs}"]
    done = molino("evaluate", "run=done", "checkpoint=last", *places, f"paths.cache={cache}", *CPU)
    assert done.status == 0 and f"{EXPECTED['done']['val/loss']:.4f}"[:-1] in done.out, done.err
    done = molino("generate", "run=done", "prompt=Cuenta", "max_new_tokens=20", *places, *CPU)
    assert done.status == 0 and len(done.out) > 20, done.err
    done = molino("explain", "run=done", "prompt=Cuenta", *places, *CPU)
    assert done.status == 0, done.err
    done = molino("export", "run=done", f"to={tmp_path / 'exported'}", *places)
    assert done.status == 0 and (tmp_path / "exported" / "config.json").is_file(), done.err


def test_a_sweep_goes_on(train, outputs):
    sweep = outputs / "sweeps" / "kept"
    before = stamps(sweep)
    assert len(before) == 2 and read_status(sweep / "optimizer.lr=0.001,seed=1").state == NOT_BEGUN
    # What makes no difference may be said otherwise.
    done = train(*KEPT, "logger.csv=null", "name=other", "hardware.threads=2")
    assert done.status == 0, done.err
    assert "4 runs: 2 done, 1 to go on with, 1 new\n" in done.out and done.out.count("resumed ") == 1
    assert stamps(sweep).items() > before.items() and len(stamps(sweep)) == 4
    for name in stamps(sweep):
        assert_as_expected(sweep / name, f"sweeps/kept/{name}")
    again = train(*KEPT)
    assert again.status == 0 and "4 runs: 4 done" in again.out


def test_a_setting_that_changes_results_is_noticed(train, outputs):
    for setting, says in (
        ("optimizer.eps=1e-3", "optimizer.eps 1e-08 -> 0.001"),
        ("trainer.max_steps=9", "max_steps 4000 -> 9"),
    ):
        done = train(*[typed for typed in KEPT if typed.partition("=")[0] != setting.partition("=")[0]], setting)
        assert done.status == 4 and says in done.err and done.err.count("\n") == 1, done.err


def test_a_sweep_that_nobody_named_is_found(train, outputs):
    (sweep,) = (outputs / "sweeps").glob("seed-*")
    before = stamps(sweep)
    done = train("-m", *TYPED, "seed=0,1,2")
    assert done.status == 0 and "3 runs: 2 done, 1 new" in done.out, done.err
    assert stamps(sweep).items() > before.items()
    assert len(list((outputs / "sweeps").iterdir())) == 3


def test_a_search_goes_on(train, outputs):
    sweep = outputs / "sweeps" / "searched"
    before = stamps(sweep)
    done = train(*SEARCHED, "hydra.sweeper.n_trials=3", "logger.csv=null")
    assert done.status == 0 and "2 of 3 trials have ended" in done.out, done.err
    (new,) = stamps(sweep).keys() - before.keys()
    assert stamps(sweep).items() > before.items()
    assert_as_expected(sweep / new, f"sweeps/searched/{new}")
    refused = train(*SEARCHED, "hydra.sweeper.n_trials=4", "data.batch_size=8")
    assert refused.status == 4 and "holds a search for something else" in refused.err


def test_runs_of_before_and_of_now_share_a_row(train, molino, outputs):
    one_rate = [typed for typed in KEPT if not typed.startswith(("seed", "optimizer"))]
    done = train(*one_rate, "optimizer.lr=1e-2", "seed=2,3")
    assert done.status == 0, done.err
    earlier, now = (outputs / "sweeps" / "kept" / name for name in ("optimizer.lr=0.01,seed=0", "seed=2"))
    recorded, whole = (directory.read_config(run)["data"]["corpus"] for run in (earlier, now))
    assert "name" not in recorded and whole["name"] == "grammar"
    table = molino("results", "kept", "format=json", f"paths.outputs={outputs}")
    assert table.status == 0, table.err
    groups = json.loads(table.out)["groups"]
    assert sorted(group["metrics"]["val/loss"]["n"] for group in groups) == [0, 4], table.out


def test_they_are_listed(molino, outputs):
    done = molino("results", f"paths.outputs={outputs}", "format=csv")
    assert done.status == 0 and "optimizer.lr" in done.out.splitlines()[0], done.err
    assert [read_status(run).state for run in directory.list_runs(outputs) if run.name == "done"] == [DONE]
