"""What is wrong with a folder is said in one line, by name; what is right is read without a second copy."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from molino.base.errors import CheckpointError, DataError
from molino.hub.read import architecture, find_folder, load_model, materialise, read_weights
from molino.hub.write import find_format, write_model
from molino.models.gpt import GPT
from molino.models.llama import Llama

SETTINGS = {"vocab_size": 40, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A Llama as a folder; tests copy it before they damage it."""
    torch.manual_seed(0)
    folder, model = tmp_path_factory.mktemp("llama"), Llama(**SETTINGS)
    form = find_format(model, SETTINGS)
    write_model(folder, model, form, SETTINGS, {})
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "model")


def shard(folder, **moved):
    """Spread the weights over two files with an index; `moved` changes where the index says they are."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, half in halves.items():
        save_file({name: tensors[name] for name in half}, folder / file)
    places = {name: file for file, half in halves.items() for name in half} | moved
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "model.safetensors").unlink()
    return tensors


def change_config(folder, **changed):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def refused(source, *parts, kind=CheckpointError):
    with pytest.raises(kind) as error:
        load_model(str(source))
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)


def test_shards_are_read_as_one(folder):
    whole = load_model(str(folder)).state_dict()
    shard(folder)
    parts = load_model(str(folder)).state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_names_without_the_prefix_are_understood(folder):
    whole = load_model(str(folder)).state_dict()
    tensors = load_file(folder / "model.safetensors")
    save_file({name.removeprefix("model."): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    assert all(torch.equal(whole[name], tensor) for name, tensor in load_model(str(folder)).state_dict().items())


def test_tables_that_can_be_computed_are_no_surplus(folder):
    change_weights(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    load_model(str(folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_in_the_wanted_dtype(folder, dtype):
    stored = load_file(folder / "model.safetensors")
    model = load_model(str(folder), dtype=dtype)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {dtype}
    assert model.rotary.cos.dtype == dtype
    assert torch.equal(model.embed_tokens.weight, stored["model.embed_tokens.weight"].to(dtype))
    assert model(torch.tensor([[1, 2]])).dtype == dtype


def test_a_folder_without_config(folder):
    (folder / "config.json").unlink()
    refused(folder, "holds no config.json")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', '{"model_type": "llama"}'])
def test_a_damaged_config(folder, content):
    (folder / "config.json").write_text(content)
    refused(folder, "config.json", "damaged")


@pytest.mark.parametrize(
    "changed",
    [
        {"num_hidden_layers": "two"},
        {"num_hidden_layers": 2.5},
        {"num_attention_heads": 0},
        {"num_attention_heads": 3},
        {"vocab_size": -3},
        {"hidden_size": None},
        {"rms_norm_eps": "small"},
        {"max_position_embeddings": 0},
    ],
)
def test_sizes_that_make_no_model(folder, changed):
    change_config(folder, **changed)
    refused(folder, f"{folder / 'config.json'} describes no model that can be built")
    with pytest.raises(CheckpointError, match="describes no model"):
        architecture(str(folder))


def test_quantised_weights(folder):
    change_weights(folder, lambda t: t.update({name: tensor.int() for name, tensor in t.items()}))
    refused(folder, "is torch.int32: quantised weights cannot be read")


def test_an_unknown_architecture(folder):
    for model_type in ("mamba", ["llama"], 3):
        change_config(folder, model_type=model_type)
        refused(folder, f"architecture {model_type}", "gpt2, openai-gpt, llama")


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"hidden_act": "gelu"}, "hidden_act=gelu"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "rotary positions (llama3)"),
        ({"rope_scaling": {"type": "longrope"}, "rope_parameters": None}, "rotary positions (longrope)"),
    ],
)
def test_what_the_family_cannot_express(folder, changed, part):
    change_config(folder, **changed)
    refused(folder, part)


def test_older_spellings_of_the_rotary_base(folder):
    for changed in ({"rope_parameters": None, "rope_theta": 77.0}, {"rope_parameters": {"rope_theta": 77.0}}):
        change_config(folder, **changed)
        assert architecture(str(folder))["rope_base"] == 77.0


def test_truncated_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    refused(folder, "model.safetensors is damaged", "fetch it again")
    path.write_bytes(b"")
    refused(folder, "model.safetensors is damaged")


def test_missing_surplus_and_misshapen_weights(folder):
    name = "model.layers.1.mlp.up_proj.weight"
    tensor = load_file(folder / "model.safetensors")[name]
    change_weights(folder, lambda t: t.pop(name))
    refused(folder, "lacks 1 weights", name)
    change_weights(folder, lambda t: t.update({name: tensor, "model.extra": torch.ones(1)}))
    refused(folder, "1 weights that llama has not", "model.extra")
    change_weights(folder, lambda t: (t.pop("model.extra"), t.update({name: tensor[:-1]})))
    refused(folder, "model.layers.1.mlp.gate_proj.weight has shape", "but config.json makes it")


def test_an_index_that_names_a_missing_shard(folder):
    shard(folder)
    (folder / "b.safetensors").unlink()
    refused(folder, "b.safetensors is missing, but model.safetensors.index.json names it")


def test_an_index_that_names_the_wrong_shard(folder):
    tensors = shard(folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(tensors, "b.safetensors")})
    )
    refused(folder, "b.safetensors lacks", "although model.safetensors.index.json names it")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": [1]}'])
def test_a_damaged_index(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    refused(folder, "model.safetensors.index.json is damaged")


def test_an_index_leads_nowhere_outside_the_folder(folder):
    """Names of shards are names: what stands before them is not followed."""
    whole = load_model(str(folder)).state_dict()
    places = dict.fromkeys(load_file(folder / "model.safetensors"), "../elsewhere/model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert all(torch.equal(whole[name], tensor) for name, tensor in load_model(str(folder)).state_dict().items())


def test_pickles_are_not_opened(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "holds no model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    refused(folder, "pytorch_model.bin is a pickle, which may run code", "convert it to model.safetensors")


def test_a_folder_that_is_not_there(tmp_path, monkeypatch):
    refused(tmp_path / "nothing", "there is no folder", kind=DataError)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("nobody/nothing", "nobody/nothing is neither a folder nor can it be fetched", kind=DataError)


def test_a_hub_id_is_fetched_through_the_library(folder, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **kw: asked.append((args, kw)) or folder)
    assert find_folder("owner/name.v1") == folder and architecture("gpt-x")["n_layer"] == 2
    assert [args for args, _ in asked] == [("owner/name.v1",), ("gpt-x",)]
    assert not any("bin" in pattern or "*.pt" in pattern for pattern in asked[0][1]["allow_patterns"])


def test_weights_of_another_architecture_are_refused(folder):
    with pytest.raises(CheckpointError, match="lacks"):
        read_weights(GPT(**SETTINGS), str(folder))


def test_tied_weights_stay_one():
    with torch.device("meta"):
        model = Llama(**SETTINGS, tie_weights=True)
    materialise(model, "cpu", torch.float32)
    assert model.lm_head.weight is model.embed_tokens.weight
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
