"""Parts of people's own: examples/mylab, and docs/your-own-code.md as a newcomer follows it."""

import csv
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import CPU, ROOT

from molino.base.errors import MolinoError
from molino.configuration.door import ALLOW, let_in
from molino.configuration.request import Request
from molino.data.corpus import Corpus
from molino.models.cache import KVCache
from molino.runs import directory
from molino.sweeps.attempt import Context
from molino.trained.load import load_checkpoint, load_run
from molino.training.checkpoints import AtomicCheckpointIO
from molino.verbs import train as train_verb

MYLAB = ROOT / "examples" / "mylab"
CONF = MYLAB / "conf"
OWN = ("--config-dir", str(CONF))
SMALL = ("data=sums", "data.corpus.count=2000", "data.block_size=16", "data.batch_size=4", "model.n_embd=16")
# All of them share a cache.
pytestmark = pytest.mark.xdist_group("mylab")


@pytest.fixture(autouse=True)
def at_mylab(monkeypatch):
    monkeypatch.setenv(ALLOW, "mylab")
    monkeypatch.chdir(MYLAB)
    let_in()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def train(molino, cache, tmp_path):
    def run(*settings: str) -> list[Path]:
        places = (f"paths.cache={cache}", f"paths.outputs={tmp_path}")
        done = molino("train", *OWN, "debug=fast", *CPU, *places, *settings)
        assert done.status == 0, done.err
        return directory.list_runs(tmp_path)

    return run


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# The parts by themselves


def test_lion_steps_along_the_sign_of_its_average():
    from mylab.optimizers import Lion

    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    lion = Lion([parameter], lr=0.1, betas=(0.9, 0.5), weight_decay=0.5)
    parameter.grad = torch.tensor([0.3, -0.2, 0.0])
    lion.step()  # the average was 0: the sign is that of the gradient
    first = torch.tensor([1.0, -2.0, 3.0]) * 0.95 - 0.1 * torch.tensor([1.0, -1.0, 0.0])
    torch.testing.assert_close(parameter.data, first)
    parameter.grad = torch.tensor([-1.0, -1.0, -1.0])
    lion.step()  # the average is (0.15, -0.1, 0): 0.9 of it with 0.1 of the gradient
    signs = torch.tensor([0.9 * 0.15 - 0.1, 0.9 * -0.1 - 0.1, -0.1]).sign()
    torch.testing.assert_close(parameter.data, first * 0.95 - 0.1 * signs)


def test_the_schedule_rises_and_falls():
    from mylab.schedules import inverse_sqrt

    assert [inverse_sqrt(step, 1000, 4) for step in (0, 1, 3, 15)] == [0.25, 0.5, 1.0, 0.5]
    assert inverse_sqrt(3, 1000, 0) == 0.5


def test_a_byte_is_a_token():
    from mylab.tokenizers import train_bytes

    tokenizer = train_bytes([])
    text = "¿Qué? 12+30=42\n"
    ids = tokenizer.encode(text)
    assert tokenizer.size == 256 and len(ids) == len(text.encode()) and tokenizer.decode(ids) == text
    assert len(set(ids.tolist())) == len(set(text.encode()))


def test_sums_are_right():
    from mylab.corpora import Sums

    text = "".join("".join(part) for split in Sums(count=500).read().values() for part in split)
    lines = text.splitlines()
    assert len(lines) == 500 and Sums(count=500).fingerprint() != Sums(count=501).fingerprint()
    for line in lines:
        one, two, total = map(int, re.split("[+=]", line))
        assert one + two == total
    assert all(hasattr(Sums, name) for name in Corpus.__annotations__)


def test_a_model_with_a_cache_reads_in_pieces_what_it_reads_whole():
    from mylab.models import Parallel

    torch.manual_seed(0)
    model = Parallel(11, block_size=12, n_head=2, n_embd=8).eval()
    tokens_BT = torch.randint(11, (3, 12))
    cache = KVCache(model.capabilities.cache, 3, 12)
    pieces = [model(part_BT, cache) for part_BT in tokens_BT.split([5, 1, 6], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens_BT))


# Through molino


@pytest.mark.parametrize("model", sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
def test_models_are_trained_evaluated_and_sampled(train, molino, cache, tmp_path, model):
    (run,) = train(*SMALL, f"model={model}")
    named = (f"run={run}", f"paths.outputs={tmp_path}", *CPU)
    evaluated = molino("evaluate", *named, "checkpoint=last", f"paths.cache={cache}")
    loss = directory.read_summary(run)["val/loss"]
    assert evaluated.status == 0 and f"{loss:.4f} nats a token" in evaluated.out
    # Past the end of the context of 16, with a cache where the model has one.
    asked = (*named, "prompt=12+3", "max_new_tokens=40")
    cached, whole = (molino("generate", *asked, f"cache={cached}") for cached in ("true", "false"))
    assert cached.status == 0 and cached.out == whole.out and cached.out.startswith("12+3"), cached.err
    explained = molino("explain", *named, "prompt=12+3=")
    assert explained.status == 0, explained.err
    assert ("it has no attention to draw" in explained.out) == (model == "gru")
    assert ("KV cache" in explained.out) == (model == "parallel")
    named_folder = ("export", f"run={run}", f"paths.outputs={tmp_path}", f"to={tmp_path / 'out'}")
    refused = molino(*named_folder, "format=gpt2")
    assert refused.status == 2 and "has no counterpart in gpt2" in refused.err and refused.err.count("\n") == 1
    assert molino(*named_folder).status == 0
    again = molino("generate", f"source={tmp_path / 'out'}", "prompt=12+3", "max_new_tokens=40", *CPU)
    assert again.status == 0 and again.out == cached.out, again.err
    assert "MOLINO_ALLOW=mylab" in (tmp_path / "out" / "README.md").read_text("utf-8")


def test_a_model_gets_a_head_for_examples_where_it_has_hidden_states(molino, cache, tmp_path):
    rows = [f"{word} {number},{kind}" for number in range(30) for word, kind in (("good", "yes"), ("bad", "no"))]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n", "utf-8")
    more = ["data=labelled", f"data.path={tmp_path / 'rows.csv'}", "task=classification", "data.block_size=16"]
    more += ["trainer.max_steps=40", "trainer.val_every=40", "optimizer.lr=1e-2", "data.batch_size=8", *CPU]
    more += [f"paths.cache={cache}", f"paths.outputs={tmp_path / 'outputs'}"]
    done = molino("train", *OWN, "model=parallel", *more)
    assert done.status == 0, done.err
    (run,) = directory.list_runs(tmp_path / "outputs")
    assert directory.read_summary(run)["val/accuracy"] == 1.0
    asked = molino("predict", f"run={run}", "text=bad 31", *CPU)
    assert asked.status == 0 and "no" in asked.out.split(), asked.out + asked.err
    refused = molino("train", *OWN, "model=gru", *more)
    assert refused.status == 2 and "GRU has no hidden states" in refused.err and refused.err.count("\n") == 1


def test_a_model_that_does_not_say_how_much_it_reads_reads_what_it_is_trained_on(train):
    (run,) = train(*SMALL, "model=gru")
    model = load_run(run, "last", torch.device("cpu")).model
    assert (model.block_size, model.vocab_size) == (16, 256)
    # Nothing of that is in the checkpoint.
    saved = load_checkpoint(run / directory.LAST)["state_dict"]
    assert {name.split(".")[1] for name in saved} == {"wte", "rnn", "lm_head"}


def test_all_parts_at_once_are_the_same_after_a_resume(train, molino, cache, tmp_path, keep_step_10):
    (run,) = train("experiment=sums", *SMALL[1:])
    settings = directory.read_config(run)
    # Defaults that the YAML leaves out are recorded, of own parts too.
    assert settings["callbacks"]["norm"]["tag"] == "weights/norm" and settings["data"]["corpus"]["seed"] == 0
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    norms = {int(row["step"]): float(row["weights/norm"]) for row in rows(run) if row["weights/norm"]}
    also = {line["step"]: line["weights/norm"] for line in logged if "weights/norm" in line}
    assert norms.keys() == {10, 20} and norms == also
    weights = load_checkpoint(run / directory.LAST)["state_dict"]
    last = torch.cat([value.flatten() for value in weights.values()]).norm().item()
    assert norms[20] == pytest.approx(last, rel=1e-6)
    # As a kill after step 10 would have left it, with lines of the steps after that.
    (run / directory.SUMMARY).unlink()
    shutil.copy(tmp_path / "step 10", run / directory.LAST)
    done = molino("train", f"resume={run}", f"paths.cache={cache}", f"paths.outputs={tmp_path}")
    assert done.status == 0 and "after step 10" in done.out, done.err
    resumed = load_checkpoint(run / directory.LAST)["state_dict"]
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())
    again = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in again] == [line["step"] for line in logged]


@pytest.fixture
def keep_step_10(monkeypatch, tmp_path):
    """Keep a copy of the checkpoint of step 10."""
    save = AtomicCheckpointIO.save_checkpoint

    def save_and_keep(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path, storage_options)
        if checkpoint["global_step"] == 10 and Path(path).name == Path(directory.LAST).name:
            shutil.copy(path, tmp_path / "step 10")

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_keep)


def test_a_process_that_is_handed_no_environment_lets_in_the_same(monkeypatch):
    context = Context(print, print)
    monkeypatch.delenv(ALLOW)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    context.enter()
    assert os.environ[ALLOW] == "mylab"


def test_help_lists_own_choices_and_a_misspelt_one_is_met_with_the_nearest(molino):
    shown = molino("train", *OWN, "--help").out
    assert "    gru                  Gated recurrent units" in shown and "    gpt  " in shown and "    bytes " in shown
    # Flags may stand anywhere.
    for arguments in ([*OWN, "model=gur"], ["model=gur", *OWN, "seed=1"], ["model=gur", f"--config-dir={CONF}"]):
        done = molino("train", *arguments)
        assert done.status == 2 and done.err.endswith("did you mean model=gru?\n") and done.err.count("\n") == 1
    for more in ([], ["--help"]):
        done = molino("train", "--config-dir", "nowhere", *more)
        assert done.status == 2 and done.err == "molino: --config-dir nowhere is no folder\n"


def test_a_choice_with_a_name_that_is_taken_is_not_left_out_in_silence(molino, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "gpt.yaml").write_text("_target_: mylab.models.GRU\n")
    done = molino("train", "--config-dir", str(tmp_path), "model=gpt")
    assert done.status == 2 and done.err.startswith(f"molino: {tmp_path}/model/gpt.yaml bears the name of a choice")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model.n_embed=3", "did you mean model.n_embd?"),
        ("model._target_=mylab.models.GRUU", "did you mean mylab.models.GRU?"),
        ("model._target_=mylab.modells.GRU", "did you mean mylab.models?"),
        ("model._target_=mylab.optimizers.Lion", "is no Model: it is not derived from torch.nn"),
        ("scheduler.warmup_steps=x", "scheduler.warmup_steps must be int"),
        ("optimizer.lr=-1", "optimizer: lr=-1 must be above 0"),
    ],
)
def test_mistakes_about_own_parts_are_one_line(molino, cache, tmp_path, setting, says):
    places = (f"paths.cache={cache}", f"paths.outputs={tmp_path}")
    add = "" if "n_embed" not in setting else "+"
    done = molino("train", *OWN, "experiment=sums", *SMALL[1:], *places, f"{add}{setting}")
    assert done.status == 2 and done.err.count("\n") == 1 and says in done.err, done.err
    assert not directory.list_runs(tmp_path)


def test_every_choice_of_the_example_is_used():
    """By experiment=sums, or by the tests of both models."""
    text = (CONF / "experiment" / "sums.yaml").read_text()
    chosen = {f"{group}/{name}" for group, name in re.findall(r"override /(\w+): (\w+)", text)}
    chosen |= {"experiment/sums", "experiment/order", "data/tokenizer/bytes", "model/parallel", "task/order"}
    assert {str(path.relative_to(CONF).with_suffix("")) for path in CONF.rglob("*.yaml")} == chosen


def test_the_page_is_followed_from_an_empty_folder(molino, cache, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "your-own-code.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(ALLOW)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        monkeypatch.delitem(sys.modules, name)
    for folder in re.search(r"mkdir -p (.*)", page)[1].split():
        Path(folder).mkdir(parents=True)
    for name, text in re.findall(r"`([\w./]+)`:\n\n```\w+\n(.*?)```", page, re.DOTALL):
        Path(name).write_text(text)
    assert re.search(r"export (\w+)=(\w+)", page).groups() == (ALLOW, "mylab")
    monkeypatch.setenv(ALLOW, "mylab")
    lines = re.findall(r"^(?:cd \S+/mylab && )?molino (\w+)(.*)$", page, re.MULTILINE)
    assert len(lines) == 7
    sizes = ("data=grammar", "data.corpus.characters=20000", "debug=fast", *CPU)
    for verb, arguments in lines:
        words = [word for word in shlex.split(arguments) if not word.startswith("trainer.")]
        if {"experiment=sums", "experiment=order"} & set(words):
            continue  # above, and below
        more = {"train": (*sizes, f"paths.cache={cache}"), "generate": CPU}.get(verb, ())
        done = molino(verb, *words, *(() if "--help" in words else more))
        assert done.status == 0, done.err
        if verb == "results":
            assert "window" in done.out and "gru" in done.out
    assert len(directory.list_runs(Path("outputs"))) == 5
    for name in [name for name in sys.modules if name.partition(".")[0] == "mylab"]:
        monkeypatch.delitem(sys.modules, name)


FAULTY = """
import torch
from torch import nn
from molino.data.tokenizers import Tokenizer
from molino.models import next_token_loss
from molino.models.cache import CacheShape
from molino.models.capabilities import Capabilities

class Net(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Embedding(vocab_size, vocab_size)
    def forward(self, tokens_BT):
        return self.table(tokens_BT)
    def loss(self, tokens_BT, targets_BT):
        return next_token_loss(self.table(tokens_BT), targets_BT)

class Narrow(Net):
    def forward(self, tokens_BT):
        return self.table(tokens_BT)[..., 1:]

class Pair(Net):
    def forward(self, tokens_BT):
        return self.table(tokens_BT), None

class Vector(Net):
    def loss(self, tokens_BT, targets_BT):
        return self.table(tokens_BT).mean((0, 1))

class Number(Net):
    def loss(self, tokens_BT, targets_BT):
        return 1.0

class Forgets(Net):
    capabilities = Capabilities(cache=CacheShape(0, 0, 0))
    def forward(self, tokens_BT, cache=None):
        return self.table(tokens_BT)

class Shapeless(Net):
    capabilities = Capabilities(cache=(0, 0, 0))

class Dumb(Net):
    capabilities = "all"

class Headless(Net):
    capabilities = Capabilities(hidden=4)

class Beside(Net):
    capabilities = Capabilities(beside=True)

class Unmoved(Net):
    capabilities = Capabilities(hidden=4, beside=True)
    def hidden(self, tokens_BT, cache=None, beside_BTC=None):
        return torch.zeros(*tokens_BT.shape, 4)
    def head(self, hidden_BTC):
        return self.table(hidden_BTC[..., 0].long())

class Undirected(Unmoved):
    def hidden(self, tokens_BT, cache=None):
        return torch.zeros(*tokens_BT.shape, 4)

class Biased(Unmoved):
    capabilities = Capabilities(hidden=6, head="table.weight")
    def hidden(self, tokens_BT):
        return self.table(tokens_BT)
    def head(self, hidden_BTC):
        return hidden_BTC @ self.table.weight.T + 1

class Misnamed(Net):
    capabilities = Capabilities(embedding="wte.weight")

class Bottomless(Net):
    capabilities = Capabilities(depth=2)

    def hidden(self, tokens_BT):
        return self.table(tokens_BT)

class Undistanced(Net):
    capabilities = Capabilities(relative={"table": "both"})

class Deaf(Net):
    capabilities = Capabilities(cache=CacheShape(0, 0, 0))

class Loose(Net):
    capabilities = Capabilities(tied=("table.weight", "head.weight"))

class Sizeless(Net):
    def __init__(self):
        super().__init__(3)

class Silent(Net):
    def __init__(self, vocab_size):
        raise ValueError

class Text:
    name, licence, documents = "text", "none", False
    def __init__(self, kind: str = "whole"):
        self.kind = kind
    def fingerprint(self):
        return self.kind
    def read(self):
        whole = {"train": ["abcabc" * 200], "val": ["cab" * 50]}
        return {
            "whole": whole, "none": None, "list": ["abc"], "no val": {"train": ["abc"]},
            "bytes": {**whole, "val": [b"abc"]},
            "strings": {"train": "abc" * 90, "val": "abc" * 90}, "more": {**whole, "dev": ["abc"]},
        }[self.kind]

def no_tokenizer(texts):
    return list(texts) and None

class Rateless(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

class Nameless(torch.optim.SGD):
    def __init__(self, parameters, lr: float = 0.1):
        super().__init__(parameters, lr)

def negative(step, max_steps):
    return -1.0

def breaks(step, max_steps):
    raise ArithmeticError("no rate")
"""


@pytest.mark.parametrize(
    ("part", "node", "says"),
    [
        ("model", "Narrow", "Narrow.forward(tokens_BT) must be logits of shape (1, 2, 6) (B, T, vocab_size)"),
        ("model", "Pair", "but it is a tuple"),
        ("model", "Vector", "Vector.loss(tokens_BT, targets_BT) must be a scalar tensor, not a tensor of shape (6,)"),
        ("model", "Number", "must be a scalar tensor, not a float"),
        ("model", "Forgets", "Forgets.forward(tokens_BT, cache) must call cache.advance(T) at its end"),
        ("model", "Shapeless", "Shapeless.capabilities.cache must be a CacheShape, but it is a tuple"),
        ("model", "Dumb", "Dumb.capabilities must be Capabilities, but it is a str"),
        ("model", "Headless", "its hidden states are 4 wide: hidden(tokens_BT) must be of shape (1, 2, 4), and head"),
        ("model", "Beside", "Beside.capabilities.beside needs hidden, which tells how wide its embeddings are"),
        ("model", "Unmoved", "makes nothing of what is beside the embeddings"),
        ("model", "Undirected", "Undirected.hidden(tokens_BT, beside_BTC=...) fails, which its capabilities promise"),
        ("model", "Biased", "Biased.capabilities.head: head(hidden_BTC) is not just a product with table.weight"),
        ("model", "Misnamed", "Misnamed.capabilities name wte.weight, which is no tensor of it"),
        ("model", "Bottomless", "Bottomless.hidden(tokens_BT, depth=2) fails, which its capabilities promise"),
        ("model", "Undistanced", "relative name table, which is no module with by_distance(longest)"),
        ("model", "Deaf", "Deaf.forward(tokens_BT, cache) fails, which its capabilities promise: Net."),
        ("model", "Loose", "Loose.capabilities.tied: table.weight and head.weight are not one parameter"),
        ("model", "Sizeless", "model: faulty.Sizeless has no parameter vocab_size, which molino passes"),
        ("model", "Silent", "model: ValueError"),
        ("data.corpus", "Text, kind: none", "must be a dict of train, val and perhaps test, but it is a NoneType"),
        ("data.corpus", "Text, kind: list", "but it is a list"),
        ("data.corpus", "Text, kind: no val", "but it is a dict of train"),
        ("data.corpus", "Text, kind: more", "but it is a dict of train, val, dev"),
        ("data.corpus", "Text, kind: strings", "Text.read() must have a list of texts as train, but it is a str"),
        ("data.corpus", "Text, kind: bytes", "Text.read() must have a list of texts as val, but it is a list"),
        ("data.tokenizer", "no_tokenizer", "data.tokenizer: no_tokenizer must return a Tokenizer, not a NoneType"),
        ("optimizer", "Rateless", "optimizer: Rateless must keep its rate as lr in its groups"),
        ("optimizer", "Nameless", "optimizer: faulty.Nameless has no parameter params, which molino passes"),
        ("scheduler", "negative", "scheduler: negative(0, 20) is -1.0, not a factor of 0 or more"),
        ("scheduler", "breaks", "scheduler: breaks(0, 20) fails: no rate"),
    ],
)  # fmt: skip
def test_what_an_own_part_does_otherwise_is_said_before_anything_is_written(tmp_path, monkeypatch, part, node, says):
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.setenv(ALLOW, "faulty")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    name, _, kind = node.partition(", kind: ")
    settings = {
        "name": "x", "seed": 0, "resume": None, "continue": None, "weights": None, "callbacks": {}, "logger": {},
        "paths": {"outputs": str(tmp_path / "outputs"), "cache": str(tmp_path / "cache"), "mirror": None},
        "hardware": {"_target_": "molino.machine.hardware.Hardware", "accelerator": "cpu", "threads": 1},
        "trainer": {"_target_": "molino.training.plan.Plan", "max_steps": 20, "log_every": 5, "val_every": 10,
                    "checkpoint_every": 10, "sample_tokens": 0},
        "task": {"_target_": "molino.tasks.language_model.LanguageModel"}, "model": {"_target_": "faulty.Net"},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
        "scheduler": {"_target_": "molino.training.schedules.constant"},
        "data": {"_target_": "molino.data.module.TextDataModule", "corpus": {"_target_": "faulty.Text"},
                 "tokenizer": {"_target_": "molino.data.tokenizers.train_char"}, "batches": "windows", "block_size": 8,
                 "batch_size": 2, "cache": str(tmp_path / "cache")},
    }  # fmt: skip
    changed = {"_target_": f"faulty.{name}"} | ({"kind": kind} if kind else {})
    section, _, inner = part.partition(".")
    settings[section] = settings[section] | {inner: changed} if inner else changed
    with pytest.raises(MolinoError) as raised:
        train_verb.run(Request(settings, [], {}))
    assert says in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "outputs").exists()
