"""The one door: what may be built, and how mistakes are named."""

import functools
import re

import pytest
import torch
from lightning.pytorch import Callback
from torch.optim import Optimizer

from molino.base.errors import ConfigError
from molino.configuration.build import bind, build, check_names, check_node
from molino.data.corpora.grammar import Grammar
from molino.data.module import TextDataModule
from molino.data.tokenizers import train_word
from molino.machine.hardware import Hardware
from molino.models.bigram import Bigram
from molino.models.gpt import GPT
from molino.models.model import MODEL
from molino.tasks.language_model import LanguageModel

BIGRAM = {"_target_": "molino.models.bigram.Bigram", "block_size": 8}
ADAMW = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.1}
GRAMMAR = {"_target_": "molino.data.corpora.grammar.Grammar", "seed": 0, "characters": 1000, "train_fraction": 0.9}
HARDWARE = {"_target_": "molino.machine.hardware.Hardware", "accelerator": "cpu"}
GPT_NODE = {"_target_": "molino.models.gpt.GPT", "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 4}
DATA = {
    "_target_": "molino.data.module.TextDataModule",
    "corpus": GRAMMAR,
    "tokenizer": {"_target_": "molino.data.tokenizers.train_word", "_partial_": True, "min_freq": 2},
    "batches": "windows",
    "block_size": 8,
    "batch_size": 2,
    "cache": "cache",
}
# What a run knows of its batches beside the section of data.
OF_RUN = {"seed": 7, "accumulate": 1, "steps_per_block": 1, "task": LanguageModel()}


# What each node is built as, and what it is given later.
KINDS = {"Bigram": MODEL, "GPT": MODEL, "AdamW": Optimizer, "Hardware": Hardware, "TextDataModule": TextDataModule}
GIVEN = {"GPT": ("vocab_size",), "AdamW": ("params",)}


def kind_of(node):
    name = node["_target_"].rpartition(".")[2]
    return KINDS[name], GIVEN.get(name, ()), name == "AdamW"


def refused(node, key="part", kind=MODEL, **runtime):
    with pytest.raises(ConfigError) as raised:
        build(node, key, kind, **runtime)
    message = str(raised.value)
    assert "\n" not in message
    return message


def mistaken(node, key="part"):
    with pytest.raises(ConfigError) as raised:
        check_node(node, key, *kind_of(node))
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_class_with_what_is_known_only_now():
    model = build(BIGRAM, "model", MODEL, vocab_size=5)
    assert type(model) is Bigram
    assert (model.vocab_size, model.block_size) == (5, 8)


def test_nodes_inside_nodes():
    data = build(DATA, "data", TextDataModule, **OF_RUN)
    assert type(data) is TextDataModule
    assert type(data.corpus) is Grammar
    assert isinstance(data.train_tokenizer, functools.partial)
    assert data.train_tokenizer.func is train_word
    assert data.train_tokenizer.keywords == {"min_freq": 2}
    assert data.seed == 7


def test_a_partial_waits_for_its_arguments():
    make = bind(ADAMW | {"betas": [0.5, 0.6]}, "optimizer", Optimizer, ["params"])
    optimizer = make([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.defaults["lr"] == 0.1
    assert type(optimizer.defaults["betas"]) in (list, tuple)
    assert tuple(optimizer.defaults["betas"]) == (0.5, 0.6)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("os.system", "is not allowed: os is not let in"),
        ("subprocess.run", "is not allowed: subprocess is not let in"),
        ("builtins.eval", "is not allowed: builtins is not let in"),
        ("torch.load", "is not allowed: torch is not let in"),
        ("torch.hub.load", "is not allowed: torch is not let in"),
        ("torch.optimal.Adam", "is not allowed: torch is not let in"),
        ("molinos.thing", "is not allowed: molinos is not let in"),
        ("lightning.fabric.Fabric", "is not allowed: lightning is not let in"),
        # Reached through the modules of an allowed package.
        ("molino.base.files.os.system", "is not there"),
        ("molino.runs.record.subprocess.run", "is not there"),
        ("molino.trained.load.torch.load", "is not there"),
        ("torch.optim.optimizer.torch.load", "is not there"),
        ("molino.models.gpt.ConfigError", "is no Model: it is not derived from torch.nn"),
        ("molino.models.gpt.nn", "is not allowed: it is a module"),
        ("molino.models.gpt.math", "is not allowed: it is a module"),
        ("molino.models.gpt.partial", "is not allowed: it is functools's, which is not let in"),
        ("molino.models.gpt.Tensor", "is not allowed: it is torch's, which is not let in"),
        # Functions and methods, of which some unpickle what a file holds.
        ("lightning.pytorch.core.saving._load_from_checkpoint", "is not allowed: a name that begins with _"),
        ("lightning.pytorch.LightningModule.load_from_checkpoint", "is not there"),
        # No call at all.
        ("molino.base.files", "is not allowed: it is a module"),
        ("molino.base.files.NO_SPACE", "is not allowed: it is a tuple"),
        ("molino", "names no class and no function"),
        ("molino..Net", "names no class and no function"),
        (1, "names no class and no function"),
        (None, "names no class and no function"),
    ],
)
def test_targets_that_are_not_allowed(target, reason):
    assert refused({"_target_": target}).startswith(f"part._target_={target} {reason}")


def test_a_target_deep_inside_is_checked_before_anything_is_built(tmp_path):
    node = {"_target_": "os.mkdir", "path": str(tmp_path / "made")}
    message = refused(DATA | {"corpus": node}, "data", TextDataModule, **OF_RUN)
    assert message.startswith("data.corpus._target_=os.mkdir is not allowed")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("target", "kind", "advice"),
    [
        ("molino.models.bigram.Bygram", MODEL, "; did you mean molino.models.bigram.Bigram? Known here: Bigram"),
        ("molino.modells.gpt.GPT", MODEL, "; did you mean molino.models? Known here: base, command, "),
        ("molino.nothing.Bigram", MODEL, "; did you mean molino.training? Known here: base, command, "),
        ("torch.optim.AdamV", Optimizer, "; did you mean torch.optim.Adam? Known here: ASGD, "),
    ],
)
def test_targets_that_are_not_there_with_the_nearest(target, kind, advice):
    assert refused({"_target_": target}, kind=kind).startswith(f"part._target_={target} is not there{advice}")


@pytest.mark.parametrize("node", [None, 3, "gpt", {"n_layer": 3}, []])
def test_what_is_no_node(node):
    assert "part=" in refused(node)


def test_an_unknown_name_with_the_nearest():
    message = refused(GPT_NODE | {"n_layr": 3}, "model", vocab_size=5)
    assert message.startswith("model.n_layr is not a setting; did you mean model.n_layer? Known here: ")
    known = message.partition("Known here: ")[2].split(", ")
    assert {"n_embd", "n_head", "n_layer", "dropout"} <= set(known)
    # What is passed in plain Python is no setting.
    assert "vocab_size" not in known


def test_a_runtime_argument_is_no_setting():
    assert refused(BIGRAM | {"vocab_size": 3}, vocab_size=5).startswith("part.vocab_size is not a setting")


def test_a_name_like_no_other_gets_no_advice():
    with pytest.raises(ConfigError, match=r"^zzz is not a setting\. Known here: data, model$"):
        check_names(["data", "zzz"], ["model", "data"])


@pytest.mark.parametrize(
    ("node", "setting", "value", "wanted"),
    [
        (GPT_NODE, "n_layer", "three", "int"),
        (GPT_NODE, "n_layer", 1.5, "int"),
        (GPT_NODE, "n_layer", True, "int"),
        (GPT_NODE, "n_layer", None, "int"),
        (GPT_NODE, "n_layer", [1], "int"),
        (GPT_NODE, "n_inner", "x", "int | null"),
        (GPT_NODE, "n_inner", False, "int | null"),
        (GPT_NODE, "dropout", "0.1", "float"),
        (GPT_NODE, "dropout", True, "float"),
        (GPT_NODE, "dropout", None, "float"),
        (GPT_NODE, "bias", 1, "bool"),
        (GPT_NODE, "bias", "yes", "bool"),
        (GPT_NODE, "norm", 1, "str"),
        (HARDWARE, "accelerator", None, "str"),
        # Annotations of torch's own.
        (ADAMW, "lr", "abc", "float"),
        (ADAMW, "lr", None, "float"),
        (ADAMW, "lr", True, "float"),
        (ADAMW, "weight_decay", "abc", "float"),
        (ADAMW, "amsgrad", 1, "bool"),
        (ADAMW, "fused", "yes", "bool | null"),
        (ADAMW, "betas", 0.9, "tuple"),
        (ADAMW, "betas", [0.9], "tuple"),
        (ADAMW, "betas", [0.9, "abc"], "tuple"),
    ],
)
def test_values_of_the_wrong_type(node, setting, value, wanted):
    message = mistaken(node | {setting: value})
    assert re.match(rf"part\.{setting} must be {re.escape(wanted)}\b.*, but it is {re.escape(repr(value))}$", message)


@pytest.mark.parametrize(
    ("node", "setting", "value"),
    [
        (ADAMW, "lr", 1),
        (ADAMW, "lr", 1e-3),
        (ADAMW, "betas", [0, 0.99]),
        (ADAMW, "fused", None),
        (HARDWARE, "threads", None),
        (HARDWARE, "threads", 2),
        (HARDWARE, "compile", True),
    ],
)
def test_values_of_the_right_type(node, setting, value):
    check_node(node | {setting: value}, "part", *kind_of(node))


def test_a_value_that_is_missing():
    node = {"_target_": "molino.data.pretrained.load_pretrained", "_partial_": True, "path": "???"}
    message = refused(DATA | {"tokenizer": node}, "data", TextDataModule, **OF_RUN)
    assert message == "data.tokenizer.path has no value yet: add data.tokenizer.path=<value>"


def test_what_a_constructor_refuses_is_its_own_message():
    assert refused(GPT_NODE | {"n_embd": 5}, "model", vocab_size=3).startswith("model.n_embd=5 is not divisible")


def test_an_argument_left_out_is_named():
    node = {name: value for name, value in GPT_NODE.items() if name != "n_head"}
    assert re.match(r"model\.n_head is missing: add model\.n_head=", refused(node, "model", vocab_size=3))


def test_a_value_error_of_another_package_names_the_node():
    node = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/loss", "mode": "upwards"}
    assert refused(node, "callbacks.stop", Callback).startswith("callbacks.stop: `mode` can be min, max, got upwards")


def test_defects_are_not_disguised():
    with pytest.raises(Exception, match="division") as raised:
        build(BIGRAM | {"block_size": 1}, "model", MODEL, vocab_size=Broken())
    assert not isinstance(raised.value, ConfigError)


class Broken(int):
    """A number that is a defect to compare."""

    def __lt__(self, other):
        return 1 // 0


def test_models_come_out_as_plain_modules():
    model = build(GPT_NODE, "model", MODEL, vocab_size=7)
    assert type(model) is GPT
    assert model(torch.zeros(1, 3, dtype=torch.long)).shape == (1, 3, 7)
