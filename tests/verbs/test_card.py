"""The model card: its own example runs, for every architecture and kind of head; it tells nothing of a machine."""

import json
import stat
from pathlib import Path

import pytest
import torch
import transformers
from cards import example_of, run_example
from conftest import CPU, small_text

from molino.hub.formats import FORMATS
from molino.runs import directory
from molino.verbs.card import portable

SIZES = ("model.n_layer=1", "model.n_head=2", "model.n_embd=16", "data.block_size=32")
TEXT = ("data=text", "data.path={home}/text.txt")
PAIRS = ("data=pairs", "data.path={home}/pairs.tsv", "task=sequence_to_sequence")
PAIRS = (*PAIRS, "data.columns={{text:text,target:target}}", "data/tokenizer=char")
LABELS = ("data=labelled", "data.path={home}/rows.csv", "task=classification", "task.lm_coef=0", "data/tokenizer=char")
CHOICES = ("data=labelled", "data.path={home}/choices.jsonl", "task=multiple_choice", "data/tokenizer=char")
CHOICES = (*CHOICES, "data.columns={{text:text,choices:choices,label:label}}", "task.lm_coef=0")
ANSWERS = ("data=answers", "data.path={home}/asked.jsonl", "task=span", "data/tokenizer=char", "data.block_size=48")
HALVES = "model.positions=sinusoidal_halves"
BERT = ("model=bert", "model.norm=post", "model.positions=learned")
RUNS = {
    "gpt2": (*TEXT, "model=gpt"),
    "openai-gpt": (*TEXT, "model=gpt", "model.norm=post", "model.activation=gelu_tanh"),
    "llama": (*TEXT, "model=llama"),
    "mistral": (*TEXT, "model=llama", "model.window=5"),
    "qwen2": (*TEXT, "model=llama", "model.qkv_bias=true"),
    "qwen3": (*TEXT, "model=llama", "model.qk_norm=true"),
    "phi3": (*TEXT, "model=llama"),
    "bert": (*TEXT, *BERT, "task=masked_language_model"),
    "t5": (*PAIRS, "model=t5"),
    "marian": (*PAIRS, "model=transformer", "model.norm=post", HALVES),
    "pegasus": (*PAIRS, "model=transformer", "model.norm=pre", HALVES),
    "gpt2 that reads sources first": (*PAIRS, "model=gpt", "model.block_size=64"),
    "gpt2 with classes": (*LABELS, "model=gpt"),
    "llama with classes": (*LABELS, "model=llama"),
    "gpt2 with choices": (*CHOICES, "model=gpt"),
    "gpt2 with spans": (*ANSWERS, "model=gpt"),
    "bert with spans": (*ANSWERS, *BERT),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with texts, pairs and examples."""
    home = tmp_path_factory.mktemp("cards")
    (home / "text.txt").write_text(small_text(0, 300), "utf-8")
    words = [f"{one} {other}" for one in "abcdefgh" for other in "ijklmnop"]
    (home / "pairs.tsv").write_text("text\ttarget\n" + "".join(f"{w}\t{w[::-1]}\n" for w in words), "utf-8")
    rows = [f"{word} {number},{kind}\n" for number in range(30) for word, kind in (("good", "yes"), ("bad", "no"))]
    (home / "rows.csv").write_text("text,label\n" + "".join(rows), "utf-8")
    asked = [{"text": w, "choices": [w, "no"], "label": 0} for w in words]
    (home / "choices.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked), "utf-8")
    asked = [{"question": "who?", "context": f"a {w}", "answer": w} for w in words]
    (home / "asked.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked), "utf-8")
    return home


def exported(molino, home: Path, outputs: Path, *settings: str) -> Path:
    """Export an untrained run with these settings."""
    settings = tuple(each.format(home=home) for each in settings)
    wanted = [each for each in settings if each.startswith("format=")]
    settings = [each for each in settings if each not in wanted]
    steps = ("trainer.max_steps=0", "debug=fast", "floors=false", "data.batch_size=4", *CPU)
    own = [each for each in SIZES if not any(each.partition("=")[0] == other.partition("=")[0] for other in settings)]
    places = (f"paths.outputs={outputs}", f"paths.cache={home / 'cache'}")
    done = molino("train", *own, *steps[:2], *steps[3:], *places, *settings)
    assert done.status == 0, done.err
    (run,) = directory.list_runs(outputs)
    done = molino("export", f"run={run}", f"to={outputs / 'folder'}", *wanted)
    assert done.status == 0, done.err
    return outputs / "folder"


def test_each_architecture_has_a_run():
    assert {name.partition(" ")[0] for name in RUNS} == FORMATS.keys()


@pytest.mark.parametrize("name", RUNS)
def test_the_example_of_a_card_runs(molino, home, tmp_path, name):
    model_type = name.partition(" ")[0]
    wanted = ("format=phi3",) if name == "phi3" else ()
    folder = exported(molino, home, tmp_path, *RUNS[name], *wanted)
    assert json.loads((folder / "config.json").read_text("utf-8"))["model_type"] == model_type
    text = "de la Mancha" if RUNS[name][0] == "data=text" else "a b"
    assert run_example(example_of(folder, text)).strip()
    # And of what is longer than the context; a question is read whole, and a mask has to lie within.
    long = [text, text * 30] if "bert" in name or "spans" in name else [text * 30]
    assert run_example(example_of(folder, *long)).strip()


def test_a_language_models_example_fills_its_context_and_no_more(tiny, molino, tmp_path):
    assert molino("export", f"run={tiny.path}", f"to={tmp_path / 'folder'}").status == 0
    card = (tmp_path / "folder" / "README.md").read_text("utf-8")
    assert "max_length=4," in card and "max_new_tokens=12," in card and "share a context of 16 tokens" in card
    printed = run_example(example_of(tmp_path / "folder", "un lugar de la Mancha"))
    assert printed.startswith("ncha") and len(printed) <= 17


def test_a_padded_batch_goes_on_as_single_prompts_do(tiny, molino, tmp_path):
    folder = tmp_path / "folder"
    assert molino("export", f"run={tiny.path}", f"to={folder}").status == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompts = ["de la", "e", "quiero"]
    read = tokenizer(prompts, padding=True, return_tensors="pt")
    assert read["attention_mask"][:, -1].all() and not read["attention_mask"].all()
    together = model.generate(**read, max_new_tokens=8, do_sample=False)
    for prompt, row in zip(prompts, together, strict=True):
        alone = model.generate(**tokenizer(prompt, return_tensors="pt"), max_new_tokens=8, do_sample=False)[0]
        assert torch.equal(row[-8:], alone[-8:])
        assert tokenizer.decode(row, skip_special_tokens=True).startswith(prompt)


def test_files_are_as_public_as_the_process_makes_them_and_tell_of_no_machine(tiny, molino, tmp_path):
    folder = tmp_path / "folder"
    assert molino("export", f"run={tiny.path}", f"to={folder}").status == 0
    (tmp_path / "usual").write_text("", "utf-8")
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {usual}
    (tmp_path / "folder like others").mkdir()
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "folder like others").stat().st_mode)
    for file in folder.glob("*.[jm]*"):
        if file.suffix in (".json", ".md"):
            told = file.read_text("utf-8")
            assert "_name_or_path" not in told
            assert not any(str(place) in told for place in (Path.home(), tiny.outputs, tiny.cache, tiny.file.parent))
    assert f"path: {tiny.file.name}" in (folder / "README.md").read_text("utf-8")


def test_settings_without_the_places_of_a_machine():
    settings = {
        "cache": "/home/me/.cache", "path": ["/home/me/a.txt", "b/c.txt"], "more": {"mirror": "/x", "at": "~/y/z"},
        "source": "openai-community/gpt2", "n": 3, "up": "../x/w.txt", "drive": "C:\\me\\v.txt",
    }  # fmt: skip
    assert portable(settings) == {
        "path": ["a.txt", "b/c.txt"], "more": {"at": "z"}, "source": "openai-community/gpt2", "n": 3, "up": "w.txt",
        "drive": "v.txt",
    }  # fmt: skip
