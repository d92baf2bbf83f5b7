"""molino: what it prints, what it draws, and what it says of bad input."""

import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import CPU, Outcome
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from molino.trained.load import load_run
from molino.verbs.explain import whole_folder

PROMPT = "en un lugar"


@pytest.fixture
def run(tiny, tmp_path):
    return shutil.copytree(tiny.path, tmp_path / "outputs" / tiny.path.name)


@pytest.fixture
def explain(molino, run, tmp_path):
    def explain(*settings, prompt=PROMPT, model=f"run={run}"):
        places = (model, f"paths.outputs={tmp_path / 'outputs'}", *CPU)
        return molino("explain", *places, f"prompt={prompt}", *settings)

    return explain


@dataclass(frozen=True)
class Explained:
    """What one command said of a run of its own, and that run."""

    outcome: Outcome
    run: Path

    @property
    def folder(self) -> Path:
        return self.run / "explain"


@pytest.fixture(scope="module")
def explained(molino, tiny, tmp_path_factory):
    run = shutil.copytree(tiny.path, tmp_path_factory.mktemp("explained") / tiny.path.name)
    done = molino("explain", f"run={run}", f"prompt={PROMPT}", "top=3", *CPU)
    assert (done.status, done.err) == (0, "")
    return Explained(done, run)


def test_it_says_what_the_model_is_and_where_the_pictures_are(explained):
    out, model = explained.outcome.out, load_run(explained.run, "best", torch.device("cpu")).model
    count = sum(parameter.numel() for parameter in model.parameters())
    assert out.startswith(f"GPT  {count:,}")
    assert re.search(rf"parameters +{count:,}", out)
    assert re.search(r"KV cache per token +256 bytes", out)  # 2 layers x (key + value) x 16 numbers x 4 bytes
    assert f"pictures: {explained.folder} (" in out
    assert f"tensorboard --logdir {explained.folder}" in out


def test_the_table_holds_the_softmax(explained):
    loaded = load_run(explained.run, "best", torch.device("cpu"))
    ids = loaded.tokenizer.encode(PROMPT).tolist()
    with torch.no_grad():
        probabilities_TV = loaded.model(torch.tensor([ids]))[0].softmax(-1)
    rows = explained.outcome.out.split("what it expects")[1].splitlines()
    for place, token in enumerate(ids):
        (row,) = [line for line in rows if re.match(rf" *{place} +'", line)]
        best = int(probabilities_TV[place].argmax())
        assert f"{loaded.tokenizer.token(best)!r}" in row
        assert f"{float(probabilities_TV[place, best]):.1%}" in row
        if place:
            assert f"{float(probabilities_TV[place - 1, token]):.1%}" in row


def test_the_folder_holds_a_picture_a_layer_and_nothing_else_is_left(explained):
    pictures = list(explained.folder.glob("*.png"))
    assert {path.name for path in pictures} == {"attention-layer-0.png", "attention-layer-1.png", "positions.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    assert not list(explained.run.glob(".explain*"))


def test_tensorboard_finds_images_and_embeddings(explained):
    events = EventAccumulator(str(explained.folder)).Reload()
    assert set(events.Tags()["images"]) == {"attention/layer-0", "attention/layer-1", "positions"}
    (labels,), (vectors,) = explained.folder.rglob("metadata.tsv"), explained.folder.rglob("tensors.tsv")
    loaded = load_run(explained.run, "best", torch.device("cpu"))
    rows = labels.read_text("utf-8").splitlines()
    assert len(rows) == loaded.tokenizer.size and r"'\n'" in rows
    numbers = [[float(number) for number in line.split("\t")] for line in vectors.read_text().splitlines()]
    torch.testing.assert_close(torch.tensor(numbers), loaded.model.wte.weight.detach())
    # The paths in it hold wherever the folder is.
    assert str(explained.run) not in (explained.folder / "projector_config.pbtxt").read_text()


def test_an_earlier_folder_is_replaced(explain, run):
    old = run / "explain" / "attention-layer-7.png"
    old.parent.mkdir()
    old.write_text("of a deeper model")
    assert explain().status == 0
    assert not old.exists() and (run / "explain" / "positions.png").is_file()


def test_only_a_whole_folder_takes_its_place(tmp_path):
    target = tmp_path / "explain"
    with whole_folder(target) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError), whole_folder(target) as folder:
        (folder / "a").write_text("2")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["explain"]
    assert (target / "a").read_text() == "1"


def test_a_bigram_has_a_table(molino, tiny, tmp_path):
    settings = ("debug=fast", "model=bigram", "data=text", f"data.path={tiny.file}", f"paths.cache={tiny.cache}", *CPU)
    done = molino("train", *settings, f"paths.outputs={tmp_path}")
    assert done.status == 0, done.err
    done = molino("explain", "run=latest", f"paths.outputs={tmp_path}", f"prompt={PROMPT}", *CPU)
    assert (done.status, done.err) == (0, "")
    assert "no attention to draw" in done.out
    (picture,) = tmp_path.rglob("explain/*.png")
    assert picture.name == "bigrams.png"


def test_a_source_leaves_its_pictures_below_the_outputs(molino, explain, run, tmp_path):
    assert molino("export", f"run={run}", f"to={tmp_path / 'model'}").status == 0
    before = sorted((tmp_path / "model").iterdir())
    done = explain(model=f"source={tmp_path / 'model'}")
    assert done.status == 0, done.err
    assert sorted((tmp_path / "model").iterdir()) == before
    assert (tmp_path / "outputs" / "explain" / "model" / "attention-layer-1.png").is_file()


def test_without_matplotlib_the_tables_are_there(explain, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = explain()
    assert (done.status, done.err) == (5, "molino: pictures need matplotlib: pip install matplotlib\n")
    assert "what it expects" in done.out and "FLOPs" in done.out
    assert not (run / "explain").exists()


def test_unknown_characters_are_named(explain, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    remark = explain(prompt="a€字€").err.splitlines()[0]
    assert remark == "molino: not in the vocabulary, read as <unk>: '€' '字'"


def test_a_prompt_is_neither_markup_nor_mathematics(explain, run):
    done = explain(prompt="[red]$a_{$[/]")
    assert done.status == 0
    assert (run / "explain" / "attention-layer-1.png").is_file()


def test_a_number_is_a_prompt(explain, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "what it expects" in explain(prompt="1605").out


@pytest.mark.parametrize(
    "settings, status, message",
    [
        (("top=0",), 2, "top=0 is too small"),
        (("top=1000",), 2, "top=1000 is too large: the model knows "),
        (("prompt=",), 3, 'prompt="" is no text'),
        (("prompt=de la Mancha, de cuyo nombre",), 3, "the text has 28 tokens, and the model reads 1 to 16"),
        (("top=many",), 2, "top must be int"),
    ],
)
def test_bad_input_ends_in_one_line(explain, run, settings, status, message):
    done = explain(*settings)
    assert done.status == status
    assert message in done.err and len(done.err.splitlines()) == 1
    assert not (run / "explain").exists()


def test_without_a_prompt(molino, run):
    done = molino("explain", f"run={run}", *CPU)
    assert (done.status, done.err) == (2, 'molino: there is no prompt: add prompt="..."\n')
