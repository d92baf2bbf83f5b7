"""Tasks on examples: what a batch holds, what is lost on it, what is measured; each against the same done by hand."""

import functools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.data.examples import Example, texts_of
from molino.data.examples_drawn import draw_examples
from molino.data.tokenizers import train_char
from molino.data.tokens import prepare
from molino.evaluation.totals import measure_all
from molino.models.bigram import Bigram
from molino.models.gpt import GPT
from molino.models.kneser_ney import KneserNey
from molino.models.llama import Llama
from molino.models.lstm import LSTM
from molino.tasks.labelled import LabelledTask
from molino.training.optimizers import optimizer_for

BLOCK = 16
WORDS = ("ab", "abba", "c", "dedede", "fa", "gagaga", "hi")


class Corpus:
    """Examples that are made up."""

    name, licence, documents = "made up", "CC0", True

    def __init__(self, train, val):
        self.splits = {"train": train, "val": val}

    def fingerprint(self) -> str:
        return f"{abs(hash(str(self.splits))):064x}"

    def examples(self):
        return self.splits

    def read(self):
        return texts_of(self.splits)


def made_up(kind: str, count: int, seed: int) -> list[Example]:
    rng = np.random.default_rng(seed)

    def text() -> str:
        return " ".join(rng.choice(WORDS, rng.integers(1, 4)))

    if kind == "multiple_choice":
        return [Example(text(), choices=(text(), text(), text()), answer=int(rng.integers(3))) for _ in range(count)]
    pair = (lambda: None) if kind == "classification" else text
    return [
        Example(text(), pair(), label=str(rng.choice(["no", "yes"])), score=float(rng.normal(3, 2)))
        for _ in range(count)
    ]


TASKS = {
    "classification": {}, "entailment": {}, "similarity": {}, "multiple_choice": {},
    "mean": {"kind": "classification", "pooling": "mean"}, "last": {"kind": "entailment", "pooling": "last"},
    "both": {"kind": "entailment", "both_orders": True}, "alone": {"kind": "classification", "lm_coef": 0.0},
}  # fmt: skip


def make(name: str, **more) -> LabelledTask:
    settings = {"kind": name, "dropout": 0.0} | TASKS[name] | more
    monitor = "val/pearson" if settings["kind"] == "similarity" else "val/accuracy"
    return LabelledTask(monitor=monitor, direction="maximize", **settings)


@pytest.fixture
def prepared(tmp_path):
    def make_text(kind: str, train=None, val=None):
        corpus = Corpus(train or made_up(kind, 40, 0), val or made_up(kind, 25, 1))
        return prepare(corpus, functools.partial(train_char), tmp_path, LabelledTask.tokens)

    return make_text


def network_of(task: LabelledTask, text, model=GPT, **sizes):
    task.settle(text)
    torch.manual_seed(0)
    sizes = sizes or {"n_layer": 2, "n_embd": 16} | ({"n_head": 2} if model is not LSTM else {})
    return task.network(model(vocab_size=text.tokenizer.size, block_size=BLOCK, **sizes))


def by_hand(task: LabelledTask, text, example: Example) -> list[list[int]]:
    """The sequences of an example that fits."""
    ids = {name: text.tokenizer.backend.token_to_id(name) for name in ("<start>", "<delimiter>", "<extract>")}
    start, extract = ([ids["<start>"]], [ids["<extract>"]]) if task.pooling != "last" else ([], [])
    one, *others = (text.tokenizer.encode(each).tolist() for each in example.texts)
    if not others:
        return [start + one + extract]
    found = [start + one + [ids["<delimiter>"]] + other + extract for other in others]
    if task.both_orders:
        found.append(start + others[0] + [ids["<delimiter>"]] + one + extract)
    return found


@pytest.mark.parametrize("name", TASKS)
def test_losses_and_figures_are_those_of_each_example_alone(prepared, name):
    task = make(name)
    short = [each for each in made_up(task.kind, 200, 2) if all(len(t) <= 6 for t in each.texts)][:20]
    text = prepared(task.kind, val=short)
    network = network_of(task, text).eval()
    rows, lm_nll, lm_count = [], 0.0, 0
    with torch.no_grad():
        for example in short:
            states = []
            for ids in by_hand(task, text, example):
                hidden = network.model.hidden(torch.tensor([ids]))[0]
                states.append(hidden.mean(0) if task.pooling == "mean" else hidden[-1])
                nll = F.cross_entropy(network.model.head(hidden[:-1]), torch.tensor(ids[1:]), reduction="sum")
                lm_nll, lm_count = lm_nll + nll.item(), lm_count + len(ids) - 1
            logits = [network.task_head(state) for state in states]
            rows.append(torch.cat(logits) if task.kind == "multiple_choice" else torch.stack(logits).sum(0))
    logits = torch.stack(rows).double()
    wanted = torch.from_numpy(task.outcome.wanted(short))
    totals = measure_all(task.measure, network, task.evaluation(text, "val", BLOCK, None), torch.device("cpu"))
    figures = task.figures(totals, text.splits["val"])
    if task.kind == "similarity":
        loss = F.mse_loss(logits[:, 0], wanted)
        assert figures["pearson"] == pytest.approx(np.corrcoef(logits[:, 0], wanted)[0, 1], abs=1e-6)
    else:
        loss = F.cross_entropy(logits, wanted)
        assert figures["accuracy"] == (logits.argmax(1) == wanted).double().mean().item()
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)
    if task.lm_coef:
        assert figures["lm_loss"] == pytest.approx(lm_nll / lm_count, rel=1e-5)
    # The loss of training is the same figure, of its own split.
    train = task.draw(text, "documents", BLOCK, 0)
    (micro,) = next(draw_examples(train, train.order(40), task.parts, np.arange(1), 1).steps())
    losses = task.loss(network, micro.fields)
    totals = measure_all(task.measure, network, task.evaluation(text, "train", BLOCK, None), torch.device("cpu"))
    figures = task.figures(totals, text.splits["train"])
    assert losses["task_loss"].item() == pytest.approx(figures["loss"], rel=1e-5)
    assert ("lm_loss" in losses) == bool(task.lm_coef)
    if task.lm_coef:
        assert losses["lm_loss"].item() == pytest.approx(figures["lm_loss"], rel=1e-5)


@pytest.mark.parametrize("name", ["classification", "multiple_choice"])
def test_parts_add_up_over_micro_batches_and_processes(prepared, name):
    task = make(name)
    text = prepared(task.kind)
    network, draw = network_of(task, text).eval(), task.draw(text, "documents", BLOCK, 3)

    def losses(accumulate: int, world_size: int) -> dict[str, float]:
        found = dict.fromkeys(task.parts, 0.0)
        for rank in range(world_size):
            (micro_batches,) = draw_examples(
                draw, draw.order(8 // accumulate), task.parts, np.arange(1), accumulate, rank, world_size
            ).steps()
            for batch, weights in micro_batches:
                for part, loss in task.loss(network, batch).items():
                    found[part] += weights[part] * loss.item() / world_size
        return found

    # Batches of other sizes hold other examples: those of one size are shared by processes.
    for accumulate in (1, 2):
        assert losses(accumulate, 2) == pytest.approx(losses(accumulate, 1), rel=1e-5)


@pytest.mark.parametrize("name", ["classification", "similarity", "multiple_choice"])
def test_a_split_is_measured_the_same_by_three_processes(prepared, name):
    task = make(name)
    text, cpu = prepared(task.kind), torch.device("cpu")
    network = network_of(task, text).eval()
    whole = measure_all(task.measure, network, task.evaluation(text, "val", BLOCK, None), cpu)
    shares = [
        measure_all(task.measure, network, task.evaluation(text, "val", BLOCK, None, r, 3), cpu) for r in range(3)
    ]
    together = {key: sum(share[key] for share in shares) for key in whole if key != "rows"}
    together["rows"] = np.concatenate([share["rows"] for share in shares])
    found, wanted = (task.figures(each, text.splits["val"]) for each in (together, whole))
    assert found == pytest.approx(wanted, rel=1e-6)


def test_contexts_are_cut_and_answers_are_not(prepared):
    long = Example("a" * 100, choices=("b" * 5, "c" * 3), answer=1)
    text = prepared("multiple_choice", train=[long], val=[long])
    task = make("multiple_choice")
    task.settle(text)
    (batch,) = task.evaluation(text, "val", BLOCK, None)
    told = [text.tokenizer.decode(ids) for ids in batch["tokens"][0]]
    assert told[0] == "<start>" + "a" * 8 + "<delimiter>" + "b" * 5 + "<extract>"
    assert told[1] == "<start>" + "a" * 10 + "<delimiter>" + "c" * 3 + "<extract>"
    assert "cut to the context" in task.remarks(text, BLOCK)


@pytest.mark.parametrize("model", [GPT, Llama, LSTM, Bigram])
def test_every_family_has_a_head_that_learns(prepared, model):
    """Whether there is a c: the network has only to look."""
    examples = [each._replace(label="yes" if "c" in each.text else "no") for each in made_up("classification", 60, 5)]
    text, task = prepared("classification", train=examples, val=examples), make("mean")
    sizes = {} if model is Bigram else {"n_layer": 1, "n_embd": 16} | ({} if model is LSTM else {"n_head": 2})
    task.settle(text)
    torch.manual_seed(0)
    network = task.network(model(vocab_size=text.tokenizer.size, block_size=BLOCK, **sizes))
    draw, optimizer = task.draw(text, "documents", BLOCK, 0), torch.optim.Adam(network.parameters(), 0.03)
    for (batch, _), *_ in draw_examples(draw, draw.order(20), task.parts, np.arange(90), 1).steps():
        optimizer.zero_grad()
        sum(task.loss(network, batch).values()).backward()
        optimizer.step()
    told = task.predict(network, text.tokenizer, examples, BLOCK)
    assert np.mean([each["label"] == e.label for each, e in zip(told, examples, strict=True)]) > 0.9


def test_answers_are_those_of_the_measured_split_and_look_as_in_a_pipeline(prepared):
    task = make("classification")
    text = prepared("classification")
    network, examples = network_of(task, text).eval(), text.corpus.examples()["val"]
    totals = measure_all(task.measure, network, task.evaluation(text, "val", BLOCK, None), torch.device("cpu"))
    p = torch.from_numpy(totals["rows"][np.argsort(totals["rows"][:, 0])][:, 2:]).softmax(1)
    answers = task.predict(network, text.tokenizer, examples, BLOCK)
    for row, answer in zip(p.tolist(), answers, strict=True):
        assert answer["probabilities"] == pytest.approx(dict(zip(("no", "yes"), row, strict=True)), rel=1e-5)
        assert answer["score"] == max(answer["probabilities"].values()) == answer["probabilities"][answer["label"]]
    # Alone or beside others, an example is told the same.
    assert task.predict(network, text.tokenizer, examples[3:4], BLOCK)[0]["score"] == pytest.approx(
        answers[3]["score"], rel=1e-5
    )


# What learns


def test_layers_are_frozen_and_learn_at_their_rates(prepared):
    text = prepared("classification")
    task = make("classification", freeze=1, layer_decay=0.5)
    network = network_of(task, text)
    frozen = {name for name, each in network.named_parameters() if not each.requires_grad}
    assert frozen == {
        n for n, _ in network.named_parameters() if n.startswith(("model.wte", "model.wpe", "model.h.0."))
    }
    optimizer = optimizer_for(network, set(), lambda params: torch.optim.SGD(params, lr=1.0))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(network.named_parameters())
    assert rates[id(named["task_head.weight"])] == rates[id(named["model.ln_f.weight"])] == 1.0
    assert rates[id(named["model.h.1.mlp.c_fc.weight"])] == 0.5 and len(rates) == len(named) - len(frozen)
    assert optimizer.param_groups[0]["lr"] == 1.0 and network.rates["model.wte.weight"] == 0.125
    all_frozen = network_of(make("classification", freeze="all", lm_coef=0.0), text)
    assert [name for name, each in all_frozen.named_parameters() if each.requires_grad] == ["task_head.weight"]


@pytest.mark.parametrize(
    ("name", "more", "says"),
    [
        ("classification", {"freeze": 3}, "task.freeze=3 is unknown: say none, all, or how many layers, up to 2"),
        ("classification", {"freeze": "all"}, "add task.lm_coef=0"),
        ("classification", {"layer_decay": 0.0}, "task.layer_decay=0.0 is out of range"),
        ("classification", {"pooling": "max"}, "task.pooling=max is unknown: choose one of extract, mean, last"),
        ("classification", {"lm_coef": -1.0}, "task.lm_coef=-1.0 must be from 0 to 1000"),
        ("classification", {"both_orders": True}, "task.both_orders=true needs pairs"),
        ("multiple_choice", {"classes": ["a", "b"]}, "has no use for task=multiple_choice"),
        ("similarity", {"on_floor": True}, "task.on_floor=true needs classes"),
        ("classification", {"classes": ["a", "b"]}, "has the class 'no', and the head is for a, b"),
        ("classification", {"dropout": 1.0}, "task.dropout=1.0 is out of range"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(prepared, name, more, says):
    text = prepared(TASKS[name].get("kind", name))
    with pytest.raises(ConfigError) as error:
        network_of(make(name, **({"dropout": 0.0} | more)), text)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Bigram(9, 8), "Bigram sees one token at a time: add task.pooling=mean"),
        (KneserNey(9, 8), "KneserNey has no hidden states for a head to read"),
    ],
)
def test_models_that_a_head_cannot_read_are_one_line(model, says):
    with pytest.raises(ConfigError, match=says):
        make("classification", classes=["no", "yes"]).network(model)


def test_other_examples_than_a_task_reads_are_refused(prepared):
    text = prepared("entailment")
    with pytest.raises(ConfigError, match="made up does not go with it: task=classification reads no pair"):
        make("classification").settle(text)
    with pytest.raises(ConfigError, match="task=entailment needs pair"):
        make("entailment").check_fields([Example("a")])
    # A target is a text as well, and none that tells of a class.
    with pytest.raises(ConfigError, match="task=classification reads no target: it takes text"):
        make("classification").check_fields([Example("a", label="x", targets=("b",))])


# Standing on a bag of words


def test_on_a_bag_of_words_it_begins_with_what_that_says(prepared):
    text, task = prepared("classification"), make("classification", on_floor=True, lm_coef=0.0)
    network = network_of(task, text).eval()
    task.take(task.stand(text))
    totals = measure_all(task.measure, network, task.evaluation(text, "val", BLOCK, None), torch.device("cpu"))
    figures = task.figures(totals, text.splits["val"])
    (_, bag) = task.floors(text, "val", BLOCK)
    assert bag.tag == "floor/bag_of_words" and figures["loss"] == pytest.approx(bag.levels["loss"], rel=1e-4)
    assert figures["accuracy"] == bag.levels["accuracy"]
    # In training an example is told of by a bag that has not seen it: worse, but no recital.
    draw = task.draw(text, "documents", BLOCK, 0)
    (micro,) = next(draw_examples(draw, draw.order(40), task.parts, np.arange(1), 1).steps())
    own = task.evaluation(text, "train", BLOCK, None)
    seen = task.figures(measure_all(task.measure, network, own, torch.device("cpu")), text.splits["train"])["loss"]
    assert seen < 0.5 < task.loss(network, micro.fields)["task_loss"].item() < math.inf
