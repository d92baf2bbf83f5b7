"""The runs of a sweep: which they are, what they are called, and what they are composed of."""

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from molino.base.errors import CheckpointError, ConfigError
from molino.runs.status import Status
from molino.sweeps import plan
from molino.sweeps.plan import Composer, combine, parse, refuse_other, run_name, split, sweep_name


@pytest.fixture
def loader():
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
    HydraConfig.instance().cfg = None


@pytest.fixture
def composer(loader):
    def make(*typed: str) -> Composer:
        overrides = ["sweep=mine", *typed]
        return Composer(loader, loader.load_configuration("train", overrides, RunMode.MULTIRUN))

    return make


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


def test_what_has_no_values_to_list(loader):
    with pytest.raises(ConfigError, match=r"interval\(0,1\) has no values .*hydra/sweeper=optuna"):
        combine(parse(["optimizer.lr=interval(0,1)"], None, loader))
    with pytest.raises(ConfigError, match="there is nothing to train"):
        combine(parse(["seed=range(3,3)"], None, loader))


def test_a_sweep_is_called_after_what_it_varies_and_what_it_does_not():
    name = sweep_name(["seed", "model"], ["data=text", "trainer.max_steps=10"])
    assert name.startswith("model,seed-")
    # Neither the order nor where things lie make another sweep; what its runs share does.
    assert name == sweep_name(["model", "seed"], ["trainer.max_steps=10", "paths.outputs=x", "data=text", "sweep=a"])
    assert name != sweep_name(["seed", "model"], ["data=text", "trainer.max_steps=11"])
    assert name != sweep_name(["seed"], ["data=text", "trainer.max_steps=10"])


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


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=llama", "data=quijote", "data/tokenizer=bpe", "optimizer.lr=0.01", "seed=7"],
        ["experiment=shakespeare_gpt_cpu", "model.n_layer=2", "hardware=ddp", "scheduler=wsd"],
        ["debug=fast", "model=bigram", "+callbacks.x={_target_: a.b, c: 1}", "data.batch_size=3", "logger.csv=null"],
    ],
)
def test_runs_are_composed_as_hydra_would(composer, overrides):
    ours = composer().compose(overrides)
    job = composer().job(overrides, "name")
    hydras = compose("train", overrides)
    assert OmegaConf.to_container(ours) == OmegaConf.to_container(hydras)
    assert (job.devices, job.nodes, job.accelerator) == (hydras.hardware.devices, 1, hydras.hardware.accelerator)
    assert job.relaunches == ("hardware=ddp" in overrides)


def test_a_mistake_shows_before_anything_is_trained(composer):
    from molino.base.messages import one_line

    with pytest.raises(Exception) as raised:
        composer().job(["model=gpt", "model.n_layr=2"], "name")
    assert "model.n_layr is not a setting; did you mean model.n_layer?" in one_line(raised.value)
    with pytest.raises(Exception) as raised:
        composer().job(["model=gtp"], "name")
    assert "Could not find 'model/gtp'" in one_line(raised.value)


def test_hundreds_of_runs_are_composed_from_few_files(composer, monkeypatch):
    """What takes Hydra its time is reading and merging files, which is done once for each combination of groups."""
    made, loads = composer(), []
    original = type(made.loader).load_sweep_config

    def count(loader, master, overrides):
        loads.append(overrides)
        return original(loader, master, overrides)

    monkeypatch.setattr(type(made.loader), "load_sweep_config", count)
    jobs = [made.job([f"model={m}", f"seed={s}"], f"{m}{s}") for m in ("gpt", "bigram") for s in range(150)]
    assert loads == [["model=gpt"], ["model=bigram"]]
    assert len({job.asked for job in jobs}) == 300
    assert made.compose(["model=gpt", "seed=149"]).seed == 149 and made.compose(["model=gpt"]).seed == 0


def test_the_digest_is_of_what_a_run_is_not_of_where_it_lies(composer):
    asked = composer().job(["seed=1"], "x").asked
    assert composer("paths.outputs=/elsewhere", "name=other").job(["seed=1"], "y").asked == asked
    assert composer().job(["seed=1", "paths.cache=/elsewhere"], "x").asked == asked
    assert composer().job(["seed=2"], "x").asked != asked
    assert composer().job(["seed=1", "hardware=cpu_bf16"], "x").asked != asked


def test_a_directory_that_other_settings_have_taken(composer, tmp_path, monkeypatch):
    made = composer(f"paths.outputs={tmp_path}")
    job = made.job(["seed=1", "model=bigram", "optimizer.lr=0.5"], "seed=1")
    refuse_other(job, Status("done", asked=job.asked), made)
    refuse_other(job, Status(""), made)
    other = made.settings(["seed=1", "model=bigram", "optimizer.lr=0.25"])
    monkeypatch.setattr(plan, "read_config", lambda path: other)
    with pytest.raises(CheckpointError) as raised:
        refuse_other(job, Status("done", asked="another"), made)
    assert "optimizer.lr 0.25 -> 0.5)" in str(raised.value) and "sweep=<name>" in str(raised.value)


@pytest.mark.parametrize("name", ["seed=1", "a=[1,2],b={c:${d}}", "it's", "ends in \\\\", "¡señor!"])
def test_hydra_is_told_the_directory_whatever_it_is_called(composer, tmp_path, name):
    made = composer()
    made.master.paths.outputs = f"{tmp_path}/o, it's"
    job = made.job(["seed=1"], name)
    told = {o.key_or_group: OmegaConf.create({"x": o.value()}).x for o in made.parser.parse_overrides(job.placed)}
    assert told["hydra.sweep.dir"] == f"{tmp_path}/o, it's/sweeps/mine" and told["hydra.sweep.subdir"] == name
