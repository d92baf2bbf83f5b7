"""Every mistake of a person's is one line on standard error and an exit status that tells its kind."""

import resource
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, small_text

from molino.runs.directory import BEST, LAST

EARLY = "lightning.pytorch.callbacks.EarlyStopping"
DEFAULTS = ("hardware=cpu", "hardware.threads=1", "model=bigram", "debug=fast")


@pytest.fixture
def places(tmp_path):
    return [f"paths.outputs={tmp_path / 'outputs'}", f"paths.cache={tmp_path / 'cache'}", "paths.mirror=null"]


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(small_text(0, 50), "utf-8")
    return ["data=text", f"data.path={tmp_path / 'text.txt'}"]


def assert_one_line(outcome, verb, status, *parts):
    """The command left with `status` and one line on standard error that holds all `parts`."""
    assert outcome.status == status, outcome.err
    assert outcome.err.startswith("molino: ")
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    for part in parts:
        assert part in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["model=gpt", "model.n_layr=3"], ["model.n_layr is not a setting", "did you mean model.n_layer?"]),
        (["modle=gpt"], ["modle is not a setting", "did you mean model?"]),
        (["model=gtp"], ["Could not find 'model/gtp'", "bigram custom_gpt gpt gpt1", "did you mean model=gpt?"]),
        (["optimizer.lr=abc"], ["optimizer.lr must be float, but it is 'abc'"]),
        (["optimizer.betas=[0.9,abc]"], ["optimizer.betas must be", "[0.9, 'abc']"]),
        (["optimizer.lr=-1"], ["optimizer: Invalid learning rate: -1"]),
        (["+optimizer.momentum=1"], ["optimizer.momentum is not a setting"]),
        (["+foo=1"], ["foo is not a setting", "known here: callbacks, case, continue, data"]),
        (["model=gpt", "model.n_embd=17"], ["model.n_embd=17 is not divisible by model.n_head=4"]),
        (["data.block_size=true"], ["data.block_size must be int, but it is True"]),
        (["data.batches=lines"], ["data.batches=lines is unknown: choose windows or documents"]),
        (["data/tokenizer=pretrained"], ["data.tokenizer.path has no value yet"]),
        (["model._target_=os.system"], ["model._target_=os.system is not allowed"]),
        (
            ["scheduler._target_=molino.base.files.os.system"],
            ["scheduler._target_=molino.base.files.os.system is not there"],
        ),
        (["model._target_=1"], ["model._target_=1 names no class and no function"]),
        (["hydra.run.dir=/proc/x"], ["hydra.run.dir=/proc/x has no effect", "paths.outputs"]),
        (["hydra.mode=MULTIRUN"], ["hydra.mode=MULTIRUN has no effect", "-m"]),
        (["+optimizer.params=[]"], ["optimizer.params is not a setting"]),
        (["seed=-1"], ["seed=-1 must be a whole number"]),
        (["seed=abc"], ["seed=abc must be a whole number"]),
        (["seed=true"], ["seed=True must be a whole number"]),
        (["name="], ["name is empty"]),
        (["data.batch_size=10000000000000000000000"], ["data.batch_size=10000000000000000000000 is out of range"]),
        (["hardware=ddp", "hardware.accelerator=cpu", "data.batch_size=3"], ["cannot be shared by 2 processes"]),
        (["--foo"], ["unrecognized arguments: --foo", "--hydra-help"]),
        (["+callbacks.x=1"], ["callbacks.x=1 says nothing that can be built"]),
        (["+callbacks.x={_target_: torch.optim.Optimizer, params: [], defaults: {}}"], ["callbacks.x"]),
        ([f"+callbacks.x={{_target_: {EARLY}, monitor: val/los}}"], ["callbacks.x.monitor=val/los is not measured"]),
        ([f"+callbacks.x={{_target_: {EARLY}, monitor: val/loss, mode: up}}"], ["callbacks.x: `mode` can be"]),
        (["+callbacks.x={_target_: lightning.pytorch.callbacks.ModelCheckpoint}"], ["checkpoints", "are kept already"]),
        (["trainer.max_steps=-1"], ["trainer.max_steps=-1 must be at least 0"]),
        (["name=a/b"], ["a/b_", "cannot name a run's directory"]),
        (["model=null"], ["model=null: a group takes the name of one of its choices"]),
        (["optimizer=3"], ["optimizer=3: a group takes the name of one of its choices", "such as optimizer=adam"]),
        (["data/tokenizer.size=400"], ["data/tokenizer.size is no group", "did you mean data.tokenizer.size=400?"]),
        (["data/tokenizer.size"], ["did you mean data.tokenizer.size=<value>?"]),
        (["data\\tokenizer=bpe"], ["did you mean data.tokenizer=bpe?"]),
        (["optimizer/lr=1e-3"], ["optimizer/lr is not a setting; did you mean optimizer.lr?"]),
        (["+model/x=1"], ["model/x is not a setting; did you mean model.x?"]),
        (["model/gpt"], ["did you mean model=gpt?"]),
        (["hydra.launcher=local"], ["hydra.launcher=local has no effect: did you mean hydra/launcher=local?"]),
        (["hydra/launcher=slurm"], ["hydra/launcher=slurm has no effect on a single run: add -m"]),
        (["hydra.sweeper.attempts=2"], ["hydra.sweeper.attempts=2 has no effect on a single run: add -m"]),
        (["data.tokenizer=null"], ["choose data/tokenizer=<name>"]),
        (["seed==3"], ["did you mean seed=3?"]),
        (["seed:3"], ["did you mean seed=3?"]),
        (["model.=3"], ["model. is no name of a setting"]),
        (["optimizer.lr=1e-3,1e-2"], ["add -m for a run of each of them", "optimizer.lr=[1e-3,1e-2]"]),
        (["optimizer.eps=inf"], ["optimizer.eps=inf must be finite"]),
        (["optimizer.weight_decay=inf"], ["optimizer.weight_decay=inf must be finite"]),
        (["optimizer=sgd", "optimizer.momentum=nan"], ["optimizer.momentum=nan must be finite"]),
        (["optimizer.betas=[0.9,nan]"], ["optimizer.betas=[0.9, nan] must be finite"]),
        (["optimizer=muon", "optimizer.muon_lr=inf"], ["optimizer.muon_lr=inf must be finite"]),
        (["trainer.epochs=1e12"], ["steps does not end: lower trainer.max_steps, trainer.epochs"]),
        (["model=gpt,bigram"], ["Ambiguous value for argument 'model=gpt,bigram'"]),
        (["data.block_size=[1"], ["no viable alternative at input '[1'"]),
        (["+data.note=ñ"], ["+data.note=ñ is nothing that hydra reads: if it is text, quote it, +data.note='\"ñ\"'"]),
        (["model"], ["model is no setting: write <setting>=<value>"]),
        (["model.block_size=${data.blok_size}"], ["interpolation key 'data.blok_size' not found"]),
    ],
    ids=lambda given: given[0] if "=" in given[0] else "",
)
def test_bad_settings_of_a_training(molino, text, places, tmp_path, settings, parts):
    outcome = molino("train", *DEFAULTS, *text, *places, *settings)
    outcome_in_lower = type(outcome)(outcome.status, outcome.out, outcome.err.lower())
    assert_one_line(outcome_in_lower, "train", 2, *(part.lower() for part in parts))
    assert not list((tmp_path / "outputs").rglob("*"))


def test_a_typo_in_an_experiment_file(molino, text, places, tmp_path):
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    header = "# @package _global_\n"
    (folder / "good.yaml").write_text(f"{header}seed: -5\n")
    (folder / "bad.yaml").write_text(f"{header}optimizer:\n  weight_decy: 0.1\n")
    (folder / "worse.yaml").write_text(f"{header}optimiser:\n  lr: 0.1\n")
    (folder / "broken.yaml").write_text(f"{header}optimizer: [\n")

    def run(name):
        return molino("train", "--config-dir", str(tmp_path / "conf"), *DEFAULTS, *text, *places, f"experiment={name}")

    assert_one_line(run("good"), "train", 2, "seed=-5 must be")  # the file is read
    assert_one_line(run("bad"), "train", 2, "optimizer.weight_decy is not", "did you mean optimizer.weight_decay?")
    assert_one_line(run("worse"), "train", 2, "optimiser is not a setting; did you mean optimizer?")
    assert_one_line(run("broken"), "train", 2, "broken.yaml")
    (folder / "marked.yaml").write_text(f"{header}seed: 5\n", "utf-8-sig")
    assert_one_line(run("good"), "train", 2, "marked.yaml begins with a byte order mark", "save it without")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"hola, que tal", "one window needs data.block_size + 1"),
        (b"se\xf1or " * 100, "is not utf-8: byte 0xf1 at offset 2"),
        (b"\x1f\x8b" + bytes(100), "is a gzip file"),
        (None, "does not exist"),
    ],
)
def test_texts_that_cannot_be_trained_on(molino, places, tmp_path, content, part):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert_one_line(molino("train", *DEFAULTS, *places, "data=text", f"data.path={path}"), "train", 3, part)
    assert not list((tmp_path / "outputs").rglob("*"))


def test_a_text_that_is_not_named(molino, places):
    assert_one_line(molino("train", *DEFAULTS, *places, "data=text"), "train", 2, "data=text needs data.path=")


@pytest.mark.parametrize(
    ("setting", "status", "says"),
    [
        ("data.tokenizer=bpe", 2, "choose data/tokenizer=bpe"),
        ("data.corpus=quijote", 2, "data.corpus=quijote is no corpus"),
        ("hardware.strategy=foo", 2, "hardware.strategy=foo is unknown"),
    ],
)
def test_values_where_nodes_belong(molino, tmp_path, setting, status, says):
    done = molino("train", setting, f"paths.outputs={tmp_path}", f"paths.cache={tmp_path}")
    assert done.status == status and says in done.err and done.err.count("\n") == 1


def test_a_vocabulary_without_words(molino, tiny, tmp_path):
    rare = ("data/tokenizer=word", "data.tokenizer.min_freq=100000")
    done = molino("train", "data=text", f"data.path={tiny.file}", *rare, f"paths.outputs={tmp_path}", "debug=fast")
    assert done.status == 3 and "lower data.tokenizer.min_freq" in done.err


def test_more_samples_than_memory(molino, tiny):
    places = [s for s in tiny.settings if not s.startswith("paths.cache")]
    done = molino("generate", "run=latest", "prompt=a", "samples=1000000000", *places)
    assert done.status == 5 and "out of memory" in done.err


def test_a_mirror_with_other_content(molino, places, tmp_path):
    file = tmp_path / "mirror" / "raw" / "el_quijote" / "el_quijote.txt"
    file.parent.mkdir(parents=True)
    file.write_text("En un lugar de la Mancha")
    outcome = molino("train", *DEFAULTS, *places[:2], f"paths.mirror={tmp_path / 'mirror'}", "data=quijote")
    assert_one_line(outcome, "train", 3, f"{file} is damaged: its sha256 is")


@pytest.mark.parametrize("setting", ["paths.cache", "paths.outputs"])
@pytest.mark.parametrize("below", ["", "/folder"])
def test_places_that_cannot_be_written(molino, text, places, tmp_path, setting, below):
    (tmp_path / "file").touch()
    outcome = molino("train", *DEFAULTS, *text, *places, f"{setting}={tmp_path / 'file'}{below}")
    assert_one_line(outcome, "train", 5, str(tmp_path / "file"), setting)


@pytest.mark.parametrize("setting", ["paths.cache", "paths.outputs"])
def test_places_that_cannot_be(molino, text, places, setting):
    assert_one_line(molino("train", *DEFAULTS, *text, *places, f"{setting}=/proc/x"), "train", 5, "/proc/x", setting)


@pytest.mark.parametrize("width", [4_000_000, 1_000_000_000])
def test_a_model_larger_than_memory(molino, text, places, width):
    settings = [s for s in DEFAULTS if s != "model=bigram"]
    outcome = molino("train", *settings, *text, *places, f"model.n_embd={width}", "data.block_size=8")
    assert outcome.status == 5 and "out of memory" in outcome.err and outcome.err.count("\n") == 1


def test_a_gpu_where_there_is_none(molino, text, places, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    outcome = molino("train", *DEFAULTS, *text, *places, "hardware=gpu")
    assert_one_line(outcome, "train", 5, "asks for a GPU, but torch finds none", "choose hardware=cpu")


def test_a_full_disk(tmp_path, tiny):
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *DEFAULTS, f"paths.cache={tiny.cache}"]
    settings = ["data=text", f"data.path={tiny.file}", f"paths.outputs={tmp_path}", "logger.tensorboard=null"]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))

    done = subprocess.run([*command, *settings], capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 5
    assert done.stderr.startswith("molino: no space left to write ")
    assert done.stderr.count("\n") == 1
    (run,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert not (run / "summary.json").exists()
    assert not [path for path in run.rglob("*") if path.suffix in (".ckpt", ".tmp")]


@pytest.mark.parametrize("verb", ["generate", "evaluate"])
def test_runs_that_are_not_there(molino, tiny, tmp_path, verb):
    prompt = ["prompt=a"] if verb == "generate" else []
    outcome = molino(verb, *prompt, "run=nothing", f"paths.outputs={tiny.outputs}")
    assert_one_line(outcome, verb, 4, "there is no run nothing", f"the latest is {tiny.path.name}")
    assert_one_line(molino(verb, *prompt, "run=latest", f"paths.outputs={tmp_path}"), verb, 4, "there is no run below")
    assert_one_line(molino(verb, *prompt, f"paths.outputs={tmp_path}"), verb, 2, "no run was named")


@pytest.mark.parametrize("verb", ["generate", "evaluate"])
def test_a_damaged_checkpoint(molino, tiny, tmp_path, verb):
    run = shutil.copytree(tiny.path, tmp_path / "run")
    (run / LAST).write_bytes((run / LAST).read_bytes()[:-100])
    prompt = ["prompt=a"] if verb == "generate" else []
    outcome = molino(verb, *prompt, f"run={run}", "checkpoint=last", "hardware=cpu")
    assert_one_line(
        outcome,
        verb,
        4,
        "last.ckpt is damaged",
        "copy best.ckpt over it, or where a checkpoint can be named use checkpoint=best",
    )
    (run / BEST).unlink()
    outcome = molino(verb, *prompt, f"run={run}", "checkpoint=last", "hardware=cpu")
    assert_one_line(outcome, verb, 4, "last.ckpt is damaged", "use another one")


def test_the_latest_run_to_sample_from_is_one_with_weights(molino, tiny, tmp_path):
    shutil.copytree(tiny.path, tmp_path / "trained")
    (tmp_path / "failed").mkdir()
    shutil.copyfile(tiny.path / "config.yaml", tmp_path / "failed" / "config.yaml")
    done = molino("evaluate", "run=latest", *tiny.settings, f"paths.outputs={tmp_path}", "floors=false")
    assert done.status == 0 and "trained, best checkpoint" in done.out, done.err


def test_a_finished_run_is_not_resumed(molino, tiny):
    before = sorted((path, path.stat().st_mtime_ns) for path in tiny.path.rglob("*"))
    outcome = molino("train", f"resume={tiny.path.name}", f"paths.outputs={tiny.outputs}")
    assert_one_line(outcome, "train", 4, f"{tiny.path.name} is finished, there is nothing to resume")
    assert sorted((path, path.stat().st_mtime_ns) for path in tiny.path.rglob("*")) == before
    outcome = molino("train", "resume=nothing", f"paths.outputs={tiny.outputs}")
    assert_one_line(outcome, "train", 4, "there is no run nothing")


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (["temperature=-1"], "temperature=-1"),
        (["temperature=hot"], "temperature must be float, but it is 'hot'"),
        (["top_p=0"], "top_p=0"),
        (["top_p=1.5"], "top_p=1.5"),
        (["top_k=0"], "top_k=0"),
        (["top_k=1.5"], "top_k must be int | null, but it is 1.5"),
        (["samples=0"], "samples=0"),
        (["max_new_tokens=0"], "max_new_tokens=0"),
        (["checkpoint=first"], "checkpoint=first is unknown"),
        (["temprature=1"], "did you mean temperature?"),
        (["+foo=1"], "foo is not a setting"),
        (["seed=-1"], "seed=-1"),
        (["seed=99999999999999999999"], "seed=99999999999999999999"),
    ],
)
def test_bad_settings_of_a_sample(molino, tiny, settings, part):
    run = [f"run={tiny.path}", f"paths.outputs={tiny.outputs}", "hardware=cpu", "hardware.threads=1", "prompt=a"]
    assert_one_line(molino("generate", *run, *settings), "generate", 2, part)


def test_nobody_to_ask_for_a_prompt(molino, tiny):
    outcome = molino("generate", f"run={tiny.path}", f"paths.outputs={tiny.outputs}", "hardware=cpu")
    assert_one_line(outcome, "generate", 2, "there is no prompt: add prompt=")


@pytest.mark.parametrize(
    ("settings", "status", "part"),
    [
        (["split=all"], 2, "split=all is unknown: choose train, val or test"),
        (["split=test"], 3, "mancha.txt has no test split: choose split=train, split=val"),
        (["stride=0"], 2, "stride=0 must be between 1 and the context of 16"),
        (["stride=17"], 2, "stride=17 must be between 1 and the context of 16"),
        (["data=text"], 2, "data=text needs data.path="),
        (["data=pydocs", "data/tokenizer=bpe"], 2, "data/tokenizer=bpe has no use here"),
        (["data=nothing"], 2, "Could not find 'data/nothing'"),
        (["+data.corpus=3"], 2, "data.corpus=3"),
    ],
)
def test_bad_settings_of_an_evaluation(molino, tiny, settings, status, part):
    outcome = molino("evaluate", f"run={tiny.path}", *tiny.settings, *settings)
    assert_one_line(outcome, "evaluate", status, part)


def test_out_of_memory_is_explained(molino, monkeypatch):
    def exhaust(request):
        raise MemoryError

    monkeypatch.setattr("molino.verbs.train.open_run", exhaust)
    assert_one_line(molino("train"), "train", 5, "out of memory: lower data.batch_size")
