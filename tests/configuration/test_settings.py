"""From a composed configuration to plain settings, for new runs and for those that go on."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from molino.base.errors import CheckpointError
from molino.configuration.settings import flatten, relocate, resolve, resume

STORED = {
    "name": "mancha",
    "seed": 3,
    "resume": None,
    "data": {
        "block_size": 8,
        "cache": "/old/cache",
        "corpus": {"_target_": "molino.x.Y", "cache": "/old", "path": "p"},
    },
    "hardware": {"accelerator": "gpu", "precision": "bf16-mixed", "threads": None},
    "paths": {"outputs": "/old/outputs", "cache": "/old/cache", "mirror": None},
    **{name: {} for name in ("model", "optimizer", "scheduler", "trainer", "logger", "callbacks")},
}
TODAY = {
    "seed": 9,
    "data": {"block_size": 64},
    "hardware": {"accelerator": "cpu", "precision": "auto", "threads": 1},
    "paths": {"outputs": "/new/outputs", "cache": "/new/cache", "mirror": "/new/mirror"},
}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(STORED), "utf-8")
    return tmp_path


def test_resolve_gives_plain_values():
    config = OmegaConf.create(
        {
            "debug": "fast",
            "paths": {"outputs": "~/runs", "cache": "cache", "mirror": None},
            "data": {"path": "a~b", "block_size": 8, "cache": "${paths.outputs}/c", "corpus": {"path": "${data.path}"}},
            "model": {"block_size": "${data.block_size}", "sizes": [1, 2]},
        }
    )
    OmegaConf.set_readonly(config, True)
    settings = resolve(config)
    home = str(Path.home())
    assert settings == {
        "paths": {"outputs": f"{home}/runs", "cache": "cache", "mirror": None},
        "data": {"block_size": 8, "cache": f"{home}/runs/c", "corpus": {"path": "a~b"}},
        "model": {"block_size": 8, "sizes": [1, 2]},
    }
    assert type(settings["model"]["sizes"]) is list


def test_resolve_without_data():
    assert resolve(OmegaConf.create({"paths": {"outputs": "o"}, "run": None})) == {
        "paths": {"outputs": "o"},
        "run": None,
    }


def test_a_resumed_run_keeps_its_settings_and_takes_todays_paths(run):
    settings = resume(run, TODAY, ["resume=latest", "paths.cache=/new/cache", "debug=traceback"])
    assert settings["paths"] == TODAY["paths"]
    assert settings["seed"] == 3
    assert settings["hardware"] == STORED["hardware"]
    assert settings["data"]["block_size"] == 8
    assert settings["data"]["cache"] == "/new/cache"
    # The corpus never had a mirror, and its path is the user's own.
    assert settings["data"]["corpus"] == {"_target_": "molino.x.Y", "cache": "/new/cache", "path": "p"}


def test_a_resumed_run_may_move_to_other_hardware(run):
    assert resume(run, TODAY, ["resume=x", "hardware=cpu"])["hardware"] == TODAY["hardware"]
    assert resume(run, TODAY, ["hardware=cpu", "hardware.threads=1"])["hardware"] == TODAY["hardware"]


@pytest.mark.parametrize("override", ["hardware.threads=1", "++hardware.threads=1"])
def test_what_is_not_said_anew_of_the_hardware_stays(run, override):
    assert resume(run, TODAY, ["resume=x", override])["hardware"] == STORED["hardware"] | {"threads": 1}


@pytest.mark.parametrize("content", [b"", b"- 1\n", b"a: [", b"\xff\xfe"])
def test_a_damaged_configuration_is_one_line(run, content):
    (run / "config.yaml").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^[^\n]*config\.yaml[^\n]*$"):
        resume(run, TODAY, [])


def test_relocate_leaves_out_what_today_does_not_say():
    stored = {"data": {"cache": "/old", "corpus": {"mirror": "/old"}}}
    assert relocate(stored, {"outputs": "o", "cache": "/new"}) == {
        "data": {"cache": "/new", "corpus": {"mirror": "/old"}},
        "paths": {"outputs": "o", "cache": "/new"},
    }


def test_flatten():
    nested = {
        "seed": 0,
        "model": {"_target_": "molino.models.gpt.GPT", "n_layer": 4, "n_inner": None},
        "data": {"tokenizer": {"_target_": "molino.data.tokenizers.train_char", "_partial_": True}, "sizes": [1, 2]},
        "scheduler": {},
    }
    assert flatten(nested) == {
        "seed": 0,
        "model": "GPT",
        "model.n_layer": 4,
        "model.n_inner": None,
        "data.tokenizer": "train_char",
        "data.sizes": [1, 2],
    }
