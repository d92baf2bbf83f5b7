"""A run as a folder of `transformers`: the same text, the same loss, and on from there."""

import dataclasses
import json
import shutil

import pytest
import torch
import transformers
from conftest import CPU, train

from molino.models.t5 import T5
from molino.runs import directory
from molino.trained.folder import load_source
from molino.trained.load import load_run

PROMPT = "de la Mancha"


@pytest.fixture(scope="module")
def exported(molino, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "model"
    done = molino("export", f"run={tiny.path}", f"to={folder}")
    assert (done.status, done.err) == (0, "")
    assert f"{folder}: GPT2LMHeadModel" in done.out
    return folder


def test_the_pipeline_says_what_generate_says(molino, tiny, exported):
    settings = (f"prompt={PROMPT}", "temperature=0", "max_new_tokens=60", *CPU)
    ours = molino("generate", f"run={tiny.path}", *settings)
    again = molino("generate", f"source={exported}", *settings)
    assert ours.status == again.status == 0
    pipeline = transformers.pipeline("text-generation", model=str(exported))
    # The context is 16 tokens: theirs has no rule for what comes after it.
    theirs = pipeline(PROMPT, max_new_tokens=4, do_sample=False)[0]["generated_text"]
    assert ours.out == again.out and ours.out.startswith(theirs) and len(theirs) == len(PROMPT) + 4


def test_logits_are_those_of_the_run(tiny, exported):
    model = load_run(tiny.path, "best", torch.device("cpu")).model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    tokens_BT = tokenizer(PROMPT, return_tensors="pt").input_ids
    assert tokenizer.decode(tokens_BT[0]) == PROMPT
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens_BT).logits, model(tokens_BT), atol=1e-5, rtol=0)


def test_the_loss_is_that_of_the_run(molino, tiny, exported):
    data = ("data=text", f"data.path={tiny.file}", "floors=false", *tiny.settings)
    loss = [line for line in molino("evaluate", f"run={tiny.path}", *data).out.splitlines() if " loss " in line]
    assert loss == [
        line for line in molino("evaluate", f"source={exported}", *data).out.splitlines() if " loss " in line
    ]


def test_the_card_and_the_small_files(tiny, exported):
    summary = directory.read_summary(tiny.path)
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    for part in (f"{summary['val/loss']:.4f}", summary["corpus"], summary["corpus_sha256"], "n_layer: 2"):
        assert part in card
    generation = json.loads((exported / "generation_config.json").read_text())
    assert generation["suppress_tokens"] == [0, 1, 2] and generation["eos_token_id"] == 2
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    assert (tokenizer.unk_token, tokenizer.pad_token, tokenizer.eos_token) == ("<unk>", "<pad>", "<|endoftext|>")
    assert tokenizer.model_max_length == 16


def test_training_goes_on_from_the_folder(molino, tiny, exported, tmp_path):
    """The first held-out loss of the new run is measured before any step: it is the old run's."""
    settings = (f"model.source={exported}", "optimizer.lr=0", "model=pretrained", f"data.path={tiny.file}")
    places = (f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}")
    source = shutil.copytree(exported, tmp_path / "source")
    done = molino("train", "data=text", "debug=fast", "data.block_size=16", *settings, *places, *CPU)
    assert done.status == 0, done.err
    (run,) = directory.list_runs(tmp_path)
    assert directory.read_summary(run)["val/loss"] == pytest.approx(
        directory.read_summary(tiny.path)["val/best_loss"], abs=1e-6
    )
    # The run knows its family and settings itself, and needs the folder no more.
    config = directory.read_config(run)
    assert config["model"]["_target_"] == "molino.models.gpt.GPT" and config["weights"] == str(exported)
    exported.rename(tmp_path / "away")
    try:
        assert molino("generate", f"run={run}", "prompt=a", "max_new_tokens=3", *CPU).status == 0
        summary = directory.read_summary(run)
        (run / "summary.json").unlink()
        # As a run of before there was the setting.
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text("".join(x for x in config.splitlines(True) if not x.startswith("weights:")))
        resumed = molino("train", f"resume={run}", *places)
        assert resumed.status == 0, resumed.err
        assert directory.read_summary(run)["val/loss"] == summary["val/loss"]
    finally:
        (tmp_path / "away").rename(exported)
    assert source.is_dir()


def test_a_llama_run_goes_both_ways(molino, tmp_path, tiny):
    run = train(molino, tmp_path, f"data.path={tiny.file}", "model=llama", "model.n_kv_head=1")
    for model_type, architecture in ((None, "LlamaForCausalLM"), ("phi3", "Phi3ForCausalLM")):
        folder = tmp_path / architecture
        wanted = () if model_type is None else (f"format={model_type}",)
        assert architecture in molino("export", f"run={run}", f"to={folder}", *wanted).out
        texts = [
            molino("generate", which, f"prompt={PROMPT}", "temperature=0", "max_new_tokens=40", *CPU).out
            for which in (f"run={run}", f"source={folder}")
        ]
        assert texts[0] == texts[1] and len(texts[0]) > 40


@pytest.mark.parametrize(
    ("settings", "status", "part"),
    [
        (("to=",), 2, "there is no folder to write: add to=<folder>"),
        (("to={tmp}",), 2, "exists: choose another name, nothing is overwritten"),
        (("to={tmp}/new", "format=llama"), 2, "GPT has no counterpart in llama"),
        (("to={tmp}/new", "format=bert"), 2, "GPT has no counterpart in bert"),
        (("to={tmp}/new", "format=mamba"), 2, "format=mamba is unknown"),
        (("to={tmp}/new", "checkpoint=first"), 2, "checkpoint=first is unknown"),
        (("to={tmp}/new", "run=nothing"), 4, "there is no run nothing"),
        (("to=/proc/x/new",), 5, "/proc/x"),
    ],
)
def test_what_cannot_be_exported(molino, tiny, tmp_path, settings, status, part):
    settings = [setting.format(tmp=tmp_path) for setting in settings]
    named = [] if any(s.startswith("run=") for s in settings) else [f"run={tiny.path}"]
    done = molino("export", *named, *settings, f"paths.outputs={tmp_path}")
    assert done.status == status and part in done.err and done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("verb", "settings", "status", "part"),
    [
        ("generate", ["source={tmp}", "prompt=a"], 4, "holds no config.json"),
        ("generate", ["source={tmp}/nothing", "prompt=a"], 3, "there is no folder"),
        ("generate", ["source={model}", "run=latest", "prompt=a"], 2, "name two models"),
        ("evaluate", ["source={model}"], 2, "does not say what text to read: add data=..."),
        ("train", ["model=pretrained", "data=pydocs"], 2, "model.source has no value yet: add model.source=<"),
        ("train", ["model=pretrained", "data=pydocs", "model.source={tmp}"], 4, "holds no config.json"),
        ("train", ["model=pretrained", "model.source={model}"], 2, "data.block_size=64 is beyond the model's context"),
    ],
)
def test_bad_sources(molino, exported, tmp_path, verb, settings, status, part):
    (tmp_path / "empty").mkdir()
    settings = [setting.format(tmp=tmp_path / "empty", model=exported) for setting in settings]
    places = [f"paths.outputs={tmp_path}", *([f"paths.cache={tmp_path}"] if verb != "generate" else [])]
    done = molino(verb, *settings, *places, "hardware=cpu")
    assert done.status == status and part in done.err and done.err.count("\n") == 1, done.err


def test_a_tokenizer_of_another_model(molino, exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["one more"] = len(vocabulary)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for command in (
        ("generate", f"source={folder}", "prompt=a"),
        ("train", "model=pretrained", f"model.source={folder}", "data.block_size=8", f"paths.cache={tmp_path}"),
    ):
        done = molino(*command, f"paths.outputs={tmp_path}", "hardware=cpu")
        assert done.status == 4 and "do not belong together" in done.err


def test_an_encoder_decoder_says_where_its_targets_start_and_may_end(molino, tiny, tmp_path, monkeypatch):
    loaded = load_run(tiny.path, "best", torch.device("cpu"))
    node = {"_target_": "molino.models.t5.T5", "block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 8}
    torch.manual_seed(0)
    model = T5(loaded.tokenizer.size, *list(node.values())[1:]).eval()
    settings = {**loaded.settings, "model": node}
    made = dataclasses.replace(loaded, model=model, settings=settings, start_id=1)
    monkeypatch.setattr("molino.verbs.export.load_run", lambda *_: made)
    done = molino("export", f"run={tiny.path}", f"to={tmp_path / 'model'}")
    assert done.status == 0 and "T5ForConditionalGeneration" in done.out, done.err
    assert "pipeline_tag: text2text-generation" in (tmp_path / "model" / "README.md").read_text("utf-8")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    said = theirs.generation_config
    assert (said.decoder_start_token_id, said.eos_token_id, said.pad_token_id, said.suppress_tokens) == (
        1,
        2,
        1,
        [0, 1],
    )
    source_BS, tokens_BT = tokenizer([PROMPT], return_tensors="pt").input_ids, torch.tensor([[1, 5, 6]])
    assert theirs.generate(source_BS, max_new_tokens=4)[0, 0] == 1
    with torch.no_grad():
        expected_BTV = theirs(input_ids=source_BS, decoder_input_ids=tokens_BT).logits
        torch.testing.assert_close(model(tokens_BT, source_BS), expected_BTV, atol=1e-5, rtol=0)
    again = load_source(str(tmp_path / "model"), torch.device("cpu"))
    assert again.start_id == 1 and torch.equal(again.model(tokens_BT, source_BS), model(tokens_BT, source_BS))
