"""Heads for classes and for choices, both ways: small random models made by `transformers`, and ours."""

import json

import pytest
import torch
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

import molino
from molino.base.errors import CheckpointError, ConfigError
from molino.data.examples import Example
from molino.data.tokenizers import Tokenizer
from molino.hub.heads import stored_head, templated
from molino.hub.read import read_head
from molino.hub.write import find_format, write_model
from molino.models.gpt import GPT
from molino.models.llama import Llama
from molino.models.trained_head import CHOICES, CLASSES, Head
from molino.tasks.labelled import LabelledTask
from molino.tasks.outcomes import Choices, Classes

WORDS = {"<unk>": 0, "<pad>": 1, "the": 2, "film": 3, "is": 4, "fine": 5, "dull": 6, "plot": 7}
TEXTS = ["the film is fine", "dull plot", "fine", "the plot the film is dull is"]
GPT_SIZES = {"vocab_size": 8, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
LLAMA_SIZES = {
    "vocab_size": 8, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 24,
}  # fmt: skip
THEIRS = {
    "gpt2": ("GPT2", GPT_SIZES), "openai-gpt": ("OpenAIGPT", GPT_SIZES), "llama": ("Llama", LLAMA_SIZES),
    "qwen2": ("Qwen2", LLAMA_SIZES),
}  # fmt: skip


@pytest.fixture
def tokenizer() -> Tokenizer:
    backend = Backend(models.WordLevel(WORDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend)


def theirs(folder, kind: str, tokenizer: Tokenizer, names: list[str]):
    """Write a random model with a head of `transformers`, its weights far from zero, and return it."""
    name, sizes = THEIRS[kind]
    torch.manual_seed(0)
    labels = {"id2label": dict(enumerate(names)), "label2id": {each: n for n, each in enumerate(names)}}
    config = getattr(transformers, f"{name}Config")(**sizes, **labels, initializer_range=0.3, pad_token_id=1)
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    model.save_pretrained(folder)
    tokenizer.save(folder / "tokenizer.json")
    return model


@pytest.mark.parametrize("kind", THEIRS)
def test_a_folder_from_elsewhere_is_asked_by_its_last_token(kind, tokenizer, tmp_path):
    model, names = theirs(tmp_path, kind, tokenizer, ["no", "perhaps", "yes"]), ["no", "perhaps", "yes"]
    answers = molino.load(tmp_path).predict(TEXTS)
    for text, answer in zip(TEXTS, answers, strict=True):
        ids = torch.tensor([tokenizer.encode(text).tolist()])
        with torch.no_grad():
            p = model(ids).logits[0].softmax(-1)
        assert answer["probabilities"] == pytest.approx(dict(zip(names, p.tolist(), strict=True)), abs=1e-5)
        assert answer["label"] == names[int(p.argmax())]


def test_a_head_that_is_damaged_is_one_line(tokenizer, tmp_path):
    theirs(tmp_path, "gpt2", tokenizer, ["a", "b"])
    config = json.loads((tmp_path / "config.json").read_text())
    for broken, says in (
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "names 3 classes of a head for 2"),
        ({"id2label": None}, "names no classes of its head"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | broken))
        with pytest.raises(CheckpointError, match=says):
            read_head(str(tmp_path))


def network(task: LabelledTask, outcome, model):
    task.outcome = outcome
    torch.manual_seed(1)
    made = task.network(model)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return made.eval()


@pytest.mark.parametrize("kind", ["gpt2", "openai-gpt"])
def test_two_heads_give_the_scores_of_choices_and_the_next_token(kind, tokenizer, tmp_path):
    tokenizer = tokenizer.extended(LabelledTask.tokens)
    settings = {"vocab_size": tokenizer.size, "block_size": 24, "n_layer": 2, "n_head": 2, "n_embd": 16}
    settings |= {"norm": "post" if kind == "openai-gpt" else "pre", "activation": "gelu_tanh"}
    task = LabelledTask("multiple_choice", "val/accuracy", "maximize")
    own = network(task, Choices(3), GPT(**settings))
    model, head = task.exported(own)
    assert head.kind == CHOICES
    architecture = write_model(tmp_path, model, find_format(model, settings, kind), settings, {"pad_token_id": 1}, head)
    (tmp_path / "tokenizer.json").write_text(templated(tokenizer.json(), head.sequence, {
        token: tokenizer.backend.token_to_id(token) for each in head.sequence for token in each
    }))  # fmt: skip
    loaded = getattr(transformers, architecture).from_pretrained(tmp_path).eval()
    question, choices = "the film is", ("fine", "dull dull", "the plot")
    reader = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="<pad>")
    read = reader([question] * 3, list(choices), padding=True, return_tensors="pt")
    ends = read["attention_mask"].sum(1) - 1
    with torch.no_grad():
        told = loaded(read["input_ids"][None], mc_token_ids=ends[None])
        logits = own.model(read["input_ids"])
    (answer,) = task.predict(own, tokenizer, [Example(question, choices=choices)], 24)
    p = told.mc_logits[0].softmax(-1).tolist()
    assert answer["probabilities"] == pytest.approx(dict(zip(choices, p, strict=True)), abs=1e-5)
    inside = read["attention_mask"].bool()
    torch.testing.assert_close(told.logits[0][inside], logits[inside], atol=1e-4, rtol=1e-4)
    # And back.
    (again,) = molino.load(tmp_path).predict([{"text": question, "choices": list(choices)}])
    assert again["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-5)


def test_what_has_no_head_for_it_is_refused():
    settings = {"vocab_size": 9, "block_size": 8, "n_layer": 1, "n_head": 2, "n_embd": 8}
    head = Head(CHOICES, None, torch.zeros(1, 8))
    with pytest.raises(ConfigError, match="llama has no head for choices in transformers, only gpt2, openai-gpt"):
        stored_head(find_format(Llama(**settings), settings), head)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "similarity", "monitor": "val/pearson"}, "both orders of a pair"),
        ({"kind": "similarity", "monitor": "val/pearson", "both_orders": False}, "a score"),
        ({"kind": "classification", "pooling": "mean"}, "task.pooling=mean"),
        ({"kind": "classification", "on_floor": True}, "a bag of words"),
        ({"kind": "entailment", "both_orders": True}, "both orders of a pair"),
    ],
)
def test_what_no_class_of_transformers_computes_is_refused(settings, says):
    task = LabelledTask(**{"monitor": "val/accuracy", "direction": "maximize"} | settings)
    task.outcome = Classes(("a", "b")) if settings["kind"] != "similarity" else task.outcome
    with pytest.raises(ConfigError, match=f"{says} has no counterpart in transformers"):
        task.exported(task.network(GPT(9, 8, n_layer=1, n_head=2, n_embd=8)))


def test_a_head_of_the_same_classes_in_another_order_is_taken_row_by_row():
    task = LabelledTask("classification", "val/accuracy", "maximize", classes=["a", "b", "c"])
    own = task.network(GPT(9, 8, n_layer=1, n_head=2, n_embd=4))
    task.begin(own, Head(CLASSES, ("c", "a", "b"), torch.arange(12.0).view(3, 4)))
    assert own.task_head.weight.tolist() == [[4, 5, 6, 7], [8, 9, 10, 11], [0, 1, 2, 3]]
