"""What makes two runs the same: by hand, by whoever adds an argument, and without importing what is not needed."""

import copy
import importlib
import inspect
import subprocess
import sys

import pytest
import yaml

from molino.configuration import door, identity
from molino.configuration.identity import (
    SETTLED,
    changes,
    compared,
    complete,
    differences,
    digest,
    experiments,
    is_indifferent,
)
from molino.machine.hardware import Hardware

SETTINGS = {
    "name": "a",
    "seed": 1,
    "weights": None,
    "resume": None,
    "task": {"_target_": "molino.tasks.language_model.LanguageModel"},
    "data": {
        "_target_": "molino.data.module.TextDataModule",
        "batches": "windows",
        "block_size": 8,
        "batch_size": 4,
        "cache": "/cache",
        "corpus": {"_target_": "molino.data.corpora.grammar.Grammar", "seed": 0, "cache": "/c", "mirror": None},
        "tokenizer": {"_target_": "molino.data.tokenizers.train_bpe", "_partial_": True, "size": 300},
    },
    "model": {"_target_": "molino.models.gpt.GPT", "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8},
    "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-3, "betas": [0.9, 0.95]},
    "scheduler": {"_target_": "molino.training.schedules.cosine", "_partial_": True, "warmup_steps": 10},
    "trainer": {"_target_": "molino.training.plan.Plan", "max_steps": 10, "log_every": 5, "val_every": 5,
                "checkpoint_every": 5, "clip": 1.0, "accumulate": 1},
    "hardware": {"_target_": "molino.machine.hardware.Hardware", "accelerator": "cpu", "precision": "auto"},
    "logger": {"csv": {"_target_": "molino.training.loggers.MetricsFile"}},
    "callbacks": {},
    "paths": {"outputs": "o", "cache": "/cache", "mirror": None},
}  # fmt: skip


def changed(key: str, value) -> dict:
    """The settings, but for one."""
    settings = copy.deepcopy(SETTINGS)
    node, (*sections, name) = settings, key.split(".")
    for section in sections:
        node = node.setdefault(section, {})
    node[name] = value
    return settings


INDIFFERENT = [
    ("name", "b"), ("resume", "x"), ("sweep", "s"), ("debug", "traceback"), ("paths.outputs", "elsewhere"),
    ("data.cache", "/d"), ("data.corpus.cache", "/d"), ("data.corpus.mirror", "/m"), ("logger.csv", None),
    ("logger", {}), ("hardware.threads", 2), ("trainer.log_every", 1), ("trainer.checkpoint_every", 1),
    ("trainer.sample_tokens", 0),
]  # fmt: skip
DIFFERENT = [
    ("model.n_layer", 2), ("optimizer.lr", 1e-2), ("optimizer._target_", "torch.optim.Adam"), ("data.corpus.seed", 1),
    ("data.tokenizer.size", 301), ("trainer.max_steps", 11), ("trainer.val_every", 1), ("trainer.clip", None),
    ("hardware.accelerator", "gpu"), ("weights", "folder"), ("data.batches", "documents"),
    ("callbacks.stop", {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss"}),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), INDIFFERENT)
def test_what_makes_no_other_run(key, value):
    other = changed(key, value)
    assert is_indifferent(key) and digest(other) == digest(SETTINGS)
    assert not differences(SETTINGS, other) and not differences(other, SETTINGS)
    assert experiments([SETTINGS, other])[0] == experiments([SETTINGS, other])[1]


@pytest.mark.parametrize(("key", "value"), DIFFERENT)
def test_what_changes_results_makes_another_run(key, value):
    other = changed(key, value)
    assert not is_indifferent(key) and digest(other) != digest(SETTINGS)
    assert differences(SETTINGS, other)
    one, two = experiments([SETTINGS, other])
    assert one != two


def test_the_seed_makes_another_run_of_the_same_experiment():
    other = changed("seed", 2)
    assert differences(SETTINGS, other) == {"seed": (1, 2)} and digest(other) != digest(SETTINGS)
    one, two = experiments([SETTINGS, other])
    assert one == two


@pytest.mark.parametrize(
    ("key", "default", "other"),
    [
        ("model.dropout", 0.0, 0.1),
        ("model.n_inner", None, 24),
        ("optimizer.amsgrad", False, True),
        ("scheduler.floor", 0.0, 0.1),
        ("data.distinct_batches", None, 1),
        ("data.corpus.train_fraction", 0.9, 0.8),
        ("trainer.accumulate", 1, 2),
        ("hardware.compile", "auto", True),
    ],
)
def test_an_argument_that_was_added_with_its_default_makes_no_other_run(key, default, other):
    without = changed(key, default)
    section, _, name = key.rpartition(".")
    node = without
    for part in section.split("."):
        node = node[part]
    del node[name]
    for recorded, asked in ((without, changed(key, default)), (changed(key, default), without)):
        assert not differences(recorded, asked)
        assert experiments([recorded, asked])[0] == experiments([recorded, asked])[1]
    assert key in differences(without, changed(key, other))


def test_what_was_left_to_the_machine_is_on_record_as_it_was_settled():
    assert not differences(changed("hardware.precision", "bf16-mixed"), SETTINGS)
    asked = changed("hardware.precision", "32-true")
    assert differences(changed("hardware.precision", "bf16-mixed"), asked) == {
        "hardware.precision": ("bf16-mixed", "32-true")
    }
    # Nothing else is settled, and what is not is what was asked for.
    assert differences(SETTINGS, changed("hardware.accelerator", "auto"))
    assert differences(changed("model.norm", "post"), changed("model.norm", "auto"))
    of_machine = {f"hardware.{name}" for name in Hardware(accelerator="cpu").settled.keys() - {"threads"}}
    assert set(SETTLED) == of_machine | {"task.classes", "task.choices", "task.scale"}


def test_targets_are_known_by_the_names_they_had():
    earlier = changed("hardware._target_", "molino.training.hardware.Hardware")
    assert not differences(earlier, SETTINGS) and digest(earlier) == digest(SETTINGS)
    for old, new in door.MOVED.items():
        assert door.find_callable(old, "x") is door.find_callable(new, "x")


def test_numbers_are_equal_as_numbers():
    assert digest(changed("optimizer.lr", 1)) == digest(changed("optimizer.lr", 1.0))
    assert not differences(changed("trainer.clip", 1), SETTINGS)


def test_a_recorded_run_names_all_that_its_constructors_take():
    whole = complete(SETTINGS)
    assert whole["model"]["dropout"] == 0.0
    # What torch's and Lightning's own take changes with their versions.
    assert whole["optimizer"] == SETTINGS["optimizer"]
    assert whole["data"]["corpus"]["train_fraction"] == 0.9 and whole["data"]["tokenizer"]["size"] == 300
    assert whole["hardware"]["matmul_precision"] == "high" and "directory" not in whole["logger"]["csv"]
    # Neither what the harness gives nor what is said is replaced; complete settings stay as they are.
    assert "vocab_size" not in whole["model"] and "seed" not in whole["data"] and whole["optimizer"]["lr"] == 1e-3
    assert complete(whole) == whole and not differences(whole, SETTINGS)


def test_a_given_argument_is_no_setting_whatever_its_default(monkeypatch):
    defaults = {"vocab_size": 50, "width": 3}
    monkeypatch.setattr(identity, "defaults_of", lambda target: defaults)
    assert complete({"model": {"_target_": "molino.Net"}}) == {"model": {"_target_": "molino.Net", "width": 3}}


def test_settings_that_nobody_can_import_are_compared_as_they_stand():
    one, other = ({"model": {"_target_": "elsewhere.Net", **more}} for more in ({}, {"width": 3}))
    assert differences(one, other) == {"model.width": ("absent", 3)}
    assert differences({"callbacks": {"x": {0: 4}}}, {"callbacks": {"x": {0: 5}}}) == {"callbacks.x.0": (4, 5)}


def test_targets_in_lists_are_found_as_well():
    one = {"callbacks": {"many": [{"_target_": "molino.training.hardware.Hardware", "accelerator": "cpu"}]}}
    other = {
        "callbacks": {"many": [{"_target_": "molino.machine.hardware.Hardware", "accelerator": "cpu", "devices": 1}]}
    }
    assert not differences(one, other) and experiments([one, other])[0] == experiments([one, other])[1]


def test_a_callback_that_is_null_is_none():
    assert digest(changed("callbacks.x", None)) == digest(SETTINGS) and not differences(
        SETTINGS, changed("callbacks.x", None)
    )


@pytest.mark.parametrize("module", ["lightning.pytorch.callbacks", "lightning.pytorch.loggers", "torch.optim"])
def test_whatever_is_recorded_can_be_written(module, monkeypatch):
    """With the defaults of all classes there are, also of those that are strings only at a first glance."""
    monkeypatch.setattr(identity, "OF_OTHERS", ())
    for name, found in vars(importlib.import_module(module)).items():
        if inspect.isclass(found) and found.__module__.startswith(module):
            node = {"callbacks": {"x": {"_target_": f"{found.__module__}.{name}"}}}
            assert yaml.safe_load(yaml.safe_dump(complete(node))) == complete(node)


def test_settings_that_look_alike_are_not_one_object():
    one, two = (complete({"optimizer": {"_target_": "molino.training.muon.Muon"}})["optimizer"] for _ in range(2))
    assert one["betas"] == two["betas"] and one["betas"] is not two["betas"]


def test_what_is_null_or_empty_at_the_top_is_as_if_it_were_not_there():
    without = {name: value for name, value in SETTINGS.items() if name not in ("weights", "callbacks")}
    assert digest(without) == digest(SETTINGS) and not differences(without, SETTINGS)


def test_runs_of_one_version_are_compared_without_torch():
    code = f"""
import sys
from molino.configuration.identity import differences, experiments
settings = {SETTINGS!r}
other = dict(settings, seed=2, optimizer=dict(settings["optimizer"], lr=2))
assert set(differences(settings, other)) == {{"seed", "optimizer.lr"}} and len(experiments([settings, other])) == 2
print("torch" in sys.modules)
differences(settings, dict(settings, model=dict(settings["model"], dropout=0.0)))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "True"], done.stderr


def test_hparams_show_what_changes_results():
    typed = [
        "paths.outputs=x",
        "logger.csv=null",
        "data.distinct_batches=3",
        "trainer.log_every=2",
        "hardware.threads=1",
    ]
    choices = {"model": "gpt", "hardware": "cpu", "data": "quijote"}
    # Of a run of its own its corpus and model, and what was typed; of one of a sweep what tells it from the others.
    assert compared(SETTINGS, choices, typed, None) == {
        "data": "quijote", "model": "gpt", "data.distinct_batches": "3"
    }  # fmt: skip
    varied = ["optimizer.lr=1e-3", "model=gpt", "seed=1", "set=small", "hardware.threads=1"]
    assert compared(SETTINGS, choices, [*typed, *varied], varied) == {
        "optimizer.lr": 1e-3, "model": "gpt", "seed": 1, "set": "small"
    }  # fmt: skip


def test_a_source_that_is_gone_is_not_asked(tmp_path):
    """A run that began from weights has kept what they were."""
    asked = changed("model", {"_target_": "molino.hub.read.architecture", "source": "gone", "dropout": 0.1})
    recorded = SETTINGS | {"model": SETTINGS["model"] | {"dropout": 0.1}, "weights": "gone"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(complete(recorded)))
    assert not changes(tmp_path, asked)
    assert changes(tmp_path, asked | {"model": asked["model"] | {"dropout": 0.2}}) == {"model.dropout": (0.1, 0.2)}
    assert changes(tmp_path, asked | {"model": asked["model"] | {"source": "other"}}) == {"weights": ("gone", "other")}


def test_what_cannot_be_read_is_left_to_whoever_trains_it(tmp_path):
    assert not changes(tmp_path, SETTINGS)
    (tmp_path / "config.yaml").write_text("{{")
    assert not changes(tmp_path, SETTINGS)
