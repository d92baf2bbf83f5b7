"""Runs that write targets, by the command: trained, measured, asked, exported, and asked again by transformers."""

import json
import random

import pytest
from conftest import CPU, run_command
from sacrebleu.metrics import BLEU

import molino

WORDS = ["uno", "dos", "tres", "cuatro", "cinco", "seis"]
SIZES = ("model.n_layer=1", "model.n_head=2", "model.n_embd=32", "model.dropout=0.0", "data.block_size=16")


def reversed_lines(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 6))) for _ in range(count)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with aligned files, and a run that writes them the other way round, more or less."""
    folder = tmp_path_factory.mktemp("pairs")
    for seed, (split, count) in enumerate((("train", 300), ("val", 30), ("test", 20))):
        lines = reversed_lines(seed, count)
        (folder / f"{split}.up").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.down").write_text("\n".join(" ".join(line.split()[::-1]) for line in lines) + "\n")
    steps = ["trainer.max_steps=200", "trainer.val_every=100", "trainer.checkpoint_every=100", "optimizer.lr=5e-3"]
    task = ["task=sequence_to_sequence", "task.writing.beams=3", "task.smoothing=0.1", "data.batch_tokens=300"]
    done = run_command("train", *files(folder), *task, "model=transformer", *SIZES, *CPU, *steps, *places(folder))
    assert done.status == 0, done.err
    return folder


def files(folder) -> list[str]:
    names = {"path": "train", "val_path": "val", "test_path": "test"}
    given = [f"data.{name}={folder / split}.up" for name, split in names.items()]
    given += [f"data.{name.replace('path', 'target_path')}={folder / split}.down" for name, split in names.items()]
    return ["data=pairs", "data/tokenizer=word", *given]


def places(folder) -> list[str]:
    return [f"paths.outputs={folder / 'outputs'}", f"paths.cache={folder / 'cache'}"]


def told(folder, *settings: str) -> list[dict]:
    done = run_command("predict", f"file={folder / 'test.tsv'}", *CPU, f"paths.outputs={folder / 'outputs'}", *settings)
    assert done.status == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_what_is_said_is_what_is_recorded_and_what_is_measured(home):
    (run,) = (home / "outputs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert {"val/loss", "val/perplexity", "val/bleu", "val/chrf", "floor/copy", "floor/word_by_word"} <= summary.keys()
    assert summary["val/bleu"] > summary["floor/copy"]
    rows = (run / "metrics.csv").read_text().splitlines()
    assert {"train/loss", "train/smoothed_loss", "val/bleu"} <= set(rows[0].split(","))
    assert "  > " in (run / "samples.txt").read_text()

    sources = (home / "test.up").read_text().splitlines()
    (home / "test.tsv").write_text("text\n" + "\n".join(sources) + "\n")
    written = [each["translation_text"] for each in told(home, "run=latest")]
    wanted = (home / "test.down").read_text().splitlines()
    done = run_command("evaluate", "run=latest", "split=test", *CPU, *places(home))
    assert done.status == 0, done.err
    bleu = BLEU().corpus_score(written, [wanted]).score
    assert f"{bleu:.4f}" in done.out and "3 beams" in done.out and "tok:13a" in done.out
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test/bleu"] == pytest.approx(bleu)
    # What is written otherwise is no figure of the run.
    done = run_command("evaluate", "run=latest", "split=test", "writing.beams=1", *CPU, *places(home))
    assert done.status == 0 and "the likeliest token each time" in done.out
    assert json.loads((run / "summary.json").read_text()) == summary


def test_an_exported_folder_writes_the_same_here_and_in_transformers(home):
    transformers = pytest.importorskip("transformers")
    sources = (home / "test.up").read_text().splitlines()
    (home / "test.tsv").write_text("text\n" + "\n".join(sources) + "\n")
    own = told(home, "run=latest")
    target = home / "exported"
    done = run_command("export", "run=latest", f"to={target}", f"paths.outputs={home / 'outputs'}")
    assert done.status == 0, done.err
    again = told(home, f"source={target}", "writing.beams=3")
    assert [each["translation_text"] for each in again] == [each["translation_text"] for each in own]
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(target)
    rows = model.generate(**tokenizer(sources, padding=True, return_tensors="pt"))
    theirs = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]
    assert theirs == [each["translation_text"] for each in own]


def test_what_is_unknown_or_too_long_is_said(home):
    done = run_command(
        "predict", "run=latest", f"text=uno {'dos ' * 20} siete", *CPU, f"paths.outputs={home / 'outputs'}"
    )
    assert done.status == 0 and len(done.err.splitlines()) == 2
    assert "not in the vocabulary, read as <unk>: 'siete'" in done.err
    assert "1 of 1 are longer than the context of 16 tokens: read in part" in done.err
    done = run_command("generate", "run=latest", "prompt=uno", *CPU, f"paths.outputs={home / 'outputs'}")
    assert done.status == 2 and "molino predict asks it what its task tells" in done.err


def test_a_decoder_that_reads_the_source_first_is_exported_with_its_marks(home, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = (*SIZES, "model.block_size=32", "trainer.max_steps=60", "trainer.val_every=60")
    asked = (*files(home), "task=sequence_to_sequence", "task.written=0", "model=gpt", *sizes, *CPU)
    done = run_command("train", *asked, *places(home), f"paths.outputs={tmp_path}")
    assert done.status == 0, done.err
    own = run_command("predict", "run=latest", "text=uno dos tres", *CPU, f"paths.outputs={tmp_path}").out.strip()
    done = run_command("export", "run=latest", f"to={tmp_path / 'folder'}", f"paths.outputs={tmp_path}")
    assert 'prompt="...<|endoftext|><start>"' in done.out and own
    assert '"...<|endoftext|><start>"' in (tmp_path / "folder" / "README.md").read_text()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder")
    read = tokenizer("uno dos tres<|endoftext|><start>", return_tensors="pt")
    written = model.generate(**read, do_sample=False, max_new_tokens=16)[0, read["input_ids"].shape[1] :]
    assert tokenizer.decode(written, skip_special_tokens=True).strip() == own


def test_answers_come_as_asked_for(home):
    done = run_command("predict", "run=latest", "text=uno dos", "writing.beams=4", "writing.n_best=2", *CPU,
                       f"paths.outputs={home / 'outputs'}")  # fmt: skip
    lines = done.out.splitlines()
    assert done.status == 0 and len(lines) == 2 and all(float(line.split("  ")[0]) < 0 for line in lines)


def test_python_is_told_the_same(home):
    (path,) = (home / "outputs").iterdir()
    run = molino.load(path, device="cpu")
    plain, other = run.predict("uno dos tres"), run.predict("uno dos tres", writing={"beams": 4, "n_best": 3})
    assert list(plain) == ["translation_text", "score"] and len(other["others"]) == 2
    summary = (path / "summary.json").read_text()
    places_of = [each for each in places(home) if "cache" in each]
    greedy = run.evaluate("test", floors=False, writing={"beams": 1}, overrides=places_of)
    assert greedy.keys() >= {"test/loss", "test/bleu"} and (path / "summary.json").read_text() == summary
    with pytest.raises(molino.ConfigError, match=r"writing\.beam"):
        run.predict("uno", writing={"beam": 4})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["text=uno", "writing.n_best=2", "writing.beams=1"], "needs writing.beams=2"),
        (["text=uno", "question=dos"], "text= and question= are two names"),
        (["text=uno", "pair=dos"], "writes about a text alone"),
        (["text="], "source 1 is empty"),
        (["text=  "], "source 1 is empty"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(home, settings, message):
    done = run_command("predict", "run=latest", *settings, *CPU, f"paths.outputs={home / 'outputs'}")
    assert done.status != 0 and message in done.err and len(done.err.strip().splitlines()) == 1


def test_a_model_that_reads_the_source_first_needs_room_for_both(home):
    asked = ["train", *files(home), "task=sequence_to_sequence", "model=gpt", *SIZES, *CPU, *places(home)]
    done = run_command(*asked)
    assert done.status != 0 and "model.block_size=32 for source and target together" in done.err
    done = run_command(*asked, "model.block_size=24")
    assert "data.block_size=16 is beyond the model's context of 12, half of 24:" in done.err
    done = run_command(*asked, "data.joint_vocabulary=false")
    assert done.status != 0 and "model.share_tables=false" in done.err
