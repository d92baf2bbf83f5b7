"""The study of a search: one for one search, readable by Optuna, whole after a kill; and what proposes its trials."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from molino.base.errors import CheckpointError, ConfigError
from molino.search import samplers
from molino.search.internals import reopen
from molino.search.samplers import make_sampler
from molino.search.study import JOURNAL, Pruner, load_study, open_study

SPACE = {"lr": FloatDistribution(1e-4, 1e-1, log=True), "layers": IntDistribution(1, 6)}
LISTED = {"kind": CategoricalDistribution(("a", "b", "c")), "layers": IntDistribution(1, 4)}
IDENTITY = {"objective": "val/loss", "direction": "minimize", "space": {"lr": "0 to 1"}, "settings": "0123"}


def open_here(directory: Path, typed: tuple[str, ...] = ("data=text",), unlike=True, **changes) -> optuna.Study:
    identity = IDENTITY | changes
    return open_study(directory, identity, list(typed), identity["direction"], lambda study: unlike)


def read(directory: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials, as anybody reads them."""
    storage = JournalStorage(JournalFileBackend(str(directory / "study.journal")))
    return optuna.load_study(study_name=directory.name, storage=storage).trials


def draw(study: optuna.Study, name: str, count: int, space=SPACE, seed: int = 0, startup: int = 3) -> list[dict]:
    """Ask for trials until the study has `count`, and tell each a value that follows from its parameters."""
    while (number := len(study.get_trials(deepcopy=False))) < count:
        study.sampler = make_sampler(name, seed, number, startup, space)
        trial = study.ask(space)
        study.tell(trial, sum(trial.params.values()))
    return [trial.params for trial in study.trials]


def test_others_read_what_was_written(tmp_path):
    params = draw(open_here(tmp_path / "s"), "random", 4)
    trials = read(tmp_path / "s")
    assert [trial.params for trial in trials] == params
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def test_a_study_is_for_one_search(tmp_path):
    open_here(tmp_path / "s")
    open_here(tmp_path / "s")  # the same
    for changes, says in (
        ({"objective": "val/best_loss"}, "objective val/loss -> val/best_loss"),
        ({"direction": "maximize"}, "direction minimize -> maximize"),
        ({"space": {"lr": "0 to 2"}}, "space.lr 0 to 1 -> 0 to 2"),
        ({"space": {"lr": "0 to 1", "seed": "0 to 9"}}, "space.seed None -> 0 to 9"),
        ({"settings": "4567", "typed": ("data=imdb", "seed=1")}, "data=text -> data=imdb seed=1"),
        ({"settings": "4567", "typed": ()}, "data=text -> no settings"),
    ):
        with pytest.raises(CheckpointError, match=r"holds a search for something else .* sweep=<name>") as error:
            open_here(tmp_path / "s", **changes)
        assert f"({says})" in str(error.value)
    assert open_here(tmp_path / "s").direction.name == "MINIMIZE"


def test_a_study_for_the_same_search_in_other_words_is_the_same(tmp_path):
    open_here(tmp_path / "s")
    study = open_here(tmp_path / "s", settings="4567", unlike=False)
    assert study.user_attrs["identity"]["settings"] == "4567"
    open_here(tmp_path / "s", settings="4567")
    with pytest.raises(CheckpointError, match="objective"):
        open_here(tmp_path / "s", objective="val/best_loss", unlike=False)


def test_a_last_line_cut_off_by_a_full_disk_costs_that_line_only(tmp_path):
    study = open_here(tmp_path / "s")
    params = draw(study, "random", 3)
    journal = tmp_path / "s" / JOURNAL
    whole = journal.read_bytes()
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"')
    # Optuna alone loses the whole study as soon as two more lines follow.
    params = draw(open_here(tmp_path / "s"), "random", 5)
    assert journal.read_bytes().startswith(whole)
    assert [trial.params for trial in read(tmp_path / "s")] == params and len(params) == 5


@pytest.mark.parametrize("content", [b"nonsense\n" * 3, b'{"op_code":0}\n' * 2, b"\xff\xfe\n\n\n"])
def test_a_damaged_journal_is_named(tmp_path, content):
    open_here(tmp_path / "s")
    (tmp_path / "s" / JOURNAL).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"study\.journal cannot be read .* delete it") as error:
        open_here(tmp_path / "s")
    assert "\n" not in str(error.value)


def test_a_run_finds_its_study_or_is_told(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no .*study\.journal"):
        load_study(tmp_path, Pruner(None))
    assert not (tmp_path / JOURNAL).exists()
    open_here(tmp_path / "s")
    assert isinstance(load_study(tmp_path / "s", Pruner("median", 3)).pruner, optuna.pruners.MedianPruner)
    (tmp_path / "s").rename(tmp_path / "t")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_study(tmp_path / "t", Pruner(None))


def test_pruners_are_optunas():
    assert isinstance(Pruner(None).build(), optuna.pruners.NopPruner)
    assert isinstance(Pruner("halving").build(), optuna.pruners.SuccessiveHalvingPruner)
    median = Pruner("median", 2, 30).build()
    assert (median._n_startup_trials, median._n_warmup_steps) == (2, 30)
    with pytest.raises(ConfigError, match=r"pruner=man is unknown: choose median, halving or null"):
        Pruner("man").build()


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_the_seed_decides_the_trials_however_often_the_command_is_given(tmp_path, name):
    once = draw(open_here(tmp_path / "once"), name, 8)
    for count in (2, 3, 8):
        in_parts = draw(open_here(tmp_path / "parts"), name, count)
    assert in_parts == once
    # What comes later is not what came before once more.
    assert len({tuple(params.values()) for params in once}) == 8
    assert draw(open_here(tmp_path / "other"), name, 8, seed=1) != once


def test_random_trials_fill_the_space_as_optunas_own(tmp_path):
    params = draw(open_here(tmp_path / "s"), "random", 150)
    for layers in range(1, 7):
        assert 10 <= sum(each["layers"] == layers for each in params) <= 45
    assert 50 <= sum(each["lr"] < 10**-2.5 for each in params) <= 100


def test_tpe_learns(tmp_path):
    """After the random ones it proposes values near the best, a thing that independent draws would not do."""
    space, near = {"x": FloatDistribution(0.0, 1.0)}, 0
    for seed in range(3):
        study = open_here(tmp_path / str(seed))
        for number in range(40):
            study.sampler = make_sampler("tpe", seed, number, 10, space)
            trial = study.ask(space)
            study.tell(trial, abs(trial.params["x"] - 0.3))
        near += sum(abs(trial.params["x"] - 0.3) < 0.1 for trial in study.trials[20:])
    # Of 60; independent draws would give 12, with a deviation of 3. Optuna's sampler without our seeding gives 29.
    assert near > 22


def test_a_grid_is_visited_once_also_when_it_is_killed(tmp_path):
    wanted = {(kind, layers) for kind in "abc" for layers in range(1, 5)}
    asked = []
    for _ in wanted:
        study = open_here(tmp_path / "s")  # each time a new command
        study.sampler = make_sampler("grid", 0, len(study.trials), 3, LISTED)
        trial = study.ask(LISTED)
        asked.append((trial.params["kind"], trial.params["layers"]))
        if trial.number % 3 == 0:
            study.tell(trial, 1.0)
        elif trial.number % 3 == 1:
            study.tell(trial, state=TrialState.FAIL)
        # Every third one is left running.
    assert set(asked) == wanted and len(asked) == len(wanted)
    assert make_sampler("grid", 0, 0, 3, LISTED).left(study) == []
    assert asked != sorted(asked)


def test_a_trial_of_a_grid_that_was_killed_in_the_making_is_completed(tmp_path):
    study = open_here(tmp_path / "s")
    study.sampler = grid = make_sampler("grid", 0, 0, 3, LISTED)
    study.ask({"kind": LISTED["kind"]})
    first = read(tmp_path / "s")[0]
    half = reopen(study, first)
    half.suggest_int("layers", 1, 4)
    assert half.params["kind"] == first.params["kind"] and len(grid.left(study)) == 11


def test_a_sampler_that_is_none_or_not_for_this_space(monkeypatch):
    with pytest.raises(ConfigError, match="sampler=tpf is unknown: choose tpe, random, grid, cmaes"):
        make_sampler("tpf", 0, 0, 1, SPACE)
    with pytest.raises(ConfigError, match="grid needs values to list: give lr as choice or range"):
        make_sampler("grid", 0, 0, 1, SPACE)
    monkeypatch.setattr(samplers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="cmaes needs a package: pip install cmaes"):
        make_sampler("cmaes", 0, 0, 1, SPACE)


def test_cmaes(tmp_path):
    pytest.importorskip("cmaes")
    params = draw(open_here(tmp_path / "s"), "cmaes", 8)
    assert len({tuple(each.values()) for each in params}) == 8


def test_two_processes_write_at_once(tmp_path):
    open_here(tmp_path / "s")
    code = (
        "import sys; from pathlib import Path; from molino.search.study import *\n"
        "study = load_study(Path(sys.argv[1]), Pruner(None))\n"
        "for _ in range(20): study.tell(study.ask(), 1.0)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")]) for _ in range(2)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert [trial.number for trial in read(tmp_path / "s")] == list(range(40))
