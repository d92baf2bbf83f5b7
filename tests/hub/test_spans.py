"""Heads that tell where an answer stands, both ways: random models made by `transformers`, and runs of ours."""

import contextlib
import io
import json
import re

import pytest
import torch
import transformers
from conftest import CPU
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

import molino
from molino.base.errors import CheckpointError, ConfigError
from molino.hub.read import read_head

LETTERS = [*"abcdefgh ", "[UNK]", "[CLS]", "[SEP]", "[PAD]"]
BERT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 60,
}  # fmt: skip
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 60}
QUESTION, CONTEXT = "abba gab", "head cab bed dab beef egg"


def theirs(folder, name: str, sizes: dict):
    """Write a random model that answers questions, with a tokenizer of letters and BERT's template; return both."""
    backend = Backend(models.WordLevel({each: n for n, each in enumerate(LETTERS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = [(name, LETTERS.index(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special)
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    backend.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=len(LETTERS), **sizes, initializer_range=0.5)
    model = getattr(transformers, f"{name}ForQuestionAnswering")(config).eval()
    torch.nn.init.normal_(model.qa_outputs.bias)
    model.save_pretrained(folder)
    return model, backend


def best_of(begin_C, end_C, longest: int) -> tuple[float, int, int]:
    """The likeliest span by trying all."""
    spans = ((a, b) for a in range(len(begin_C)) for b in range(a, min(a + longest, len(begin_C))))
    return max(((begin_C[a] + end_C[b]).item(), a, b) for a, b in spans)


@pytest.mark.parametrize(("name", "sizes"), [("Bert", BERT), ("GPT2", GPT2)])
def test_a_folder_from_elsewhere_answers(name, sizes, tmp_path):
    model, backend = theirs(tmp_path, name, sizes)
    read = backend.encode(QUESTION, CONTEXT)
    parts = {"token_type_ids": torch.tensor([read.type_ids])} if name == "Bert" else {}
    with torch.no_grad():
        told = model(torch.tensor([read.ids]), **parts)
    first = read.sequence_ids.index(1)
    inside = [0, *range(first, len(read.ids) - 1)]
    begin, end = (each[0, inside].double().log_softmax(0)[1:] for each in (told.start_logits, told.end_logits))
    log_p, a, b = best_of(begin, end, 30)
    answer = molino.load(tmp_path).predict({"question": QUESTION, "context": CONTEXT})
    assert answer["answer"] == CONTEXT[a : b + 1].strip() == CONTEXT[answer["start"] : answer["end"]]
    assert answer["score"] == pytest.approx(torch.tensor(log_p).exp().item(), rel=1e-4)


def test_a_head_that_is_damaged_is_one_line(tmp_path):
    theirs(tmp_path, "Bert", BERT)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    for change, says in (
        ({"qa_outputs.bias": None}, "lacks qa_outputs.bias, a part of the head of a BertForQuestionAnswering"),
        ({"qa_outputs.weight": None}, "lacks qa_outputs.weight"),
        ({"qa_outputs.weight": torch.zeros(3, 16)}, r"tells no beginning and end: qa_outputs.weight \(3, 16\)"),
        ({"qa_outputs.bias": torch.zeros(3)}, r"and qa_outputs.bias \(3,\)"),
        ({"qa_outputs.weight": torch.zeros(2)}, r"qa_outputs.weight of shape \(2,\), which is no matrix"),
    ):
        save_file({name: each for name, each in (whole | change).items() if each is not None}, path, {"format": "pt"})
        with pytest.raises(CheckpointError, match=says):
            read_head(str(tmp_path))
    save_file(whole | {"qa_outputs.weight": torch.zeros(2, 17)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="reads 17 numbers a token, and the model has 16: they do not belong"):
        molino.load(tmp_path)


def test_a_tokenizer_without_marks_is_refused(tmp_path):
    theirs(tmp_path, "Bert", BERT)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    with pytest.raises(ConfigError, match="does not put one token before, between and behind two texts"):
        molino.load(tmp_path).predict({"question": QUESTION, "context": CONTEXT})


@pytest.mark.parametrize("model", ["model=bert model.norm=post model.positions=learned", "model=gpt"])
def test_a_run_answers_the_same_as_a_folder_here_and_in_transformers(molino_in, tmp_path, model):
    table = [{"question": "who runs?", "context": f"the {name} runs", "answer": name} for name in ("cat", "dog", "ox")]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(each) + "\n" for each in table * 4), "utf-8")
    sizes = ("model.n_layer=1", "model.n_head=2", "model.n_embd=8", "data.block_size=64", "data.tokenizer.size=270")
    steps = ("trainer.max_steps=2", "trainer.val_every=2", "data.batch_size=4", f"data.path={tmp_path}/asked.jsonl")
    molino_in("train", "data=answers", "task=span", *model.split(), *sizes, *steps)
    (run,) = (tmp_path / "outputs").iterdir()
    folder = tmp_path / "folder"
    told = molino_in("export", f"run={run}", f"to={folder}").out
    assert "ForQuestionAnswering" in told and 'question="..." context="..."' in told
    asked = {"question": "who sleeps?", "context": "the cow sleeps, and the dog barks"}
    ours, again = (molino.load(each).predict(asked) for each in (run, folder))
    assert again == ours | {"score": pytest.approx(ours["score"], rel=1e-4)}
    # The example of its card is the same computation by transformers.
    (example,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    filled = example.replace("path/to/this/folder", str(folder))
    filled = filled.replace('"...", "..."', f"{asked['question']!r}, {asked['context']!r}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(filled, {})
    assert printed.getvalue().strip() == ours["answer"]
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    read = reader(*asked.values(), return_tensors="pt")
    assert ("token_type_ids" in read) == ("bert" in model)
    first = read.sequence_ids(0).index(1)
    inside = [0, *range(first, read.input_ids.shape[1] - 1)]
    with torch.no_grad():
        each = theirs(**read)
    begin, end = (logits[0, inside].double().log_softmax(0)[1:] for logits in (each.start_logits, each.end_logits))
    assert ours["score"] == pytest.approx(torch.tensor(best_of(begin, end, 30)[0]).exp().item(), rel=1e-4)


@pytest.fixture
def molino_in(molino, tmp_path):
    def run(*arguments):
        training = (f"paths.cache={tmp_path / 'cache'}", *CPU) if arguments[0] == "train" else ()
        done = molino(*arguments, f"paths.outputs={tmp_path / 'outputs'}", *training)
        assert done.status == 0, done.err
        return done

    return run


def test_what_is_asked_wrongly_is_one_line(tmp_path):
    theirs(tmp_path, "Bert", BERT)
    loaded = molino.load(tmp_path)
    for asked, says in (
        ({"question": "a", "context": "  \n "}, "the context of question 1 is empty"),
        ({"question": "a", "context": ["b", "c"]}, "a pair that is one, and this is"),
        ({"context": "a"}, r"a dict with a text, .* this is {'context': 'a'}"),
        ({"question": "a", "text": "b", "context": "c"}, "question and text are two names of one thing"),
    ):
        with pytest.raises(molino.MolinoError, match=says):
            loaded.predict(asked)


def test_what_a_run_is_told_beside_its_tokens_is_in_no_format(molino_in, molino, tmp_path):
    table = [
        {"question": "who?", "context": f"a {name}", "answer": name} for name in ("cat", "dog", "ox", "cow", "elk")
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(each) + "\n" for each in table * 3), "utf-8")
    sizes = ("model.n_layer=1", "model.n_head=2", "model.n_embd=8", "data.block_size=64", "data.tokenizer.size=262")
    steps = (
        "trainer.max_steps=1",
        "data.batch_size=4",
        f"data.path={tmp_path}/asked.jsonl",
        "data.val_fraction=0.5",
        "task.in_common=true",
    )
    molino_in("train", "data=answers", "task=span", "model=bert", *sizes, *steps)
    (run,) = (tmp_path / "outputs").iterdir()
    assert molino_in("predict", f"run={run}", "question=who?", "context=a dog").out.strip() in "a dog"
    alone = molino("predict", f"run={run}", "context=a dog")
    assert alone.status == 2 and 'add text="..." or question="..."' in alone.err and alone.err.count("\n") == 1
    done = molino("export", f"run={run}", f"to={tmp_path / 'folder'}", "format=bert")
    assert done.status == 2 and "task.in_common=true has no counterpart in transformers" in done.err
