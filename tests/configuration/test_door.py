"""The door: what is let in, by whom, as what."""

import importlib
import inspect
import pkgutil
import sys
import typing

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer

import molino
from molino.base.errors import ConfigError
from molino.configuration import door
from molino.configuration.build import PLAIN, build
from molino.configuration.door import ALLOW, find_part, let_in
from molino.configuration.settings import DescribesModel
from molino.data.corpus import Corpus
from molino.data.module import TextDataModule
from molino.data.tokenizers import MakesTokenizer
from molino.machine.hardware import Hardware
from molino.models.bigram import Bigram
from molino.models.model import MODEL
from molino.tasks.task import Task
from molino.training.plan import Plan
from molino.training.schedules import Schedule

PARTS = {
    MODEL: {
        "bigram.Bigram", "gpt.GPT", "kneser_ney.KneserNey", "llama.Llama", "lstm.LSTM", "on_counts.OnCounts",
        "with_head.WithHead", "bert.BERT", "transformer.Transformer", "t5.T5", "with_span.WithSpan",
    },
    Corpus: {
        "local.UserText", "grammar.Grammar", "imdb.Imdb", "pydocs.PyDocs", "remote.RemoteText", "remote.RemoteSplits",
        "remote.Text8", "corpus.Corpus", "examples.Labelled", "labelled.OwnExamples", "labelled.PublishedExamples",
        "pairs.OwnPairs", "pairs.PublishedPairs", "answers.OwnAnswers", "answers.PublishedAnswers",
    },
    TextDataModule: {"module.TextDataModule"},
    MakesTokenizer: {
        "tokenizers.train_char", "tokenizers.train_word", "tokenizers.train_whitespace", "tokenizers.train_bpe",
        "pretrained.load_pretrained",
    },
    DescribesModel: {"read.architecture"},
    Optimizer: {"muon.Muon"},
    Schedule: {"schedules.constant", "schedules.step", "schedules.cosine", "schedules.wsd"},
    Plan: {"plan.Plan"},
    Hardware: {"hardware.Hardware"},
    Callback: {
        "checkpoints.Checkpoints", "floors.Floors", "profiler.Trace", "progress.ProgressDisplay",
        "progress.StatusReport", "pruning.Pruning", "samples.Samples", "outcomes.ExampleOutcomes",
        "zero_shot.ZeroShot",
    },
    Task: {
        "denoising.Denoising", "labelled.LabelledTask", "language_model.LanguageModel",
        "masked_language_model.MaskedLanguageModel",
        "sequence_to_sequence.SequenceToSequence", "span.Span", "task.Task",
    },
    Logger: {
        "tensorboard.TensorBoard", "metrics_file.MetricsFile", "mlflow.MLflow", "wandb.WeightsAndBiases",
    },
}  # fmt: skip


def own_things():
    """Every class and function of the package, at the place where it is defined."""
    for module in pkgutil.walk_packages(molino.__path__, "molino."):
        if module.name.endswith("__main__"):
            continue
        for name, thing in vars(importlib.import_module(module.name)).items():
            if getattr(thing, "__module__", None) == module.name and (
                inspect.isclass(thing) or inspect.isroutine(thing)
            ):
                yield f"{module.name}.{name}", thing


def admits(path, kind):
    try:
        return find_part(path, "x", kind) is not None
    except ConfigError:
        return False


@pytest.mark.parametrize("kind", PARTS, ids=lambda kind: getattr(kind, "__name__", "Model"))
def test_of_all_that_molino_has_these_are_parts(kind):
    found = {".".join(path.split(".")[-2:]) for path, _ in own_things() if admits(path, kind)}
    assert found == PARTS[kind]


def test_only_these_take_parts_in_turn():
    taking = set()
    everything = list(own_things())
    for path, thing in everything:
        if inspect.isclass(thing) and any(admits(path, kind) for kind in PARTS):
            for name, hint in typing.get_type_hints(thing.__init__).items():
                options = [each for each in typing.get_args(hint) or (hint,) if inspect.isclass(each)]
                kinds = [each for each in options if each not in PLAIN]
                if any(admits(other, kind) for other, _ in everything for kind in kinds):
                    taking.add(f"{thing.__name__}.{name}")
    # The task of a data module is no setting, the run tells it; a network on counts or with a head is made by its
    # task. The run and the text of callbacks are nothing that settings can be.
    assert taking == {
        "TextDataModule.corpus", "TextDataModule.tokenizer", "TextDataModule.task", "OnCounts.model",
        "WithHead.model", "WithSpan.model", "SequenceToSequence.writing",
        "ExampleOutcomes.text", "ZeroShot.text", "ZeroShot.corpora", "Samples.text", "Floors.run", "Floors.task",
        "Floors.text", "Floors.metrics", "Checkpoints.whole",
    }  # fmt: skip


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A package of one's own in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("from subprocess import Popen\nfrom torch.nn import Linear\n")
    (tmp_path / "lab" / "nets.py").write_text(
        "from torch import nn\nfrom molino.models.bigram import Bigram\n"
        "class Net(Bigram): pass\n"
        "class Stub(nn.Module):\n    def loss(self, tokens_BT, targets_BT): pass\n"
        "class Half(nn.Module):\n    def forward(self, tokens_BT): pass\n"
        "class Outside:\n    def forward(self): pass\n    def loss(self): pass\n"
    )
    (tmp_path / "lab" / "broken.py").write_text("import nowhere\n")
    (tmp_path / "lab" / "zero.py").write_text("\n1 / 0\n")
    (tmp_path / "lab" / "leaves.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "lab" / "worse.py").write_text("def f(:\n")
    (tmp_path / "lab" / "rates.py").write_text(
        "def ramp(step, max_steps, top=1.0): return top\n"
        "def other(max_steps, step): return 1.0\n"
        "def word(step: int, max_steps: int) -> str: return ''\n"
    )
    (tmp_path / "torchlab.py").write_text("raise SystemExit('imported')")
    yield "lab"
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]


def refused(path, kind=MODEL):
    with pytest.raises(ConfigError) as raised:
        find_part(path, "model._target_", kind)
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(f"model._target_={path} ")


def test_a_package_is_let_in_by_the_person_at_the_keyboard(lab, monkeypatch):
    monkeypatch.delenv(ALLOW, raising=False)
    message = refused("lab.nets.Net")
    assert message.startswith("is not allowed: lab is not let in; if the code is yours")
    assert "set MOLINO_ALLOW=lab in the environment" in message
    assert "lab" not in sys.modules
    for value in ("lab", "other,lab", " lab , other", "lab other", "lab.nets"):
        monkeypatch.setenv(ALLOW, value)
        net = find_part("lab.nets.Net", "model._target_", MODEL)
        assert issubclass(net, Bigram)
    monkeypatch.setenv(ALLOW, "lap")
    assert "lab is not let in: did you mean lap?" in refused("lab.nets.Net")
    monkeypatch.setenv(ALLOW, "lab.other")
    assert "lab is not let in" in refused("lab.nets.Net")
    monkeypatch.setenv(ALLOW, "lab/nets")
    with pytest.raises(ConfigError, match=r"^MOLINO_ALLOW names lab/nets, which is no package"):
        let_in()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("lab.nets.Nett", "is not there; did you mean lab.nets.Net? Known here: Bigram, Net"),
        ("lab.net.Net", "is not there; did you mean lab.nets? Known here: broken, leaves, nets, rates, worse, zero"),
        ("lab.nets.Half", "is no Model: it has no loss(tokens_BT, targets_BT)"),
        ("lab.nets.Outside", "is no Model: it is not derived from torch.nn"),
        ("lab.Popen", "is not allowed: it is subprocess's, which is not let in"),
        ("lab.Linear", "is not allowed: it is torch.nn.modules.linear's, which is not let in"),
        ("lab.broken.Net", "cannot be imported: No module named 'nowhere'"),
        ("lab.worse.Net", "cannot be imported: SyntaxError: "),
        ("lab.zero.Net", "cannot be imported: ZeroDivisionError: division by zero ("),
        ("lab.leaves.Net", "cannot be imported: SystemExit: 0 ("),
        ("lab.nets.Stub", "is no Model: it has no forward(tokens_BT)"),
        ("os.system", "is not allowed: os is not let in"),
        ("absent.Net", "is not there: Python finds no package absent, neither installed nor in "),
    ],
)
def test_what_is_wrong_with_an_own_part_is_said(lab, monkeypatch, path, reason):
    monkeypatch.setenv(ALLOW, "lab,absent")
    message = refused(path)
    assert message.startswith(reason)
    if "zero" in path:
        assert message.endswith("lab/zero.py, line 2)")
    # What is never a part is not recommended.
    assert "set MOLINO_ALLOW=os" not in message


def test_a_function_is_known_by_its_first_parameters(lab, monkeypatch):
    monkeypatch.setenv(ALLOW, "lab")
    assert build({"_target_": "lab.rates.ramp", "top": 0.5}, "scheduler", Schedule)(0, 10) == 0.5
    assert refused("lab.rates.other", Schedule) == "is no Schedule: its first parameters are not step, max_steps"
    assert refused("lab.rates.word", Schedule) == "is no Schedule: it returns str"
    assert refused("lab.nets.Net", Schedule) == "is no Schedule: it is a type, not a function"


def test_nothing_else_in_the_working_directory_is_found(lab, monkeypatch):
    monkeypatch.setenv(ALLOW, "lab")
    let_in()
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("torchlab")


def test_installed_packages_say_so_themselves(lab, monkeypatch):
    class Entry:
        value = "lab:anything"

    monkeypatch.delenv(ALLOW, raising=False)
    monkeypatch.setattr(door, "entry_points", lambda group: [Entry()] if group == "molino.plugins" else [])
    monkeypatch.syspath_prepend(".")
    door._plugins.cache_clear()
    try:
        assert issubclass(find_part("lab.nets.Net", "x", MODEL), torch.nn.Module)
    finally:
        door._plugins.cache_clear()
