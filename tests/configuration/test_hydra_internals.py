"""What is used of Hydra's inside is where it was when it was checked, does what it did, and is used in one place."""

import inspect
import re

from conftest import CPU, ROOT
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from molino.configuration import internals


def parse(loader, *typed: str):
    return OverridesParser.create(config_loader=loader).parse_overrides(list(typed))


def test_they_take_what_they_took():
    assert list(inspect.signature(ConfigLoaderImpl._apply_overrides_to_config).parameters) == ["overrides", "cfg"]
    assert list(inspect.signature(BasicSweeper.split_arguments).parameters) == ["overrides", "max_batch_size"]


def test_flags_and_settings_are_told_apart():
    parsed = internals.arguments_parser().parse_args(["-m", "--config-dir", "conf", "seed=1", "model=gpt"])
    assert parsed.multirun and parsed.config_dir == "conf" and parsed.overrides == ["seed=1", "model=gpt"]


def test_a_command_is_composed_once(loader):
    assert list(inspect.signature(Hydra.get_mode).parameters) == ["self", "config_name", "overrides"]
    looks = Hydra.get_mode
    with internals.composed_once():
        assert Hydra.get_mode(None, config_name="train", overrides=["hydra.mode=MULTIRUN"]) is None
    assert Hydra.get_mode is looks


def test_choices_of_groups_are_told_from_settings(loader):
    typed = parse(loader, "model=gpt", "data/tokenizer=bpe", "model.n_layer=2", "+callbacks.x={a: 1}", "seed=1")
    assert [internals.chooses_group(loader, each) for each in typed] == [True, True, False, False, False]


def test_overrides_are_applied_in_place(loader):
    config = OmegaConf.create({"a": {"b": 1}, "c": [1]})
    OmegaConf.set_struct(config, True)
    internals.apply_overrides(parse(loader, "a.b=2", "+a.d=null", "~c"), config)
    assert config == {"a": {"b": 2, "d": None}}


def test_every_combination_is_listed(loader):
    found = internals.every_combination(parse(loader, "a=1,2", "b=x", "c=range(0,2)"))
    assert found == [[f"a={a}", "b=x", f"c={c}"] for a in (1, 2) for c in (0, 1)]


def test_the_launcher_of_one_process_is_known(molino, tiny, tmp_path):
    assert internals.trains_here(BasicLauncher()) and not internals.trains_here(object())
    # Also as Hydra finds it: it tells of every run that it launches itself.
    places = [f"data.path={tiny.file}", f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}"]
    done = molino("train", "-m", "data=text", "model=bigram", "debug=fast", *CPU, *places, "seed=0,1")
    assert done.status == 0 and "2 done" in done.out and "HYDRA" not in done.out, done.out


def test_no_other_file_looks_inside_hydra():
    inside = re.compile(r"hydra\._internal|from hydra\S* import _")
    files = [path for path in (ROOT / "src").rglob("*.py") if inside.search(path.read_text("utf-8"))]
    assert [path.name for path in files] == ["internals.py"]
