"""A head of its own in a folder, whatever its config.json says of it: kept as `transformers` keeps it, and written."""

import json
import shutil

import pytest
import torch
import transformers
from conftest import CPU
from safetensors.torch import load_file, save_file
from torch import nn

from molino.base.errors import CheckpointError
from molino.data.tokenizers import train_char
from molino.hub.read import architecture, load_model, read_weights
from molino.hub.write import find_format, write_model
from molino.models.gpt import GPT
from molino.runs import directory

V, T = 41, 16
GPT_SIZES = {"vocab_size": V, "n_positions": T, "n_embd": 32, "n_layer": 1, "n_head": 4}
LLAMA_SIZES = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": T, "pad_token_id": 0,
}  # fmt: skip
BERT_SIZES = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "max_position_embeddings": T,
}  # fmt: skip
T5_SIZES = {"vocab_size": V, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_heads": 4}
BART_SIZES = {
    **{f"{stack}_{name}": size for stack in ("encoder", "decoder")
       for name, size in (("layers", 1), ("attention_heads", 4), ("ffn_dim", 48))},
    "vocab_size": V, "d_model": 32, "max_position_embeddings": T, "pad_token_id": 0, "decoder_start_token_id": 0,
    "eos_token_id": 1, "forced_eos_token_id": None,
}  # fmt: skip
# By the class that loads it: its sizes, the names of its head and of its table of tokens.
THEIRS = {
    "GPT2LMHeadModel": (GPT_SIZES, "lm_head.weight", "transformer.wte.weight"),
    "OpenAIGPTLMHeadModel": (GPT_SIZES, "lm_head.weight", "transformer.tokens_embed.weight"),
    "LlamaForCausalLM": (LLAMA_SIZES, "lm_head.weight", "model.embed_tokens.weight"),
    "MistralForCausalLM": (LLAMA_SIZES, "lm_head.weight", "model.embed_tokens.weight"),
    "Qwen2ForCausalLM": (LLAMA_SIZES, "lm_head.weight", "model.embed_tokens.weight"),
    "Qwen3ForCausalLM": (LLAMA_SIZES, "lm_head.weight", "model.embed_tokens.weight"),
    "Phi3ForCausalLM": (LLAMA_SIZES, "lm_head.weight", "model.embed_tokens.weight"),
    "BertForMaskedLM": (BERT_SIZES, "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    "T5ForConditionalGeneration": (T5_SIZES, "lm_head.weight", "shared.weight"),
    "MarianMTModel": (BART_SIZES, "lm_head.weight", "model.shared.weight"),
    "PegasusForConditionalGeneration": (BART_SIZES, "lm_head.weight", "model.shared.weight"),
}
WRITES = ("T5ForConditionalGeneration", "MarianMTModel", "PegasusForConditionalGeneration")
IDS = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "decoder_start_token_id": 0}


def make(folder, name: str, said: bool | None, head: str) -> None:
    """A folder whose config.json says that the head is tied, not, or nothing, and whose file has a head that `differs`,
    an `equal` one, or none."""
    sizes, own, table = THEIRS[name]
    torch.manual_seed(0)
    family = getattr(transformers, name)
    model = family(family.config_class(**sizes, tie_word_embeddings=True))
    with torch.no_grad():
        for parameter in (each for at, each in model.named_parameters() if "embed_positions" not in at):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for entry in ("tie_word_embeddings", "scale_decoder_outputs"):
        config.pop(entry, None)
    config |= {} if said is None else {"tie_word_embeddings": said}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    stored = load_file(folder / "model.safetensors")
    stored.pop(own, None)
    if head != "absent":
        stored[own] = stored[table].clone() if head == "equal" else torch.randn(stored[table].shape) * 0.5
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def logits(model: nn.Module, name: str, theirs: bool) -> torch.Tensor:
    tokens_BT, source_BS = torch.randint(3, V, (2, 3, T), generator=torch.Generator().manual_seed(1))
    if name not in WRITES:
        return model(tokens_BT).logits if theirs else model(tokens_BT)
    return model(input_ids=source_BS, decoder_input_ids=tokens_BT).logits if theirs else model(tokens_BT, source_BS)


@pytest.mark.parametrize("head", ["differs", "equal", "absent"])
@pytest.mark.parametrize("said", [True, None, False])
@pytest.mark.parametrize("name", THEIRS)
def test_heads_are_what_they_are_in_transformers(name, said, head, tmp_path):
    read = tmp_path / "read"
    make(read, name, said, head)
    theirs, told = getattr(transformers, name).from_pretrained(read, output_loading_info=True)
    if told["missing_keys"]:  # of which theirs makes something at random
        with pytest.raises(CheckpointError, match="lacks"):
            load_model(str(read))
        return
    expected_BTV, ours = logits(theirs.eval(), name, True), load_model(str(read))
    assert expected_BTV.std() > 0.3
    torch.testing.assert_close(logits(ours, name, False), expected_BTV, atol=1e-4, rtol=1e-5)
    assert head != "differs" or ours.capabilities.tied is None
    # And written again: the same weights, which both read.
    node, written = architecture(str(read)), tmp_path / "written"
    written.mkdir()
    write_model(written, ours, find_format(ours, node, theirs.config.model_type), node, IDS)
    config = json.loads((written / "config.json").read_text("utf-8"))
    assert config["tie_word_embeddings"] is (ours.capabilities.tied is not None)
    again, told = getattr(transformers, name).from_pretrained(written, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert torch.equal(logits(again.eval(), name, True), expected_BTV)
    whole = load_model(str(written)).state_dict()
    assert all(torch.equal(whole[name], tensor) for name, tensor in ours.state_dict().items())


def test_tables_that_are_not_one_are_refused(tmp_path):
    make(tmp_path, "MarianMTModel", True, "absent")
    stored = load_file(tmp_path / "model.safetensors")
    stored["model.encoder.embed_tokens.weight"] = stored["model.shared.weight"] + 1
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"has another model\.encoder\.embed_tokens\.weight than model\.shared"):
        load_model(str(tmp_path))


def test_a_model_that_ties_its_head_takes_no_other(tmp_path):
    make(tmp_path, "GPT2LMHeadModel", True, "differs")
    model = GPT(V, T, n_layer=1, n_head=4, n_embd=32)
    with pytest.raises(CheckpointError, match=r"has a head of its own, and the model has none: set model\.tie_weights"):
        read_weights(model, str(tmp_path))


def test_a_run_from_such_a_folder_keeps_the_head(molino, tiny, tmp_path):
    """Said in one line; trained on, checkpointed, and exported with it."""
    folder, outputs = tmp_path / "folder", tmp_path / "outputs"
    make(folder, "LlamaForCausalLM", True, "differs")
    letters = "".join(sorted(set(tiny.text)))
    train_char([letters]).save(folder / "tokenizer.json")
    said = f"molino: {folder}: the file has a head of its own, another than the table of tokens: it is kept\n"
    asked = molino("generate", f"source={folder}", "prompt=en", "max_new_tokens=3", *CPU)
    assert asked.status == 0 and asked.err.count(said) == 1 and "head of its own" not in asked.out
    settings = ("model=pretrained", f"model.source={folder}", "data=text", f"data.path={tiny.file}", "optimizer.lr=0")
    places = (f"paths.outputs={outputs}", f"paths.cache={tiny.cache}", "data.block_size=16", "debug=fast", *CPU)
    done = molino("train", *settings, *places)
    assert done.status == 0 and done.err.count(said) == 1, done.err
    (run,) = directory.list_runs(outputs)
    assert directory.read_config(run)["model"]["tie_weights"] is False
    shutil.move(folder, tmp_path / "moved")
    assert molino("export", f"run={run}", f"to={tmp_path / 'again'}", "format=llama").status == 0
    assert json.loads((tmp_path / "again" / "config.json").read_text("utf-8"))["tie_word_embeddings"] is False
    one, other = (load_file(tmp_path / each / "model.safetensors") for each in ("moved", "again"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
