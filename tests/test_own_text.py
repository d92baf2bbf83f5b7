"""Text of one's own from the command line: the same losses in every form, and prompts as people type them."""

import bz2
import csv
import gzip
import io
import json
import lzma
import shutil
import unicodedata
import zipfile

import pytest
import torch
from conftest import CPU, small_text, without_pace

from molino.runs import directory
from molino.runs.directory import BEST
from molino.trained.load import load_checkpoint, load_run

SIZES = ("data.block_size=16", "data.batch_size=4", "model.n_layer=1", "model.n_head=2", "model.n_embd=8")
TEXTS = [small_text(number, 8) for number in range(30)]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    home = tmp_path_factory.mktemp("own")
    return (f"paths.outputs={home / 'outputs'}", f"paths.cache={home / 'cache'}", *CPU)


@pytest.fixture
def trained(molino, places):
    """Train on a text of one's own and return the run's directory and what was said."""

    def train(name, *settings):
        done = molino("train", "data=text", f"name={name}", "debug=fast", *SIZES, *places, *settings)
        assert done.status == 0, done.err
        return directory.find(name, places[0].partition("=")[2]), done.out

    return train


def losses(run):
    """All figures of a run that do not tell of time or place."""
    lines = (run / "metrics.csv").read_text().splitlines()
    kept = [n for n, name in enumerate(lines[0].split(",")) if name.endswith("loss") or name == "step"]
    return [[line.split(",")[n] for n in kept] for line in lines]


def in_forms(folder):
    """The same documents as a folder of plain files, and in other forms: a name, and its settings."""
    plain = folder / "plain"
    plain.mkdir()
    for number, text in enumerate(TEXTS):
        (plain / f"{number:02}.txt").write_text(text, "utf-8")
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for path in sorted(plain.iterdir(), reverse=True):
            archive.write(path, f"texts/{path.name}")
    table = io.StringIO(newline="")
    csv.writer(table).writerows([["text"], *([text] for text in TEXTS)])
    (folder / "a.csv.gz").write_bytes(gzip.compress(table.getvalue().encode()))
    lines = "".join(json.dumps({"a": {"text": text}}) + "\n" for text in TEXTS)
    (folder / "a.jsonl").write_text(lines, "utf-8")
    return {
        "plain": [f"data.path={plain}"],
        "zip": [f"data.path={folder / 'a.zip'}"],
        "csv": [f"data.path={folder / 'a.csv.gz'}", "data.column=text"],
        "jsonl": [f"data.path={folder / 'a.jsonl'}", "data.column=a.text"],
    }


def test_losses_are_those_of_the_texts_in_whatever_form(trained, tmp_path):
    found = {name: losses(trained(name, *settings)[0]) for name, settings in in_forms(tmp_path).items()}
    assert len(found["plain"]) > 2
    assert found["plain"] == found["zip"] == found["csv"] == found["jsonl"]


def test_losses_are_those_of_a_compressed_text(trained, tmp_path):
    whole = "".join(TEXTS).encode()
    found = []
    for suffix, pack in {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.items():
        (tmp_path / f"a.txt{suffix}").write_bytes(pack(whole))
        found.append(losses(trained(f"one{suffix[1:]}", f"data.path={tmp_path}/a.txt{suffix}", "data.limit=3000")[0]))
    assert found[0] == found[1] == found[2] == found[3]
    (tmp_path / "b.txt").write_bytes(whole.decode()[:3000].encode())
    assert losses(trained("short", f"data.path={tmp_path}/b.txt")[0]) == found[0]


@pytest.mark.parametrize(
    ("settings", "status", "says"),
    [
        (["data.path=a.csv"], 2, "say which column holds the texts with data.column=<name>; it has n, text"),
        (["data.path=a.csv", "data.column=txt"], 3, "data.column=txt is no column of a.csv; did you mean text?"),
        (["data.path=a.txt", "data.column=text"], 2, "data.column=text has no effect: data.path=a.txt is no table"),
        (["data.path=a.txt", "data.limit=0"], 2, "data.limit=0 must be at least 1"),
        (["data.path=a.txt", "data.limit=many"], 2, "data.corpus.limit must be int | null, but it is 'many'"),
        (["data.path=a.txt", "data.newlines=dos"], 2, "data.newlines=dos is unknown: choose universal"),
        (["data.path=a.txt", "data.val_path=a.t*"], 3, "a.txt is in data.val_path and in data.path"),
        (["data.path=a.txt", "data.batches=documents"], 2, "a.txt is one continuous text: add data.batches=windows"),
        (["data.path=a.txt", "data.colum=text"], 2, "did you mean data.column?"),
        (["data.path=b.gz"], 3, "b.gz is damaged or not what its name says"),
        (["data.path=z.txt", "data/tokenizer=word"], 3, "any word boundaries in 1,800 characters: add data/"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_leave_nothing(molino, tmp_path, monkeypatch, settings, status, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("n,text\n1,one\n2,two\n")
    (tmp_path / "a.txt").write_text("one two three " * 20)
    (tmp_path / "z.txt").write_text("那" * 2000)
    (tmp_path / "b.gz").write_text("no gzip")
    done = molino("train", "data=text", "model=bigram", "debug=fast", *settings, "paths.cache=cache", *CPU)
    assert (done.status, done.out) == (status, "") and says in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("written", "typed"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_a_prompt_meets_the_accents_of_its_corpus(molino, trained, places, tmp_path, tokenizer, written, typed):
    file = tmp_path / "a.txt"
    file.write_text(unicodedata.normalize(written, "¿Cómo está, señor?\n" * 40), "utf-8")
    size = ["data.tokenizer.size=280"] if tokenizer == "bpe" else []
    run, _ = trained("accents", f"data.path={file}", f"data/tokenizer={tokenizer}", *size)
    said = {}
    for form in (written, typed):
        prompt = unicodedata.normalize(form, "está, señor")
        done = molino("generate", f"run={run}", f"prompt={prompt}", "max_new_tokens=20", places[0], *CPU)
        assert done.status == 0 and done.out.startswith(prompt)
        said[form] = done.out.removeprefix(prompt), without_pace(done.err)
    assert said[written][0] == said[typed][0] and said[written][1] == ""
    assert said[typed][1].startswith("molino: read as the vocabulary knows it: ")
    for verb in ("explain", "data"):
        settings = (
            [f"run={run}"] if verb == "explain" else ["data=text", f"data.path={file}", f"data/tokenizer={tokenizer}"]
        )
        where = (places[0], *CPU) if verb == "explain" else (places[1], *size)
        done = molino(verb, *settings, f"prompt={unicodedata.normalize(typed, 'señor')}", *where)
        assert done.status == 0 and "read as the vocabulary knows it" in done.err and "not in the" not in done.err


def test_line_ends_are_told_of_and_met(molino, trained, places, tmp_path):
    text = "señor\r\nuno dos\r\n" * 60
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt").write_bytes(text.replace("\r\n", "\n").encode())
    run, said = trained("windows", f"data.path={tmp_path / 'a.txt'}")
    assert "\\r\\n 108 times: \\r is learnt like any other character; data.newlines=universal reads it as \\n" in said
    _, again = trained("windows", f"data.path={tmp_path / 'a.txt'}", "seed=1")
    assert "\\r\\n 108 times" in again  # from the cache
    assert load_checkpoint(run / BEST)["line_end"] == "\r\n"
    done = molino("generate", f"run={run}", "prompt='señor\nuno'", "max_new_tokens=1", places[0], *CPU)
    assert done.status == 0 and without_pace(done.err) == "molino: read as the vocabulary knows it: '\\n' as '\\r\\n'\n"
    universal, said = trained("universal", f"data.path={tmp_path / 'a.txt'}", "data.newlines=universal")
    plain, _ = trained("plain", f"data.path={tmp_path / 'b.txt'}")
    assert "\\r" not in said and losses(universal) == losses(plain) != losses(run)
    shown = molino("data", "data=text", f"data.path={tmp_path / 'a.txt'}", places[1])
    assert "line ends   \\r\\n 108 times" in shown.out and shown.err == ""


def test_a_checkpoint_of_before_says_nothing_of_line_ends(trained, tmp_path):
    (tmp_path / "a.txt").write_text("uno dos\n" * 60)
    run, _ = trained("before", f"data.path={tmp_path / 'a.txt'}")
    assert load_run(run, "best", torch.device("cpu")).line_end == "\n"
    copied = shutil.copytree(run, tmp_path / "run")
    content = load_checkpoint(run / BEST)
    torch.save({name: value for name, value in content.items() if name != "line_end"}, copied / BEST)
    assert load_run(copied, "best", torch.device("cpu")).line_end is None
