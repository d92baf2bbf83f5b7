"""Configurations of somebody else's that call what they should not: refused in one line, before anything happens."""

import copy
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from molino.base.errors import MolinoError
from molino.configuration.request import Request
from molino.configuration.settings import resolve
from molino.runs import directory
from molino.verbs import data, evaluate, explain, export, generate, train

WRITES = {"_target_": "molino.base.files.write_text", "path": "owned.txt", "text": "owned"}
# A package beside the working directory; to import it is enough.
TRAP = {"_target_": "trap.spring"}
LIGHTNING = "lightning.pytorch"
REMOTE = {
    "_target_": "molino.data.corpora.remote.RemoteText", "name": "x", "licence": "x", "sha256": "0" * 64,
    "url": "https://localhost/x", "mirror_path": "x/x.txt", "cache": "x",
}  # fmt: skip
FIELDS = {"name": "x", "licence": "x"}

# (where, what stands there, what the refusal speaks of)
HOSTILE = [
    ("model.dropout", WRITES, "model.dropout is a plain value"),
    ("model.dropout", TRAP, "model.dropout is a plain value"),
    ("model.norm", {"_target_": f"{LIGHTNING}.loggers.CSVLogger", "save_dir": "owned"}, "model.norm is a plain value"),
    ("model.norm", [TRAP], "model.norm is a plain value"),
    ("model.norm", {"deeper": [{"still": TRAP}]}, "model.norm.deeper"),
    ("model.n_head", {"_target_": "builtins.eval", "source": "1"}, "model.n_head is a plain value"),
    ("model.block_size", {"_partial_": True, **TRAP}, "model.block_size is a plain value"),
    ("model._target_", "os.system", "os is not let in"),
    ("model._target_", "trap.Net", "trap is not let in"),
    ("model._target_", "molino.base.files.write_text", "no Model"),
    ("model._target_", "molino.base.files.shutil.rmtree", "is not there"),
    ("model._target_", "molino.verbs.train.train", "no Model"),
    ("model._target_", "molino.training.module.TrainingModule", "it has no loss(tokens_BT, targets_BT)"),
    ("model._target_", "molino.hub.read.load_model", "no Model"),
    ("model._target_", "molino.trained.load.torch.load", "is not there"),
    ("model._target_", "torch.optim.AdamW", "no Model"),
    ("model._target_", 1, "names no class"),
    ("model._target_", ["trap", "Net"], "names no class"),
    ("model._target_", {**TRAP}, "names no class"),
    ("model._target_", "molino.models.gpt.GPT; import trap", "names no class"),
    ("model._args_", [5, 5], "model._args_"),
    ("model._partial_", True, "model._partial_"),
    ("model._convert_", "all", "model._convert_"),
    ("model._recursive_", False, "model._recursive_"),
    ("model._target_", "molino.hub.read.architecture", "no Model"),
    ("data.corpus", WRITES, "no Corpus"),
    ("data.corpus", TRAP, "trap is not let in"),
    ("data.corpus", {"_target_": "subprocess.run", "args": ["touch", "owned"]}, "subprocess is not let in"),
    ("data.corpus", {"_target_": "molino.models.bigram.Bigram", "vocab_size": 3, "block_size": 3}, "no Corpus"),
    ("data.corpus.path", WRITES, "data.corpus.path is a plain value"),
    ("data.corpus.encoding", {"_target_": "molino.data.download.fetch"}, "data.corpus.encoding is a plain value"),
    ("data.corpus", REMOTE | {"sha256": "../../../owned/0"}, "is no checksum"),
    ("data.corpus", REMOTE | {"mirror_path": "../../owned"}, "below <mirror>/raw"),
    ("data.corpus", REMOTE | {"mirror_path": "/etc/passwd"}, "below <mirror>/raw"),
    ("data.corpus", REMOTE | {"url": "file:///etc/passwd"}, "https://"),
    ("data.corpus", REMOTE | {"name": TRAP}, "data.corpus.name is a plain value"),
    ("data.tokenizer", TRAP, "trap is not let in"),
    ("data.tokenizer", {"_partial_": True, **WRITES}, "no MakesTokenizer"),
    ("data.tokenizer", {"_target_": "molino.data.pretrained.load_tokenizer"}, "no MakesTokenizer"),
    ("data.tokenizer._partial_", False, "data.tokenizer._partial_"),
    ("data.tokenizer.texts", ["a"], "data.tokenizer.texts is not a setting"),
    ("data._target_", "molino.training.run.Run", "no TextDataModule"),
    ("data.batch_size", TRAP, "data.batch_size is a plain value"),
    ("data.accumulate", 3, "data.accumulate is not a setting"),
    ("optimizer._target_", "torch.load", "torch is not let in"),
    ("optimizer._target_", "molino.training.schedules.cosine", "no Optimizer"),
    ("optimizer.lr", TRAP, "optimizer.lr._target_=trap.spring is not allowed"),
    ("optimizer.params", [{"params": []}], "optimizer.params is not a setting"),
    ("scheduler", {"_target_": "molino.base.files.make_directory", "path": "owned"}, "no Schedule"),
    ("scheduler._target_", "builtins.exec", "builtins is not let in"),
    ("scheduler.warmup_steps", WRITES, "scheduler.warmup_steps is a plain value"),
    ("trainer", {"_target_": f"{LIGHTNING}.Trainer", "default_root_dir": "owned"}, "no Plan"),
    ("hardware._target_", "molino.training.profiler.Trace", "no Hardware"),
    ("hardware.threads", TRAP, "hardware.threads is a plain value"),
    ("logger.x", TRAP, "trap is not let in"),
    ("logger.x", {"_target_": f"{LIGHTNING}.callbacks.Timer"}, "no Logger"),
    ("logger.x", {"_target_": f"{LIGHTNING}.loggers.CSVLogger", "save_dir": WRITES}, "not into the run's directory"),
    ("logger.x", {"_target_": f"{LIGHTNING}.loggers.CSVLogger", "save_dir": ".", "version": ""}, "is not taken"),
    ("logger.x", {"_target_": f"{LIGHTNING}.loggers.TensorBoardLogger", "save_dir": "owned"}, "not taken"),
    ("logger.x", {"_target_": f"{LIGHTNING}.loggers.MLFlowLogger", "tracking_uri": "file:owned"}, "not taken"),
    ("callbacks.x", {"_target_": f"{LIGHTNING}.callbacks.SpikeDetection", "exclude_batches_path": "owned"},
     "x.exclude_batches_path=owned is not taken"),
    ("callbacks.x", {"_target_": f"{LIGHTNING}.callbacks.ModelCheckpoint", "dirpath": "owned"}, "x.dirpath=owned"),
    ("data", "x", "data"),
    ("model.vocab_size", "x", "model.vocab_size must be int"),
    ("callbacks.x", WRITES, "no Callback"),
    ("callbacks.x", {"_target_": f"{LIGHTNING}.loggers.CSVLogger", "save_dir": "owned"}, "no Callback"),
    ("callbacks.x", {"_target_": f"{LIGHTNING}.callbacks.LambdaCallback", "setup": TRAP}, "callbacks.x.setup"),
    ("callbacks.x", {"_target_": f"{LIGHTNING}.callbacks.Timer", "duration": WRITES}, "callbacks.x.duration"),
    ("callbacks.x", {"_target_": "molino.training.progress.StatusReport", "run": "owned"}, "x.run must be Path"),
    ("callbacks.x", {"_target_": "molino.training.checkpoints.Checkpoints", "run": "owned", "every": 1, "facts": {},
     "validation_due": "x", "started": 0.0}, "x.run must be Path"),
    ("callbacks.x", {"_target_": "molino.training.samples._write"}, "is private"),
    ("name", TRAP, "name="),
    ("evil", TRAP, "evil is not a setting"),
]  # fmt: skip
NAMES = [f"{number}-{place}" for number, (place, *_) in enumerate(HOSTILE)]
OF_RUNS = ("status.json", "traceback.txt", ".lock")
# What each verb makes of a run's configuration.
VERBS = {
    "generate": (generate, ("model",)),
    "explain": (explain, ("model",)),
    "export": (export, ("model",)),
    "evaluate": (evaluate, ("model", "data.corpus")),
    "train": (train, ("",)),
}
# A corpus that is only looked at is built as for training.
LOOKING = [each for each in HOSTILE if each[0].split(".")[0] == "data"]


def with_value(settings, place, value):
    changed = node = copy.deepcopy(settings)
    *sections, name = place.split(".")
    for section in sections:
        node = node.setdefault(section, {})
    node[name] = value
    return changed


@pytest.fixture(scope="module")
def asked():
    """What `molino <verb>` asks for."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    found = {}
    for verb in (*VERBS, "data"):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            typed = [] if verb in ("data", "export") else ["hardware=cpu"]
            typed += ["name=x"] if verb == "train" else []
            found[verb] = resolve(compose(verb, typed))
    return found


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory, whose package `trap` tells when it is imported."""
    (tmp_path / "trap.py").write_text("open('sprung', 'w')\nclass Net: pass\ndef spring(): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    assert "trap" not in sys.modules


def state(folder: Path):
    """What lies there, but for what a run says of itself when it is to go on."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in OF_RUNS]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in files if "__pycache__" not in path.parts}


def refusal(verb, request, here):
    """Have a verb refuse a request, without a trace of it."""
    before = state(here)
    with pytest.raises(MolinoError) as raised:
        (data if verb == "data" else VERBS[verb][0]).run(request)
    assert state(here) == before
    assert "\n" not in str(raised.value) and raised.value.exit_code > 1
    return str(raised.value)


@pytest.mark.parametrize(("place", "value", "says"), HOSTILE, ids=NAMES)
def test_runs_of_somebody_elses(place, value, says, tiny, asked, here):
    run = here / "theirs"
    shutil.copytree(tiny.path, run)
    settings = with_value(directory.read_config(run), place, value)
    (run / directory.CONFIG).write_text(yaml.safe_dump(settings))
    for verb, (_, places) in VERBS.items():
        if not place.startswith(places):
            continue
        named = {"resume" if verb == "train" else "run": str(run)}
        more = {"generate": {"prompt": "a"}, "explain": {"prompt": "a"}, "export": {"to": "out"}}.get(verb, {})
        if verb == "train":
            (run / directory.SUMMARY).unlink()
        paths = {"outputs": "outputs", "cache": str(tiny.cache), "mirror": None}
        message = refusal(verb, Request(asked[verb] | named | more | {"paths": paths}, [], {}), here)
        assert says in message, verb


@pytest.mark.parametrize(("place", "value", "says"), HOSTILE, ids=NAMES)
def test_a_training_that_is_asked_for(place, value, says, tiny, asked, here):
    settings = asked["train"] | {"paths": {"outputs": "outputs", "cache": str(tiny.cache), "mirror": None}}
    settings = copy.deepcopy(settings) | {"data": directory.read_config(tiny.path)["data"]}
    message = refusal("train", Request(with_value(settings, place, value), [], {}), here)
    assert says in message


@pytest.mark.parametrize(("place", "value", "says"), LOOKING)
def test_a_corpus_that_is_looked_at(place, value, says, tiny, asked, here):
    settings = asked["data"] | {"paths": {"outputs": "outputs", "cache": str(tiny.cache), "mirror": None}}
    settings = copy.deepcopy(settings) | {"data": directory.read_config(tiny.path)["data"]}
    assert says in refusal("data", Request(with_value(settings, place, value), [], {}), here)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "train"])
def test_from_the_command_line(verb, molino, tiny, here):
    run = here / "theirs"
    shutil.copytree(tiny.path, run)
    settings = with_value(directory.read_config(run), "model.dropout", WRITES)
    (run / directory.CONFIG).write_text(yaml.safe_dump(settings))
    before = state(here)
    done = molino(verb, f"run={run}", *({"export": ["to=out"], "evaluate": []}.get(verb, ["prompt=a"])))
    assert done.status == 2 and done.err.count("\n") == 1 and state(here) == before
    assert done.err.startswith("molino: model.dropout._target_=molino.base.files.write_text is not allowed")


def test_results_read_them_and_call_nothing(molino, tiny, here):
    for number, (place, value, _) in enumerate(HOSTILE):
        run = here / "runs" / str(number)
        shutil.copytree(tiny.path, run)
        settings = with_value(directory.read_config(run), place, value)
        (run / directory.CONFIG).write_text(yaml.safe_dump(settings))
    before = state(here)
    done = molino("results", str(here / "runs"))
    assert done.status == 0 and state(here) == before, done.err
    # Each is in the table, or said to repeat another: what it names is text like any other.
    shown = int(re.search(r"^(\d+) runs: \1 done", done.out)[1])
    repeats = re.search(r"repeat a seed of their row: (.*)", done.out)[1].split(", ")
    assert shown + len(repeats) == len(HOSTILE)


def test_a_sweep_that_is_asked_for(molino, tiny, here):
    typed = ["data=text", f"data.path={tiny.file}", f"paths.cache={tiny.cache}", "debug=fast", "model=bigram"]
    done = molino("train", "-m", *typed, "hardware=cpu", "+callbacks.x._target_=trap.spring", "seed=0,1")
    assert done.status == 2 and "trap is not let in" in done.err and not (here / "sprung").exists()
    assert not list(here.rglob(directory.CONFIG))
