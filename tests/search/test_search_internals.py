"""That Optuna still has what molino.search.internals uses beyond its documented interface, and that it does that."""

import ast
import inspect
import threading
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState

from molino import search
from molino.search.internals import complete, locked, reopen

SPACE = {
    "rate": FloatDistribution(1e-3, 1e-1, log=True),
    "layers": IntDistribution(1, 4),
    "model": CategoricalDistribution(["gpt", "llama"]),
}


def study_of_one(space: dict) -> optuna.Study:
    """A study in memory with one trial, which has a value of everything in `space`."""
    study = optuna.create_study(sampler=RandomSampler(seed=3))
    study.ask(space)
    return study


def test_the_names_and_signatures_are_there():
    def parameters(function) -> list[str]:
        return list(inspect.signature(function).parameters)

    assert parameters(Trial.__init__) == ["self", "study", "trial_id"]
    assert parameters(Trial._suggest) == ["self", "name", "distribution"]
    assert parameters(JournalFileSymlinkLock.__init__)[:2] == ["self", "filepath"]
    assert parameters(JournalFileSymlinkLock.acquire) == parameters(JournalFileSymlinkLock.release) == ["self"]
    (frozen,) = study_of_one({}).get_trials()
    assert isinstance(frozen, FrozenTrial) and isinstance(frozen._trial_id, int)


def test_a_reopened_trial_is_the_one_that_was_asked_for():
    study = study_of_one(SPACE)
    (frozen,) = study.get_trials()
    trial = reopen(study, frozen)
    assert (trial.number, trial.params) == (0, frozen.params)
    trial.report(2.5, step=10)
    study.tell(trial.number, 1.5)
    (ended,) = study.get_trials()  # no other trial has been made
    assert ended.state == TrialState.COMPLETE and ended.value == 1.5 and ended.intermediate_values == {10: 2.5}


def test_a_reopened_trial_is_pruned_by_the_studys_pruner():
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=2.0))
    study.ask()
    trial = reopen(study, study.get_trials()[0])
    trial.report(1.0, step=1)
    assert not trial.should_prune()
    trial.report(3.0, step=2)
    assert trial.should_prune()


def test_what_a_trial_lacks_is_drawn_and_what_it_has_stays():
    study = study_of_one({"rate": SPACE["rate"]})
    (half,) = study.get_trials()
    complete(reopen(study, half), SPACE)
    (whole,) = study.get_trials()
    assert whole.params.keys() == SPACE.keys() and whole.distributions == SPACE
    assert whole.params["rate"] == half.params["rate"] and whole.state == TrialState.RUNNING
    assert all(SPACE[name]._contains(SPACE[name].to_internal_repr(value)) for name, value in whole.params.items())
    # The same as Study.ask draws in one piece, by a sampler of the same seed.
    expected = optuna.create_study(sampler=RandomSampler(seed=3)).ask(SPACE)
    assert whole.params == expected.params


def test_nobody_appends_to_a_journal_that_is_locked(tmp_path):
    journal = tmp_path / "study.journal"
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(journal))))
    before, asker = journal.read_bytes(), threading.Thread(target=study.ask)
    with locked(journal):
        asker.start()
        asker.join(timeout=0.3)
        assert asker.is_alive() and journal.read_bytes() == before
    asker.join(timeout=30)
    assert not asker.is_alive() and len(journal.read_bytes()) > len(before)
    with pytest.raises(ZeroDivisionError), locked(journal):
        raise ZeroDivisionError
    study.ask()  # would wait for half a minute


def test_nothing_else_of_a_search_reaches_into_optuna():
    """No other file asks anything but itself for a name with an underscore."""
    for file in Path(search.__file__).parent.glob("*.py"):
        reached = {
            node.attr
            for node in ast.walk(ast.parse(file.read_text("utf-8")))
            if isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
            and not (isinstance(node.value, ast.Name) and node.value.id == "self")
        }
        assert file.name == "internals.py" or not reached, f"{file.name}: {reached}"
