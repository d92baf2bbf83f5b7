"""What no architecture of `transformers` computes, as a folder: molino's verbs make of it what they make of the run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from cards import example_of, run_example
from conftest import CPU, TinyRun, small_text
from safetensors.torch import load_file, save_file

import molino as package
from molino.configuration.composer import compose
from molino.configuration.identity import changes
from molino.runs import directory
from molino.trained.load import load_run

SIZES = ("model.n_layer=1", "model.n_head=2", "model.n_embd=16")
LLAMA = ("model=llama", *SIZES, "model.ngrams=3", "model.ngram_rows=100")
TEXTS = {
    "custom_gpt": ("model=custom_gpt", *SIZES, "model.n_inner=32"),
    "bigram": ("model=bigram",),
    "kneser_ney": ("model=kneser_ney",),
    "lstm": ("model=lstm", "model.n_layer=1", "model.n_embd=16"),
    "n-grams in a llama": LLAMA,
    "a gpt on counts": ("model=gpt", *SIZES, "task.on_floor=true"),
    "a bigram on counts": ("model=bigram", "task.on_floor=true"),
    "a gpt that fits": ("model=gpt", *SIZES),
}
BY_COUNTING = ("kneser_ney",)
LABELLED = ("data=labelled", "data.path={home}/rows.csv", "data/tokenizer=char", "task.lm_coef=0")
PAIRED = (*LABELLED, "data.columns={{text:text,pair:pair,label:label}}")
SCORED = (*LABELLED, "data.columns={{text:text,pair:pair,score:score}}")
WRITES = ("data=pairs", "data.path={home}/pairs.tsv", "data.columns={{text:text,target:target}}", "data/tokenizer=char")
ANSWERS = ("data=answers", "data.path={home}/asked.jsonl", "data/tokenizer=char", "task=span", "data.block_size=48")
EXAMPLES = {
    "mean": ((*LABELLED, "task=classification", "task.pooling=mean", "model=gpt", *SIZES), {"text": "good 3"}),
    "lstm": ((*LABELLED, "task=classification", "model=lstm", "model.n_layer=1", "model.n_embd=16"), {"text": "bad"}),
    "bag": ((*LABELLED, "task=classification", "task.on_floor=true", "model=gpt", *SIZES), {"text": "good 3"}),
    "orders": (
        (*PAIRED, "task=entailment", "task.both_orders=true", "model=gpt", *SIZES),
        {"text": "good 3", "pair": "x1"},
    ),
    "score": ((*SCORED, "task=similarity", "model=gpt", *SIZES), {"text": "good 3", "pair": "x1"}),
    "masks": (
        ("data=text", "data.path={home}/text.txt", "task=masked_language_model", "model=bert", *SIZES),
        {"text": "de la <mask>ancha"},
    ),
    "in common": ((*ANSWERS, "task.in_common=true", "model=bert", *SIZES), {"question": "who?", "context": "a b"}),
    "target": ((*WRITES, "task=sequence_to_sequence", "model=transformer", *SIZES[:2], "model.n_embd=16",
                "model.positions=learned"), {"text": "a b"}),
    "two vocabularies": ((*WRITES, "task=sequence_to_sequence", "model=transformer", *SIZES,
                          "data.joint_vocabulary=false", "model.share_tables=false"), {"text": "a b"}),
    "lstm that reads sources first": ((*WRITES, "task=sequence_to_sequence", "model=lstm", "model.n_layer=1",
                                       "model.n_embd=16", "model.block_size=64"), {"text": "a b"}),
    "noise": (("data=text", "data.path={home}/text.txt", "task=denoising", "model=transformer", *SIZES,
               "model.positions=learned", "data.block_size=32"), {"text": "de la <extra_id_0>"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with texts, examples and pairs."""
    home = tmp_path_factory.mktemp("own")
    (home / "text.txt").write_text(small_text(0, 300), "utf-8")
    rows = [
        f"{word} {number},x{number % 3},{kind},{number % 5}\n"
        for number in range(30)
        for word, kind in (("good", "yes"), ("bad", "no"))
    ]
    (home / "rows.csv").write_text("text,pair,label,score\n" + "".join(rows), "utf-8")
    words = [f"{one} {other}" for one in "abcdefgh" for other in "ijklmnop"]
    (home / "pairs.tsv").write_text("text\ttarget\n" + "".join(f"{w}\t{w[::-1]}\n" for w in words), "utf-8")
    asked = [{"question": "who?", "context": f"a {w}", "answer": w} for w in words]
    (home / "asked.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked), "utf-8")
    return home


def trained(molino, home: Path, outputs: Path, *settings: str) -> TinyRun:
    """A run of few steps."""
    settings = tuple(each.format(home=home) for each in settings)
    own = () if any(each.startswith("data.block_size") for each in settings) else ("data.block_size=32",)
    steps = ("debug=fast", "data.batch_size=4") if "model=kneser_ney" not in settings else ()
    places = (f"paths.outputs={outputs}", f"paths.cache={home / 'cache'}")
    done = molino("train", *own, *steps, *CPU, *places, *settings)
    assert done.status == 0, done.err
    (run,) = directory.list_runs(outputs)
    return TinyRun(run, "", home / "text.txt", outputs, home / "cache")


def exported(molino, run: Path, folder: Path, *more: str) -> Path:
    done = molino("export", f"run={run}", f"to={folder}", *more)
    assert (done.status, done.err) == (0, "") and "for molino alone: " in done.out, done.err
    assert json.loads((folder / "config.json").read_text("utf-8"))["model_type"] == "molino"
    assert sorted(file.suffix for file in folder.iterdir() if file.suffix not in (".json", ".md", ".safetensors")) == []
    return folder


@pytest.mark.parametrize("name", TEXTS)
def test_a_language_model_is_what_its_run_is(molino, home, tmp_path, name):
    made = trained(molino, home, tmp_path / "outputs", "data=text", "data.path={home}/text.txt", *TEXTS[name])
    wanted = ("format=molino",) if "fits" in name else ()
    folder = exported(molino, made.path, tmp_path / "folder", *wanted)
    shutil.move(made.path, tmp_path / "kept")  # it needs the run no more
    run = tmp_path / "kept"
    asked = ("prompt=de la", "max_new_tokens=50", "samples=2", *CPU)
    texts = [molino("generate", which, *asked) for which in (f"run={run}", f"source={folder}")]
    assert texts[0].status == texts[1].status == 0 and texts[0].out == texts[1].out, texts[1].err
    data = ("data=text", f"data.path={made.file}", *made.settings)
    measured = [molino("evaluate", which, *data).out.splitlines() for which in (f"run={run}", f"source={folder}")]
    own, other = ({line.strip() for line in each if not line.startswith((" run ", " source "))} for each in measured)
    assert own == other and any(line.startswith("loss ") for line in own)
    explained = molino("explain", f"source={folder}", "prompt=de la", *CPU)
    assert explained.status == 0, explained.err
    own, other = package.load(run, device="cpu"), package.load(folder, device="cpu")
    assert torch.equal(own.logits("un lugar"), other.logits("un lugar"))
    assert run_example(example_of(folder, "de la")).startswith("de la")
    # Trained on from: measured before any step.
    more = [each for each in TEXTS[name] if each.startswith("task.")]
    begun = ("model=pretrained", f"model.source={folder}", *data, *more, "data.block_size=32")
    steps = () if name in BY_COUNTING else ("trainer.max_steps=0", "debug=fast")
    done = molino("train", *begun, *steps, "name=on")
    if name in BY_COUNTING:
        assert done.status == 2 and "was trained by counting and has no weights" in done.err
        return
    assert done.status == 0, done.err
    (begun,) = made.outputs.glob("on_*")
    assert directory.read_summary(begun)["val/loss"] == directory.read_summary(run)["val/best_loss"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_run_that_tells_something_of_examples_tells_the_same(molino, home, tmp_path, name):
    settings, asked = EXAMPLES[name]
    made = trained(molino, home, tmp_path / "outputs", *settings)
    folder = exported(molino, made.path, tmp_path / "folder")
    shutil.move(made.path, tmp_path / "kept")
    own, other = package.load(tmp_path / "kept", device="cpu"), package.load(folder, device="cpu")
    assert own.predict(asked) == other.predict(asked)
    weights = other.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in own.model.state_dict().items())
    assert run_example(example_of(folder, "a")).strip()
    told = molino("predict", f"source={folder}", *(f"{k}={v}" for k, v in asked.items()), *CPU)
    assert told.status == 0 and told.out, told.err
    if "bag" not in name:
        task = [each for each in settings if each.startswith("task")]
        data = [each.format(home=home) for each in settings if each.startswith("data")]
        # The folder has both vocabularies.
        data = [each for each in data if "tokenizer" not in each and "joint" not in each]
        begun = ("model=pretrained", f"model.source={folder}", *data, *task, "trainer.max_steps=0", "debug=fast")
        size = () if "data.block_size" in str(data) else ("data.block_size=32",)
        done = molino("train", *begun, *size, "name=on", *made.settings)
        assert done.status == 0, done.err
        again = package.load(next(made.outputs.glob("on_*")), device="cpu")
        assert again.predict(asked) == own.predict(asked)


def test_an_architecture_that_is_asked_for_is_still_refused(molino, home, tmp_path):
    made = trained(molino, home, tmp_path / "outputs", "data=text", "data.path={home}/text.txt", *TEXTS["bigram"])
    refused = molino("export", f"run={made.path}", f"to={tmp_path / 'folder'}", "format=gpt2")
    assert refused.status == 2 and "Bigram has no counterpart in gpt2" in refused.err
    assert not (tmp_path / "folder").exists()


def test_a_run_from_a_folder_is_known_again(molino, bigram, home, tmp_path):
    """Of a model without dropout, which the choice of the folder sets."""
    places = (f"paths.outputs={tmp_path}", f"paths.cache={home / 'cache'}", *CPU)
    begun = ("model=pretrained", f"model.source={bigram}", "data=text", f"data.path={home / 'text.txt'}")
    steps = ("trainer.max_steps=0", "debug=fast", "data.block_size=32", "data.batch_size=4")
    done = molino("train", *begun, *steps, *places)
    assert done.status == 0, done.err
    (run,) = directory.list_runs(tmp_path)
    assert changes(run, compose("train", [*begun, *steps, *places]).settings) == {}


@pytest.fixture(scope="module")
def counted(molino, home, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("counted")
    made = trained(molino, home, outputs / "outputs", "data=text", "data.path={home}/text.txt", *TEXTS["kneser_ney"])
    return exported(molino, made.path, outputs / "folder")


@pytest.fixture(scope="module")
def bigram(molino, home, tmp_path_factory):
    outputs = tmp_path_factory.mktemp("bigram")
    made = trained(molino, home, outputs / "outputs", "data=text", "data.path={home}/text.txt", *TEXTS["bigram"])
    return exported(molino, made.path, outputs / "folder")


def test_transformers_reads_the_tokenizer_and_says_that_it_knows_no_such_model(bigram):
    tokenizer = transformers.AutoTokenizer.from_pretrained(bigram)
    assert tokenizer.decode(tokenizer("de la").input_ids) == "de la" and tokenizer.padding_side == "left"
    with pytest.raises(ValueError, match="molino"):
        transformers.AutoModelForCausalLM.from_pretrained(bigram)
    card = (bigram / "README.md").read_text("utf-8")
    assert "library_name: molino" in card and "transformers does not load this folder: Bigram has no counter" in card
    assert "molino train model=pretrained model.source=" in card


DEEP: dict = {}
for _ in range(300):
    DEEP = {"x": DEEP}


def change(folder: Path, **changed) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    for name, value in changed.items():
        section, _, key = name.partition("__")
        config |= {section: config[section] | {key: value}} if key else {section: value}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


@pytest.mark.parametrize(
    ("changed", "status", "part"),
    [
        ({"model___target_": "os.system"}, 2, "model._target_=os.system is not allowed"),
        ({"model___target_": "subprocess.Popen"}, 2, "model._target_=subprocess.Popen is not allowed"),
        ({"task___target_": "molino.models.bigram.Bigram"}, 2, "task._target_=molino.models.bigram.Bigram is no Task"),
        ({"model__block_size": {"_target_": "os.getcwd"}}, 2, "_target_"),
        ({"model__deep": DEEP}, 4, "its settings are nested without end"),
        ({"model__size": 3}, 2, "model.size is not a setting"),
        ({"model__block_size": "long"}, 2, "model.block_size must be int"),
        ({"model": None}, 4, "config.json is damaged: its model is None"),
        ({"task": {}}, 2, "says nothing that can be built"),
        ({"start_id": 10**6}, 4, "its start_id or its line_end is none"),
        ({"start_id": -1}, 4, "its start_id or its line_end is none"),
        ({"line_end": "x"}, 4, "its start_id or its line_end is none"),
        ({"counts": "0"}, 4, "counts.safetensors is missing or not that of this model"),
    ],
)
def test_a_config_that_names_something_else(molino, bigram, tmp_path, changed, status, part):
    folder = shutil.copytree(bigram, tmp_path / "folder")
    change(folder, **changed)
    done = molino("generate", f"source={folder}", "prompt=a", *CPU)
    assert done.status == status and part in done.err and done.err.count("\n") == 1, done.err


@pytest.mark.parametrize(
    "changed", [{"model___target_": "os.system"}, {"model__block_size": {"_target_": "os.getcwd"}}]
)
def test_nothing_is_trained_from_a_config_that_names_something_else(molino, bigram, tmp_path, changed):
    folder = shutil.copytree(bigram, tmp_path / "folder")
    change(folder, **changed)
    places = (f"paths.outputs={tmp_path / 'outputs'}", f"paths.cache={tmp_path / 'cache'}")
    done = molino("train", "model=pretrained", f"model.source={folder}", *places, *CPU)
    assert done.status == 2 and "is not allowed" in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "outputs").exists()


def test_files_that_are_damaged_or_missing(molino, bigram, counted, tmp_path):
    def says(folder: Path, part: str) -> None:
        done = molino("generate", f"source={folder}", "prompt=a", *CPU)
        assert done.status in (3, 4) and part in done.err and done.err.count("\n") == 1, done.err

    folder = shutil.copytree(bigram, tmp_path / "bigram")
    whole = (folder / "model.safetensors").read_bytes()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes(whole[:-7])
    says(folder, "is damaged or no safetensors file")
    save_file({name: tensor[:-1].contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    says(folder, "does not fit")
    save_file({}, folder / "model.safetensors")
    says(folder, "does not fit")
    (folder / "model.safetensors").unlink()
    says(folder, "holds no model.safetensors")
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "tokenizer.json").unlink()
    says(folder, "tokenizer.json cannot be read")
    folder = shutil.copytree(counted, tmp_path / "counted")
    other = load_file(folder / "counts.safetensors")
    save_file({name: tensor * 0 for name, tensor in other.items()}, folder / "counts.safetensors")
    says(folder, "counts.safetensors is missing or not that of this model")
    (folder / "counts.safetensors").unlink()
    says(folder, "counts.safetensors is missing or not that of this model")


def test_a_run_of_before_is_exported(molino, tmp_path, tiny):
    """Which neither says its task nor how lines end."""
    run = shutil.copytree(tiny.path, tmp_path / "run")
    lines = (run / "config.yaml").read_text("utf-8").splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if line.startswith("task:"))
    end = next(number for number in range(start + 1, len(lines)) if not lines[number].startswith(" "))
    (run / "config.yaml").write_text("".join(lines[:start] + lines[end:]), "utf-8")
    folder = exported(molino, run, tmp_path / "folder", "format=molino")
    own = load_run(tiny.path, "best", torch.device("cpu")).model.state_dict()
    found = package.load(folder, device="cpu").model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in found.items())
