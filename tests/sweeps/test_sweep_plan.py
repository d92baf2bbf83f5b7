"""The runs of a sweep: which they are and what they are called."""

import hashlib

import pytest
import yaml
from hydra.types import RunMode

from molino.base.errors import CheckpointError, ConfigError
from molino.configuration.composer import Composer
from molino.configuration.identity import complete, refuse_other
from molino.sweeps.ledger import place
from molino.sweeps.plan import called, combine, every_case, parse, parse_cases, run_name, split, sweep_names, told


def test_every_combination_of_the_values_listed(loader):
    typed = ["model=bigram,gpt", "data=text", "optimizer.lr=1e-3,1e-2", "seed=range(0,3)"]
    overrides = parse(typed, None, loader)
    assert split(overrides) == (["model", "optimizer.lr", "seed"], ["data=text"])
    runs = combine(overrides)
    expected = {(m, lr, s) for m in ("bigram", "gpt") for lr in ("0.001", "0.01") for s in range(3)}
    assert {tuple(run) for run in runs} == {
        (f"model={m}", "data=text", f"optimizer.lr={lr}", f"seed={s}") for m, lr, s in expected
    }


def test_the_sweepers_own_settings_come_first(loader):
    assert combine(parse(["seed=1"], {"optimizer.lr": "1,2"}, loader)) == [
        ["optimizer.lr=1", "seed=1"],
        ["optimizer.lr=2", "seed=1"],
    ]


def test_cases_are_varied_together():
    cases = parse_cases(
        {"size": {"small": "model.n_layer=1 model.n_embd=8", "as it is": ""}, "on": {"a": 'name="x, y"'}}
    )
    assert cases == {
        "size": {"small": ["model.n_layer=1", "model.n_embd=8"], "as it is": []},
        "on": {"a": ["name='x, y'"]},
    }
    first, second = every_case(cases)
    assert first == (["size=small", "on=a"], ["model.n_layer=1", "model.n_embd=8", "name='x, y'"])
    assert second == (["size=as it is", "on=a"], ["name='x, y'"])
    assert called(second[0]) == ["case={size:'as it is',on:'a'}"] and called([]) == []
    # Other cases are another sweep.
    other = parse_cases({"size": {"small": "model.n_layer=2 model.n_embd=8", "as it is": ""}, "on": {"a": ""}})
    assert told(cases) != told(other) and every_case({}) == [([], [])]
    for wrong in ({"size": "small"}, {"size": {}}, {"size": {"small": 1}}):
        with pytest.raises(ConfigError, match=r"hydra\.sweeper\.cases\.size must name cases and their settings"):
            parse_cases(wrong)


def test_cases_that_do_not_go_together_are_left_out():
    cases = parse_cases({"set": {"a": "", "b": "", "c": ""}, "method": {"x": "", "y": ""}})
    left_out = [{"set": "a", "method": "x"}, {"set": "c"}]
    assert [names for names, _ in every_case(cases, left_out)] == [
        ["set=a", "method=y"], ["set=b", "method=x"], ["set=b", "method=y"],
    ]  # fmt: skip
    for wrong, named in (({"sett": "a"}, "sett=a is no case.*set"), ({"method": "z"}, "method=z is no case")):
        with pytest.raises(ConfigError, match=named):
            every_case(cases, [wrong])


def test_what_has_no_values_to_list(loader):
    with pytest.raises(ConfigError, match=r"interval\(0,1\) has no values .*hydra/sweeper=optuna"):
        combine(parse(["optimizer.lr=interval(0,1)"], None, loader))
    with pytest.raises(ConfigError, match="there is nothing to train"):
        combine(parse(["seed=range(3,3)"], None, loader))


def test_a_sweep_is_called_after_what_it_varies_and_what_it_does_not():
    def sweep_name(swept, fixed):
        return sweep_names(swept, fixed)[0]

    name = sweep_name(["seed", "model"], ["data=text", "trainer.max_steps=10"])
    assert name.startswith("model,seed-")
    # Neither the order nor what makes no other run make another sweep; what its runs share does.
    alike = [
        "trainer.max_steps=10",
        "paths.outputs=x",
        "data=text",
        "sweep=a",
        "logger.csv=null",
        "+hardware.threads=2",
    ]
    assert name == sweep_name(["model", "seed"], alike)
    assert name != sweep_name(["seed", "model"], ["data=text", "trainer.max_steps=11"])
    for debug in ("debug=fast", "+debug=fast"):
        assert name != sweep_name(["seed", "model"], ["data=text", "trainer.max_steps=10", debug])
    assert name == sweep_name(["seed", "model"], ["data=text", "trainer.max_steps=10", "debug=traceback"])
    assert name != sweep_name(["seed"], ["data=text", "trainer.max_steps=10"])
    for more in ("+callbacks.x._target_=a.B", "weights=folder", "experiment=x", "data.cache_size=3"):
        assert name != sweep_name(["seed", "model"], ["data=text", "trainer.max_steps=10", more])


def test_a_sweep_keeps_the_name_that_an_earlier_version_gave_it(loader, tmp_path):
    names = sweep_names(["seed"], ["data=text", "hardware.threads=1"])
    assert names[1] == "seed-" + hashlib.sha256(b"data=text\nhardware.threads=1").hexdigest()[:8] != names[0]
    master = loader.load_configuration("train", [f"paths.outputs={tmp_path}"], RunMode.MULTIRUN)
    assert place(master, names) == tmp_path / "sweeps" / names[0]
    (tmp_path / "sweeps" / names[1]).mkdir(parents=True)
    master = loader.load_configuration("train", [f"paths.outputs={tmp_path}"], RunMode.MULTIRUN)
    assert place(master, names) == tmp_path / "sweeps" / names[1]
    named = loader.load_configuration("train", [f"paths.outputs={tmp_path}", "sweep=mine"], RunMode.MULTIRUN)
    assert place(named, names) == tmp_path / "sweeps" / "mine"


def test_a_run_is_called_after_what_differs():
    overrides = ["seed=3", "optimizer.lr=1e-3", "data=text", "model=gpt"]
    assert run_name(overrides, ["seed", "model", "optimizer.lr"]) == "model=gpt,optimizer.lr=1e-3,seed=3"
    assert (
        run_name(list(reversed(overrides)), ["optimizer.lr", "model", "seed"]) == "model=gpt,optimizer.lr=1e-3,seed=3"
    )
    assert run_name(overrides, []) == "defaults"
    assert run_name(["data/tokenizer=bpe"], ["data/tokenizer"]) == "data-tokenizer=bpe"


def test_values_that_a_name_cannot_hold_still_make_different_names():
    names = {run_name([f"data.path={path}"], ["data.path"]) for path in ("a/b", "a-b", "a /b", "'a b'", "ab")}
    assert len(names) == 5 and all("/" not in name and " " not in name for name in names)


def test_a_directory_that_other_settings_have_taken(loader, tmp_path):
    master = loader.load_configuration("train", ["sweep=mine", f"paths.outputs={tmp_path}"], RunMode.MULTIRUN)
    composer = Composer(loader, master)
    request = composer.request(["seed=1", "model=bigram", "optimizer.lr=0.5"], "seed=1")
    refuse_other(request.path, request.settings)  # it has never begun
    request.path.mkdir(parents=True)
    other = composer.request(["seed=1", "model=bigram", "optimizer.lr=0.25"], "seed=1").settings
    (request.path / "config.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(CheckpointError) as raised:
        refuse_other(request.path, request.settings)
    assert "optimizer.lr 0.25 -> 0.5)" in str(raised.value) and "sweep=<name>" in str(raised.value)
    # The same settings in other words, or with others that make no other run.
    same = composer.request(["seed=1", "model=bigram", "optimizer.lr=0.5", "logger.csv=null"], "seed=1").settings
    (request.path / "config.yaml").write_text(yaml.safe_dump(complete(same)))
    refuse_other(request.path, request.settings)
