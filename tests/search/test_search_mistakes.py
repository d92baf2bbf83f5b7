"""What is wrong with a search is told in one line, before anything is trained; and what a search alone needs."""

import json
import subprocess
import sys

import pytest
from conftest import CPU
from searching import BIGRAM, RATES, assert_refused, command, sweep_of

# In seconds; only a defect takes so long.
LONG = 90


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["seed=1"], "the search space is empty"),
        (["seed=range(3,3)"], "seed=range(3,3) is no space to search in"),
        (["optimizer.lr=interval(1,0.1)"], "is no space to search in"),
        (["optimizer.lr=tag(log,interval(0,0.1))"], "is no space to search in"),
        ([RATES, "n_trials=0"], "hydra.sweeper.n_trials=0 must be at least 1"),
        ([RATES, "n_trials=abc"], "hydra.sweeper.n_trials must be int, but it is 'abc'"),
        ([RATES, "n_trials=null"], "hydra.sweeper.n_trials must be int"),
        ([RATES, "attempts=0"], "hydra.sweeper.attempts=0 must be at least 1"),
        ([RATES, "batch=0"], "hydra.sweeper.batch=0 must be at least 1"),
        ([RATES, "startup_trials=-1"], "hydra.sweeper.startup_trials=-1 must be at least 0"),
        ([RATES, "pruner_warmup_steps=-1"], "hydra.sweeper.pruner_warmup_steps=-1 must be at least 0"),
        ([RATES, "hydra.sweeper.seed=-1"], "hydra.sweeper.seed=-1 must be at least 0"),
        ([RATES, "sampler=tpf"], "hydra.sweeper.sampler=tpf is unknown: choose tpe, random, grid, cmaes"),
        ([RATES, "sampler=grid"], "sampler=grid needs values to list: give optimizer.lr as choice or range"),
        ([RATES, "pruner=man"], "hydra.sweeper.pruner=man is unknown: choose median, halving or null"),
        ([RATES, "direction=up"], "hydra.sweeper.direction=up is unknown: choose minimize or maximize"),
        ([RATES, "objective=val/los"], "hydra.sweeper.objective=val/los is not measured; did you mean val/loss?"),
        ([RATES, "objective=val/los", "pruner=null"], "did you mean val/loss?"),
        ([RATES, "hydra.sweeper.n_trails=3"], "n_trails"),
        ([RATES, "+hydra.sweeper.n_trails=3"], "did you mean hydra.sweeper.n_trials?"),
        ([RATES, "hydra.sweeper.params=3"], "hydra.sweeper.params must be dict | null, but it is 3"),
        ([RATES, "hydra.sweeper.params={seed: 'range('}"], "no viable alternative at input 'range('"),
        (["optimizer.lrr=interval(0.1,0.2)"], "optimizer.lrr is not a setting; did you mean optimizer.lr"),
        (["model=choice(bigram,gtp)"], "Could not find 'model/gtp'"),
        ([RATES, "seeed=1"], "seeed is not a setting; did you mean seed"),
        ([RATES, "sweep=a/b"], "sweep=a/b cannot name a sweep's directory"),
        (["hardware.devices=choice(1,2)", "hardware=ddp"], "add hydra/launcher=local"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_trained(molino, tiny, tmp_path, settings, part):
    assert_refused(molino("train", *command(tiny, tmp_path, *settings)), 2, part, tmp_path)
    assert not sweep_of(tmp_path).exists()


def test_a_sampler_or_optuna_that_is_not_installed(molino, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("molino.search.samplers.importlib.util.find_spec", lambda name: None)
    assert_refused(molino("train", *command(tiny, tmp_path, RATES, "sampler=cmaes")), 2, "pip install cmaes", tmp_path)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert_refused(molino("train", *command(tiny, tmp_path, RATES)), 5, "pip install optuna", tmp_path)


def test_a_damaged_journal_and_a_folder_that_cannot_be_written(molino, tiny, tmp_path):
    sweep_of(tmp_path).mkdir(parents=True)
    (sweep_of(tmp_path) / "study.journal").write_text("nonsense\nnonsense\n")
    assert_refused(molino("train", *command(tiny, tmp_path, RATES)), 4, "study.journal cannot be read", tmp_path)
    (tmp_path / "outputs" / "sweeps" / "t").write_text("a file")
    outcome = molino("train", *command(tiny, tmp_path, RATES), "sweep=t")
    assert outcome.status == 5 and outcome.err.count("\n") == 1 and "choose another place" in outcome.err


def test_without_a_search_optuna_is_not_imported(tiny, tmp_path):
    code = (
        "import json, sys\n"
        "from molino.command import entry as cli\n"
        "typed = sys.argv[1:]\n"
        "sys.argv = ['molino', '--help']\n"
        "cli.command('train')\n"
        "helped = 'optuna' in sys.modules\n"
        "sys.argv = ['molino', *typed]\n"
        "cli.command('train')\n"
        "print(json.dumps([helped, 'optuna' in sys.modules, 'lightning' in sys.modules]))"
    )
    places = [f"data.path={tiny.file}", f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}", *CPU]
    typed = [*BIGRAM, *places]
    done = subprocess.run([sys.executable, "-c", code, *typed], capture_output=True, text=True, timeout=LONG)
    assert json.loads(done.stdout.splitlines()[-1]) == [False, False, True], done.stderr
