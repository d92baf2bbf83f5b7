"""Every file under conf/ is used: composed, checked and, where the machine can, trained with for some steps."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT, Outcome

from molino.configuration.composer import compose
from molino.models.cost import count_parameters
from molino.models.shapes import shapes_only
from molino.runs import directory
from molino.sweeps.plan import every_case, parse_cases
from molino.trained.building import build_model

# In one process, for all share the bytes of a corpus that was read.
pytestmark = pytest.mark.xdist_group("conf")

CONF = ROOT / "conf"
TINY = ("data.block_size=8", "data.batch_size=4", "model.n_layer=1", "model.n_head=2", "model.n_embd=8")
BIGRAM = ("model=bigram", "data.block_size=8", "data.batch_size=4")
# Vocabularies are kept small: every run reads its whole held-out split.
OF_WORDS = (
    "cola", "imdb", "imdb_sentiment", "mrpc", "ptb", "rt_polarity", "rte", "sick", "sst2", "stsb", "wikitext2",
)  # fmt: skip
OF_PIECES = ("dialogsum", "multi30k_de_en", "multi30k_en_de", "xquad_en", "xquad_es")
SMALL_VOCABULARY = {
    **dict.fromkeys(OF_WORDS, ("data.tokenizer.max_size=50",)),
    "text8": ("data.block_size=256",),
    "imdb": ("data.tokenizer.max_size=50", "data.block_size=256"),
    "grammar": ("data.corpus.characters=20000",),
    **dict.fromkeys(OF_PIECES, ("data.tokenizer.size=300",)),
}
# Tasks on examples: what each is trained on, and what it is evaluated on beside its own.
LABELLED = {
    "classification": ("data=rt_polarity", "data=sst2"),
    "entailment": ("data=rte", "data=scitail"),
    "similarity": ("data=stsb", "data=sick"),
    "multiple_choice": ("data=labelled", "data=qasc"),
}
ABLATED = {
    "CoLA": "val/matthews", "SST-2": "val/accuracy", "MRPC": "val/f1", "STS-B": "val/pearson", "SICK": "val/accuracy",
    "RTE": "val/accuracy",
}  # fmt: skip
# Recipes on examples: what they begin from.
BEGUN = {
    "sst2_best": "imdb_classifier", "rt_polarity_best": "imdb_classifier", "cola_best": "gpt1_pretrain",
    "mrpc_best": "gpt1_pretrain", "sick_best": "gpt1_pretrain",
}  # fmt: skip
ON_EXAMPLES = (*BEGUN, "imdb_classifier", "imdb_sentiment_best", "gpt1_ablation", "gpt2_finetune")
ON_PAIRS = ("multi30k", "three_architectures", "dialogsum_best")
ON_ANSWERS = {"xquad_best": "wikitext2_masked"}  # and what it begins from
OWN = {"labelled", "pairs", "answers"}  # tables and files of one's own
EVALUATED = {"scitail", "qasc"}
NEEDS_GPU = {"gpu", "gpu_bf16", "gpu_fp16", "fsdp"}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """For all runs of this file, and for no others: it holds floors of a part of a corpus, see `test_corpora`."""
    return tmp_path_factory.mktemp("conf")


@pytest.fixture
def train(molino, cache, tmp_path):
    def run(*settings: str) -> Outcome:
        return molino("train", "debug=fast", f"paths.cache={cache}", f"paths.outputs={tmp_path}", *settings)

    return run


def assert_trained(done: Outcome, outputs: Path, steps: int = 20) -> Path:
    assert done.status == 0, done.err
    (run,) = directory.list_runs(outputs)
    assert directory.read_summary(run)["steps"] == steps
    return run


def test_no_group_is_forgotten_here():
    tested = {"data", "data/tokenizer", "debug", "experiment", "hardware", "logger", "model", "optimizer", "scheduler"}
    tested |= {"hydra/launcher", "hydra/sweeper"}  # in sweeps/ and search/
    tested |= {"task"}  # every run has one
    groups = {str(path.parent.relative_to(CONF)) for path in CONF.rglob("*.yaml")} - {"."}
    assert groups == tested | {"trainer"} and set(choices("task")) == {
        "denoising",
        "language_model",
        "masked_language_model",
        "sequence_to_sequence",
        "span",
        *LABELLED,
    }
    assert choices("trainer") == ["default"]
    assert choices("logger") == ["csv", "default", "mlflow", "tensorboard", "wandb"]  # in training/test_foreign_loggers
    assert choices(".") == ["data", "evaluate", "explain", "export", "generate", "predict", "results", "score", "train"]
    assert choices("hydra/launcher") == ["local", "slurm"] and choices("hydra/sweeper") == ["grid", "optuna"]
    assert choices("debug") == ["fast", "overfit", "profiler", "traceback"]  # each has a test of its own elsewhere


@pytest.mark.parametrize("name", sorted({*choices("data")} - {"text", *OWN, *EVALUATED}))
def test_corpora(train, mirror, tmp_path, monkeypatch, name):
    # How millions of words are counted is tested elsewhere.
    for limit in ("data.counts.LIMIT", "tasks.floors_of_text.LIMIT", "tasks.floors_of_text.COMPRESSED"):
        monkeypatch.setattr(f"molino.{limit}", 100_000)
    settings = (f"data={name}", *BIGRAM, *SMALL_VOCABULARY.get(name, ()), "trainer.val_every=20")
    run = assert_trained(train(*settings, f"paths.mirror={mirror}"), tmp_path)
    assert (run / "tokenizer.json").is_file()


@pytest.mark.parametrize("name", sorted(LABELLED))
def test_tasks_on_examples(train, molino, mirror, cache, tmp_path, name):
    own, other = LABELLED[name]
    more = ()
    if own == "data=labelled":
        table = tmp_path / "own.jsonl"
        lines = [{"text": f"{n} and one?", "choices": [str(n + k) for k in range(8)], "label": 1} for n in range(60)]
        table.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        more = (f"data.path={table}", "data.columns.choices=choices")
    sizes = ("data.tokenizer.max_size=50", "data.batch_size=4", *TINY[2:])
    done = train(own, f"task={name}", *sizes, *more, f"paths.mirror={mirror}")
    run = assert_trained(done, tmp_path)
    assert "floor/" in (run / "metrics.json").read_text("utf-8")
    asked = molino("evaluate", f"run={run}", other, f"paths.cache={cache}", f"paths.mirror={mirror}")
    assert asked.status == 0, asked.err
    assert "loss" in asked.out


@pytest.mark.parametrize("name", choices("data/tokenizer"))
def test_tokenizers(train, tiny, tmp_path, name):
    more = {
        "bpe": ("data.tokenizer.size=280",),
        "pretrained": (f"data.tokenizer.path={tiny.path / 'tokenizer.json'}",),
        "word": ("data.tokenizer.min_freq=2",),
    }
    done = train("data=text", f"data.path={tiny.file}", f"data/tokenizer={name}", *TINY, *more.get(name, ()))
    assert_trained(done, tmp_path)


@pytest.mark.parametrize("name", choices("model"))
def test_models(train, molino, tiny, tmp_path, name):
    sizes = BIGRAM[1:] if name in ("bigram", "kneser_ney") else TINY
    if name == "pretrained":
        folder = tmp_path.parent / f"{tmp_path.name}-folder"
        exported = molino("export", f"run={tiny.path}", f"to={folder}")
        assert exported.status == 0, exported.err
        sizes = (f"model.source={folder}", *BIGRAM[1:])
    elif name == "lstm":
        sizes = ("model.n_layer=1", "model.n_embd=8", *BIGRAM[1:])
    elif name in ("llama", "phi3"):
        sizes = (*TINY, "model.n_kv_head=1", "model.n_inner=16")
    text = ("data=text", f"data.path={tiny.file}")
    if name in ("transformer", "t5"):
        # These write about sources, and a head reads texts that they repeat.
        table = tmp_path.parent / f"{tmp_path.name}.csv"
        table.write_text("text,label\n" + "".join(f"a text {n},{n % 2}\n" for n in range(60)), "utf-8")
        text, sizes = ("data=labelled", f"data.path={table}", "task=classification", "task.lm_coef=0"), sizes[1:]
    # An encoder has no other task on text; with the other ones it is tested in tests/tasks.
    sizes = (*sizes, "task=masked_language_model") if name == "bert" else sizes
    done = train(*text, f"model={name}", *sizes)
    assert_trained(done, tmp_path, steps=0 if name == "kneser_ney" else 20)


@pytest.mark.parametrize("name", choices("optimizer"))
def test_optimizers(train, tiny, tmp_path, name):
    assert_trained(train("data=text", f"data.path={tiny.file}", f"optimizer={name}", *TINY), tmp_path)


@pytest.mark.parametrize("name", choices("scheduler"))
def test_schedulers(train, tiny, tmp_path, name):
    assert_trained(train("data=text", f"data.path={tiny.file}", f"scheduler={name}", *TINY), tmp_path)


@pytest.mark.parametrize("name", choices("hardware"))
def test_hardware(train, tiny, tmp_path, name):
    settings = ("data=text", f"data.path={tiny.file}", f"hardware={name}", *TINY)
    if name == "ddp":
        # Two processes are tested in test_train.py; one process takes the same path through Lightning.
        settings = (*settings, "hardware.devices=1", "hardware.accelerator=cpu")
    done = train(*settings)
    if name in NEEDS_GPU and not torch.cuda.is_available():
        assert done.status == 5 and "GPU" in done.err
    elif name in NEEDS_GPU and torch.cuda.device_count() < 2 and name == "fsdp":
        assert done.status == 5 and "GPUs" in done.err
    else:
        assert_trained(done, tmp_path)


@pytest.mark.parametrize("name", choices("experiment"))
def test_experiments(train, molino, tiny, tmp_path, name):
    """On a small text: what corpora are is tested above."""
    first_lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()[:6]
    assert first_lines[0] == "# @package _global_"
    assert any(line.startswith(f"# COMMAND: molino train experiment={name}") for line in first_lines)
    assert sum(line.startswith(("# TIME: ", "# RESULT: ")) for line in first_lines) == 2
    # To compile would take half a minute.
    sizes = ["data.batch_size=4", "trainer.sample_tokens=5", "hardware.compile=false"]
    if "bigram" not in name:
        sizes += ["model.n_layer=1", "model.n_head=2", "model.n_embd=8"]
    text = ("data=text", f"data.path={tiny.file}", *(["data/tokenizer=word"] if name.startswith("imdb") else []))
    if name == "lstm_pretrain":
        sizes.remove("model.n_head=2")
    if name == "imdb_custom_gpt":
        # Its batches are of documents.
        folder = tmp_path.parent / f"{tmp_path.name}-texts"
        folder.mkdir()
        for number in range(20):
            (folder / f"{number}.txt").write_text(tiny.text[number * 100 : number * 100 + 300], "utf-8")
        text = ("data=text", f"data.path={folder}", *text[2:])
    if name in ON_EXAMPLES:
        # As a single run; what the ablation varies, and what others begin from, is composed below.
        table = tmp_path.parent / f"{tmp_path.name}.csv"
        rows = [f"a text {n},{n},{('negative', 'positive')[n % 2]}\n" for n in range(60)]
        table.write_text("".join(["text,pair,label\n", *rows]), "utf-8")
        text = ("data=labelled", f"data.path={table}", *(["sweep=null"] if name == "gpt1_ablation" else []))
        text += ("data.columns.pair=pair",) if name in ("mrpc_best", "sick_best") else ()
    if name in ON_PAIRS:
        lines = [f"a text {n}\n" for n in range(60)]
        for side in ("source", "target"):
            (tmp_path.parent / f"{tmp_path.name}.{side}").write_text("".join(lines), "utf-8")
        text = ("data=pairs", *(f"data.{key}={tmp_path.parent / tmp_path.name}.{side}" for key, side in
                                (("path", "source"), ("target_path", "target"))))  # fmt: skip
        text += ("sweep=null", "trainer.flops=null") if name == "three_architectures" else ()
    if name in ON_ANSWERS:
        table = tmp_path.parent / f"{tmp_path.name}.jsonl"
        rows = [
            {"question": f"what is {n}?", "context": f"the {n} is {n + 1}", "answer": str(n + 1)} for n in range(60)
        ]
        table.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        text = ("data=answers", f"data.path={table}", "weights=null")
    if name in BEGUN:
        sizes = [*sizes[:3], f"weights={tiny.path}", "trainer.epochs=null"]
    if name in ("imdb_classifier", "imdb_sentiment_best"):
        sizes += ["trainer.epochs=null"]
    if name == "gpt2_finetune":
        folder = tmp_path.parent / f"{tmp_path.name}-folder"
        assert molino("export", f"run={tiny.path}", f"to={folder}").status == 0
        sizes = [*sizes[:3], f"model.source={folder}", "data.block_size=8", "trainer.epochs=null"]
    run = assert_trained(train(f"experiment={name}", *text, *sizes), tmp_path)
    assert run.name.startswith(f"{name}_")


@pytest.mark.parametrize("name", BEGUN)
def test_what_recipes_begin_from_composes(name):
    run = compose("train", [f"experiment={name}"])
    assert run.origin.settings["name"] == BEGUN[name] and run.origin.path.name == "seed=0"
    assert run.settings["name"] == name and run.settings["task"]["on_floor"] is True
    assert run.settings["model"] == run.origin.settings["model"] | {"dropout": run.settings["model"]["dropout"]}
    said = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    assert run.settings["model"]["dropout"] == said["model"]["dropout"]


@pytest.mark.parametrize("name", ON_ANSWERS)
def test_what_answers_begin_from_composes(name):
    run = compose("train", [f"experiment={name}"])
    assert run.origin.settings["name"] == ON_ANSWERS[name] and run.origin.path.name == "seed=0"
    same = {key: value for key, value in run.settings["model"].items() if key != "dropout"}
    assert same.items() <= run.origin.settings["model"].items()


def test_the_three_architectures_are_of_one_size():
    content = yaml.safe_load((CONF / "experiment" / "three_architectures.yaml").read_text())["hydra"]["sweeper"]
    cases = every_case(parse_cases(content["cases"]), content["without"])
    runs = [compose("train", ["experiment=three_architectures", "sweep=null", *settings]) for _, settings in cases]
    sizes = {}
    for (names, _), run in zip(cases, runs, strict=True):
        with shapes_only():
            sizes[tuple(names)] = count_parameters(build_model(run.settings, 4003))
    assert len(sizes) == 6 and max(sizes.values()) < 1.03 * min(sizes.values())
    told = {tuple(names): run.settings["task"]["_target_"].rpartition(".")[2] for (names, _), run in
            zip(cases, runs, strict=True)}  # fmt: skip
    assert {kind for (task, _), kind in told.items() if task == "task=translation"} == {"SequenceToSequence"}


def test_what_the_ablation_varies_composes():
    content = yaml.safe_load((CONF / "experiment" / "gpt1_ablation.yaml").read_text())
    cases = parse_cases(content["hydra"]["sweeper"]["cases"])
    runs = {
        tuple(names): compose("train", ["experiment=gpt1_ablation", "sweep=null", *s]) for names, s in every_case(cases)
    }
    assert len(runs) == 4 * 6
    for (on, method), run in runs.items():
        assert run.settings["data"]["block_size"] == 128 and run.settings["optimizer"]["lr"] == 1e-3
        kind = run.origin.settings["model"]["_target_"].rpartition(".")[2]
        assert kind == run.settings["model"]["_target_"].rpartition(".")[2] == ("LSTM" if "LSTM" in method else "GPT")
        assert (run.origin.settings["trainer"]["max_steps"] == 0) == ("without pre-training" in method)
        assert (run.settings["task"]["lm_coef"] == 0) == ("without auxiliary loss" in method)
        assert run.settings["weights"] == str(run.origin.path) and run.origin.path.name == "seed=0"
        assert run.settings["task"]["monitor"] == ABLATED[on.partition("=")[2]]
    # Two are pre-trained, and one is the first of them without a step.
    assert len({run.origin.path for run in runs.values()}) == 3
