"""Runs composed for a sweep: as Hydra would, from few files, in their directories."""

from pathlib import Path

import pytest
from hydra import compose
from hydra.types import RunMode
from omegaconf import OmegaConf

from molino.base.errors import ConfigError
from molino.base.messages import one_line
from molino.configuration.composer import Composer, for_hydra
from molino.configuration.request import Request


@pytest.fixture
def composer(loader):
    def make(*typed: str) -> Composer:
        overrides = ["sweep=mine", *typed]
        return Composer(loader, loader.load_configuration("train", overrides, RunMode.MULTIRUN))

    return make


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
    hydras = compose("train", overrides)
    assert OmegaConf.to_container(ours) == OmegaConf.to_container(hydras)
    request = composer().request(overrides, "name")
    assert request.processes == (2 if "hardware=ddp" in overrides else 1)
    assert request.path == Path("outputs/sweeps/mine/name") and request.overrides == overrides
    chosen = [override.split("=") for override in overrides if "." not in override and "seed" not in override]
    assert all(request.choices[group] == choice for group, choice in chosen)
    # What a setting says of Hydra is said of this run's choices.
    assert request.settings["name"] == hydras.name or request.settings["name"].split("-")[0] == request.choices["data"]


def test_a_mistake_shows_before_anything_is_trained(composer):
    with pytest.raises(Exception) as raised:
        composer().request(["model=gpt", "model.n_layr=2"], "name")
    assert "model.n_layr is not a setting; did you mean model.n_layer?" in one_line(raised.value)
    with pytest.raises(Exception) as raised:
        composer().request(["model=gtp"], "name")
    assert "Could not find 'model/gtp'" in one_line(raised.value)


def test_hundreds_of_runs_are_composed_from_few_files(composer, monkeypatch):
    """What takes Hydra its time is reading and merging files, which is done once for each combination of groups."""
    made, loads = composer(), []
    original = type(made.loader).load_sweep_config

    def count(loader, master, overrides):
        loads.append(overrides)
        return original(loader, master, overrides)

    monkeypatch.setattr(type(made.loader), "load_sweep_config", count)
    requests = [made.request([f"model={m}", f"seed={s}"], f"{m}{s}") for m in ("gpt", "bigram") for s in range(150)]
    assert loads == [["model=gpt"], ["model=bigram"]]
    assert len({request.asked for request in requests}) == 300
    assert made.compose(["model=gpt", "seed=149"]).seed == 149 and made.compose(["model=gpt"]).seed == 0


def test_the_digest_is_of_what_a_run_is_not_of_where_it_lies(composer):
    asked = composer().request(["seed=1"], "x").asked
    assert composer("paths.outputs=/elsewhere", "name=other").request(["seed=1"], "y").asked == asked
    assert composer().request(["seed=1", "paths.cache=/elsewhere"], "x").asked == asked
    assert composer().request(["seed=2"], "x").asked != asked
    assert composer().request(["seed=1", "hardware=cpu_bf16"], "x").asked != asked


@pytest.mark.parametrize("name", ["seed=1", "a=[1,2],b={c:${d}}", "it's", "ends in \\\\", "¡señor!"])
def test_hydra_is_told_the_directory_whatever_it_is_called(composer, tmp_path, name):
    made = composer()
    made.master.paths.outputs = f"{tmp_path}/o, it's"
    placed = for_hydra(made.request(["seed=1"], name))
    told = {o.key_or_group: OmegaConf.create({"x": o.value()}).x for o in made.parser.parse_overrides(placed)}
    assert told["hydra.sweep.dir"] == f"{tmp_path}/o, it's/sweeps/mine" and told["hydra.sweep.subdir"] == name


def test_a_run_is_named_after_its_own_choices(composer):
    made = composer()
    names = [
        made.request([f"model={model}", "data=text", "data.path=x"], model).settings["name"]
        for model in ("gpt", "bigram")
    ]
    assert names == ["text-gpt", "text-bigram"]


def test_a_request_goes_to_other_processes_as_it_stands(composer):
    request = composer().request(["model=bigram", "seed=7", "optimizer.lr=1e-3"], "seed=7")
    again = Request.from_text(request.to_text())
    assert again == request and again.asked == request.asked and again.name == "seed=7"
    alone = Request({"a": None, "callbacks": {"x": {0: [1.5, "señor"]}}}, ["b=1"], {})
    assert Request.from_text(alone.to_text()) == alone and alone.name == "b=1"


@pytest.mark.parametrize("devices", ["x", None])
def test_hardware_that_says_no_number(composer, devices):
    with pytest.raises(ConfigError, match=r"hardware\.devices=.* must be int"):
        _ = composer().request([f"hardware.devices={devices or 'null'}"], "x").processes
