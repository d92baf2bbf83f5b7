"""Runs loaded back: the very weights, or one line that says what is wrong."""

import json
import pickle
import shutil
import zipfile

import pytest
import torch
import yaml

from molino.base.errors import CheckpointError
from molino.runs.directory import BEST, CONFIG, LAST, TOKENIZER
from molino.trained.load import load_checkpoint, load_run

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny, tmp_path):
    """A copy of the tiny run, to be damaged."""
    return shutil.copytree(tiny.path, tmp_path / "copy")


class Malicious:
    """Runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').write('code ran')",)


def test_a_loaded_model_holds_the_weights_of_the_file(tiny):
    loaded = load_run(tiny.path, "last", CPU)
    saved = torch.load(tiny.path / LAST, weights_only=True)["state_dict"]
    weights = loaded.model.state_dict()
    assert {f"model.{name}" for name in weights} == set(saved)
    assert all(torch.equal(weights[name], saved[f"model.{name}"]) for name in weights)
    assert not loaded.model.training
    assert loaded.step == 20
    assert loaded.tokenizer.token(loaded.start_id) == "\n"
    assert loaded.settings == yaml.safe_load((tiny.path / CONFIG).read_text("utf-8"))


def test_documents_start_after_their_mark(tiny_documents):
    loaded = load_run(tiny_documents.path, "best", CPU)
    assert loaded.start_id == loaded.tokenizer.end_of_text_id


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_a_truncated_checkpoint(copy, share):
    whole = (copy / LAST).read_bytes()
    (copy / LAST).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"^[^\n]*last\.ckpt is damaged[^\n]*: copy best.ckpt over it, or[^\n]*$"):
        load_run(copy, "last", CPU)


@pytest.mark.parametrize("content", [b"", bytes(1000), b"no checkpoint\n", b"PK\x03\x04", b"\x80\x02."])
def test_a_file_that_is_no_checkpoint(tmp_path, content):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^[^\n]*x\.ckpt is damaged[^\n]*$"):
        load_checkpoint(tmp_path / "x.ckpt")


def test_one_flipped_bit_in_a_tensor(copy):
    with zipfile.ZipFile(copy / LAST) as archive:
        largest = max((entry for entry in archive.infolist() if "/data/" in entry.filename), key=lambda e: e.file_size)
        contents = archive.read(largest)
    whole = bytearray((copy / LAST).read_bytes())
    at = whole.index(contents) + len(contents) // 2
    whole[at] ^= 1
    (copy / LAST).write_bytes(whole)
    # The reason for a check of our own: torch sees nothing.
    torch.load(copy / LAST, weights_only=True)
    with pytest.raises(CheckpointError, match=r"is damaged \(checksum of .*/data/"):
        load_run(copy, "last", CPU)


def test_pickled_code_does_not_run(tmp_path):
    trap = tmp_path / "trap"
    torch.save({"state_dict": Malicious(trap)}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"^[^\n]*is damaged or no checkpoint of molino[^\n]*$"):
        load_checkpoint(tmp_path / "x.ckpt")
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps(Malicious(trap)))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "x.ckpt")
    assert not trap.exists()
    # The trap is one.
    pickle.loads(pickle.dumps(Malicious(trap)))
    assert trap.exists()


@pytest.mark.parametrize("missing", ["state_dict", "global_step", "start_id"])
def test_a_sound_file_with_other_content(copy, missing):
    content = torch.load(copy / LAST, weights_only=True)
    del content[missing]
    torch.save(content, copy / LAST)
    with pytest.raises(CheckpointError, match=f"is no checkpoint of molino: it lacks {missing}$"):
        load_run(copy, "last", CPU)


def test_settings_of_another_shape(copy):
    settings = yaml.safe_load((copy / CONFIG).read_text("utf-8"))
    settings["model"]["n_embd"] = 32
    (copy / CONFIG).write_text(yaml.safe_dump(settings), "utf-8")
    with pytest.raises(
        CheckpointError, match=r"^[^\n]*last\.ckpt does not fit [^\n]*config\.yaml: size mismatch[^\n]*$"
    ):
        load_run(copy, "last", CPU)


def test_settings_of_another_depth(copy):
    settings = yaml.safe_load((copy / CONFIG).read_text("utf-8"))
    settings["model"]["n_layer"] = 3
    (copy / CONFIG).write_text(yaml.safe_dump(settings), "utf-8")
    with pytest.raises(CheckpointError, match=r"does not fit [^\n]*: Missing key[^\n]*$"):
        load_run(copy, "last", CPU)


@pytest.mark.parametrize("section", ["model", "_target_"])
def test_settings_without_a_model(copy, section):
    settings = yaml.safe_load((copy / CONFIG).read_text("utf-8"))
    settings = {} if section == "model" else settings | {"model": {"n_layer": 2}}
    (copy / CONFIG).write_text(yaml.safe_dump(settings), "utf-8")
    with pytest.raises(CheckpointError, match=r"^[^\n]*config\.yaml is damaged: it says nothing of a model[^\n]*$"):
        load_run(copy, "last", CPU)


def test_files_that_are_missing(copy):
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(copy / "absent.ckpt")
    (copy / BEST).unlink()
    assert load_run(copy, "best", CPU).step == 20
    (copy / TOKENIZER).unlink()
    with pytest.raises(CheckpointError, match=r"copy is damaged: it has lost its tokenizer\.json"):
        load_run(copy, "last", CPU)


def test_a_tokenizer_of_another_run(copy, tiny, molino, tmp_path):
    """Of the same size, so that nothing but what it says can tell."""
    tokenizer = json.loads((copy / TOKENIZER).read_text("utf-8"))
    load_run(copy, "last", CPU)
    # However it is laid out it is the same.
    (copy / TOKENIZER).write_text(json.dumps(tokenizer), "utf-8")
    load_run(copy, "last", CPU)
    vocabulary = tokenizer["model"]["vocab"]
    (one, first), (other, second) = sorted(vocabulary.items(), key=lambda item: item[1])[-2:]
    vocabulary |= {one: second, other: first}
    (copy / TOKENIZER).write_text(json.dumps(tokenizer), "utf-8")
    says = f"{copy / TOKENIZER} is not the tokenizer that last.ckpt was trained with: bring that back\n"
    asked = {"evaluate": f"paths.cache={tiny.cache}", "generate": "prompt=a", "explain": "prompt=a"}
    for verb, more in asked.items():
        done = molino(verb, f"run={copy}", "checkpoint=last", "hardware=cpu", more)
        assert done.status == 4 and done.err == f"molino: {says}"
    done = molino("export", f"run={copy}", "checkpoint=last", f"to={tmp_path / 'out'}")
    assert done.status == 4 and done.err == f"molino: {says}" and not (tmp_path / "out").exists()


def test_checkpoints_of_before_know_no_tokenizer(copy):
    content = torch.load(copy / LAST, weights_only=True)
    assert content.pop("tokenizer")
    torch.save(content, copy / LAST)
    assert load_run(copy, "last", CPU).step == 20
