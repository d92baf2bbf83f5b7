"""molino data: what it says of a corpus, against counts by Python itself."""

import re
from collections import Counter

import numpy as np
import pytest
from conftest import small_text

from molino.data.tokenizers import Tokenizer

TEXT = small_text(7, 300).replace("\n", "\r\n") + "uno\u00a0dos n\u0303"


@pytest.fixture
def look(molino, tmp_path):
    """Look at a text of one's own."""
    (tmp_path / "text.txt").write_bytes(TEXT.encode("utf-8"))

    def run(*settings, data=("data=text", f"data.path={tmp_path / 'text.txt'}")):
        done = molino("data", *data, f"paths.cache={tmp_path / 'cache'}", *settings)
        assert done.status == 0, done.err
        return done.out

    return run


def cells(out, first):
    """The cells of the row that begins so."""
    return next(re.split(r"\s{2,}", line.strip()) for line in out.splitlines() if line.split()[:1] == [first])


def test_counts_of_characters(look):
    out = look("top=3")
    train, val = TEXT[: int(0.9 * len(TEXT))], TEXT[int(0.9 * len(TEXT)) :]
    for name, part in (("train", train), ("val", val)):
        row = cells(out, name)
        sizes = [1, len(part), len(part.encode()), len(part.split()), len(part)]
        assert row[1:6] == [f"{size:,}" for size in sizes]
        assert row[6] == f"{len(part) / len(part.split()):.2f}"
    assert f"characters: {len(set(train)):,} distinct" in out
    (most, times), *_ = Counter(train).most_common(1)
    assert re.search(rf"{re.escape(repr(most))}\s+U\+{ord(most):04X}\s+{times:,}\s", out)
    assert re.search(rf"U\+000D\s+CARRIAGE RETURN\s+{train.count(chr(13))}\s+line ends are", out)
    assert "its first lines" in out and TEXT.split("\r\n")[0][:40] in out
    assert "next: " in out and "train data=text data.path=" in out


@pytest.mark.parametrize("kind", ["char", "word", "whitespace", "bpe"])
def test_counts_of_tokens(look, tmp_path, kind):
    size = ["data.tokenizer.size=300"] if kind == "bpe" else []
    out = look(f"data/tokenizer={kind}", *size, "top=1", "prompt=En un lugar")
    (file,) = (tmp_path / "cache" / "tokenizers").glob("*.json")
    tokenizer = Tokenizer.load(file)
    (tokens,) = (tmp_path / "cache" / "tokens").glob("*/train.npy")
    counts = Counter(np.load(tokens).tolist())
    id, times = min(counts.items(), key=lambda item: (-item[1], item[0]))
    assert re.search(rf"^ *{id}\s+\S.*?\s{times:,}\s", out, re.MULTILINE), out
    absent = tokenizer.size - len(counts)
    assert f"vocabulary: {tokenizer.size:,} tokens" + (f", {absent:,} never in train" if absent else "") in out
    ids = tokenizer.encode("En un lugar").tolist()
    assert f"a text as {len(ids)} tokens" in out and " ".join(map(str, ids)) in out
    assert ("yes, exactly" in out) == (tokenizer.decode(ids) == "En un lugar")


def test_the_batch_is_that_of_the_first_step(look, tmp_path, molino):
    out = look("data.batch_size=2", "data.block_size=6", "seed=3")
    lines = [line.split() for line in out.splitlines() if re.match(r" *[01] (tokens|targets) ", line)]
    assert [line[:2] for line in lines] == [["0", "tokens"], ["0", "targets"], ["1", "tokens"], ["1", "targets"]]
    # What is to be foretold is what is read one further on.
    text = [
        re.findall(r"'(?:\\.|[^'\\])+'", line) for line in out.splitlines() if re.match(r" *0 (tokens|targets) ", line)
    ]
    assert len(text[0]) == 6 and text[0][1:] == text[1][:-1]
    assert "".join(each[1:-1] for each in text[0]).encode().decode("unicode_escape").encode("latin-1").decode() in TEXT
    other = look("data.batch_size=2", "data.block_size=6", "seed=4")
    assert other != out


def test_documents_are_padded_and_counted(look, tiny_documents, tmp_path):
    settings = ("data.batches=documents", "data.batch_size=4", "data.block_size=64", f"to={tmp_path / 'picture.svg'}")
    out = look(*settings, data=("data=text", f"data.path={tiny_documents.file}"))
    assert cells(out, "train")[1] == "36" and re.search(r"<pad> is \d+\.\d% of what it reads", out)
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
    (tmp_path / "short").mkdir()
    for number in range(20):
        (tmp_path / "short" / f"{number}.txt").write_text("ab")
    out = look(*settings[:3], data=("data=text", f"data.path={tmp_path / 'short'}"))
    # Before and after a document stands <|endoftext|>; what pads it does not count.
    assert re.search(r"0 tokens +'<\|endoftext\|>' +'a' +'b' +'<\|endoftext\|>' +'<pad>' +'<pad>'", out), out
    assert re.search(r"0 targets +'a' +'b' +'<\|endoftext\|>' +- ", out) and "<pad> is 93.8% of" in out, out


def test_the_quijote(molino, mirror, tmp_path):
    done = molino(
        "data", "data=quijote", f"paths.mirror={mirror}", f"paths.cache={tmp_path}", f"to={tmp_path / 'q.png'}"
    )
    assert done.status == 0, done.err
    assert re.search(r"U\+0301\s+COMBINING ACUTE ACCENT\s+16,788\s+stands behind its letter", done.out)
    assert "En un lugar de la Mancha, de cuyo nombre" in done.out and "934,557" in done.out
    assert (tmp_path / "q.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("settings", "status", "says"),
    [
        (("top=0",), 2, "and top 1 or more"),
        (("lines=-1",), 2, "lines=-1"),
        (("to=picture",), 2, "to=picture is no picture: let it end in .png, .svg, .pdf"),
        (("to={here}/text.txt.png",), 2, "exists: choose another name, nothing is overwritten"),
        (("data.block_size=100000",), 3, "one window needs data.block_size + 1"),
        (("model=gpt",), 2, "model"),
        (("promt=3",), 2, "promt is not a setting; did you mean prompt?"),
        (("data.path=/nowhere/x.txt",), 3, "/nowhere/x.txt"),
    ],
)
def test_mistakes_are_one_line(molino, tmp_path, settings, status, says):
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "text.txt.png").touch()
    data = () if any("data.path" in each for each in settings) else (f"data.path={tmp_path / 'text.txt'}",)
    settings = [each.format(here=tmp_path) for each in settings]
    done = molino("data", "data=text", *data, f"paths.cache={tmp_path / 'cache'}", *settings)
    assert done.status == status and says in done.err and done.err.count("\n") == 1, done.err


def test_without_matplotlib(molino, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    done = molino(
        "data", "data=text", f"data.path={tiny.file}", f"paths.cache={tiny.cache}", f"to={tmp_path / 'p.png'}"
    )
    assert (done.status, done.err) == (5, "molino: pictures need matplotlib: pip install matplotlib\n")
