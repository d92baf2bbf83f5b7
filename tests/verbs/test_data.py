"""molino data: what it counts, what it finds odd, and that its batch is the one that training draws."""

import re
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import small_text

from molino.data import tokenizers
from molino.data.batches import documents, draw_block, windows
from molino.data.tokens import Split
from molino.inspection import corpus
from molino.inspection.pictures import draw_corpus
from molino.models import IGNORE_INDEX
from molino.tasks.language_model import LanguageModel, next_tokens

KINDS = {
    "char": tokenizers.train_char,
    "word": tokenizers.train_word,
    "whitespace": tokenizers.train_whitespace,
    "bpe": lambda texts: tokenizers.train_bpe(texts, 280),
}


@pytest.fixture
def look(molino, tmp_path):
    """Look at a text of one's own."""

    def look(text, *settings):
        path = tmp_path / "own.txt"
        path.write_bytes(text.encode())
        places = (f"data.path={path}", f"paths.cache={tmp_path / 'cache'}", f"paths.outputs={tmp_path / 'outputs'}")
        return molino("data", "data=text", *places, *settings)

    return look


def fact(out, name):
    return re.search(rf"^ *{re.escape(name)} +(.*?) *$", out, re.MULTILINE)[1]


def split_of(ids, marks=None):
    ids = np.asarray(ids, np.uint16)
    return Split("train", ids, np.array(marks if marks is not None else [0, len(ids) - 1]), 1, 1, 0)


# --- what is counted --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary(kind, monkeypatch):
    monkeypatch.setattr(corpus, "CHUNK", 100)
    text = small_text(1, 500)
    tokenizer = KINDS[kind]([text])
    ids = tokenizer.encode(text)
    found = corpus.count_vocabulary(split_of(ids), tokenizer, top=4)
    counted = Counter(ids.tolist())
    assert {id: count for id, count in enumerate(found.counts_V.tolist()) if count} == counted
    ranked = sorted(counted, key=lambda id: (-counted[id], id))
    assert found.most == ranked[:4]
    assert found.least == sorted(counted, key=lambda id: (counted[id], id))[:4]
    assert found.once == list(counted.values()).count(1)
    assert {*found.never} == {*range(tokenizer.size)} - {*counted} - {0, 1, 2}


def test_padding_is_that_of_an_epoch():
    lengths = np.array([3, 9, 20, 4, 11])  # with the marks around them
    marks = np.concatenate([[0], np.cumsum(lengths - 1)])
    split = split_of(np.full(marks[-1] + 1, 5), marks)
    draw = next_tokens(documents(split, 10, seed=7, padding_id=1))
    assert corpus.padding(draw, ["tokens"], 5, 1) == np.maximum(10 - lengths, 0).sum() / 50


def test_lengths():
    tokenizer = tokenizers.train_whitespace(["uno dos cuatro\n"])
    split = split_of(tokenizer.encode("dos cuatro dos"))
    _, lengths, weights = corpus.lengths(split, corpus.count_tokens(split.tokens, tokenizer.size), tokenizer)
    assert sorted(zip(lengths.tolist(), weights.tolist(), strict=True)) == [(3, 2), (6, 1)]
    _, lengths, weights = corpus.lengths(split_of([2, 3, 3, 2, 4, 2], [0, 3, 5]), np.zeros(5), tokenizer)
    assert lengths.tolist() == [3, 2] and weights.tolist() == [1, 1]


def test_first_lines(monkeypatch):
    monkeypatch.setattr("molino.data.text.CHUNK_CHARACTERS", 7)
    texts = ["one\n\nthree\r\n" + "x" * 300, "other\nlast"]
    assert corpus.first_lines(texts, 9) == ["one", "", "three\r", "x" * 100 + "…", "other", "last"]
    assert corpus.first_lines(texts, 2) == ["one", ""]


# --- there and back ---------------------------------------------------------------------------------------------------


def test_where_a_text_does_not_come_back():
    assert corpus.difference("uno dos", "uno dos") is None
    assert corpus.difference("uno Dos", "uno dos") == (4, "Dos", "dos")
    assert corpus.difference("uno\r", "uno") == (3, "\r", "")


def test_rows_stand_under_one_another():
    rows = {"a": ["x", "\\n", "字", "y"], "b": ["long", "z", "w", "·"]}
    assert list(corpus.aligned(rows, 100)) == [(4, ["a  x    \\n 字 y", "b  long z  w  ·"])]
    groups = list(corpus.aligned(rows | {"side": ["1"]}, 13))
    assert [stop for stop, _ in groups] == [2, 4]
    assert groups[1][1] == ["a     字 y", "b     w  ·"]  # a field that is no row of tokens is told once


@pytest.mark.parametrize("kind", KINDS)
def test_every_tokenizer_is_shown(look, kind):
    text = small_text(0, 800)
    sizes = ("data.tokenizer.size=280",) if kind == "bpe" else ()
    done = look(text, f"data/tokenizer={kind}", *sizes, "prompt=¡señor! de la", "top=4", "data.block_size=8")
    assert (done.status, done.err) == (0, "")
    train = text[: int(0.9 * len(text))]
    tokenizer = KINDS[kind]([train])
    tokens = len(tokenizer.encode(train))
    words = len(train.split())
    assert re.search(rf"train +{len(train):,} +{len(train.encode()):,} +1 +{tokens:,}", done.out)
    assert f"vocabulary: {tokenizer.size:,} tokens" in done.out
    assert fact(done.out, "tokens a word") == f"{tokens / words:.2f} (of {words:,} words, parted by white space)"
    assert fact(done.out, "characters a token") == f"{len(train) / tokens:.2f}"
    assert fact(done.out, "bytes a token") == f"{len(train.encode()) / tokens:.2f}"
    ids = tokenizer.encode("¡señor! de la").tolist()
    assert fact(done.out, "id").split() == list(map(str, ids))
    assert ("it comes back as it was" in done.out) == (kind != "word")


def test_what_is_unknown_of_a_prompt(look):
    done = look(small_text(0, 400), "prompt=a€字")
    assert done.err == "molino: not in the vocabulary, read as <unk>: '€' '字'\n"
    assert "from character 1 on '€字' is '<unk><unk>'" in done.out


def test_a_prompt_that_a_tokenizer_drops_is_shown_so(look):
    done = look("uno dos: tres\n" * 50, "data/tokenizer=word", "prompt=:", "data.block_size=8")
    assert (done.status, done.err) == (0, "")
    assert "from character 0 on ':' is ''" in done.out


# --- the batch --------------------------------------------------------------------------------------------------------


def test_the_batch_is_that_of_step_0(look):
    text = small_text(5, 800)
    done = look(text, "seed=11", "data.block_size=20", "data.batch_size=6")
    train = text[: int(0.9 * len(text))]
    tokenizer = tokenizers.train_char([train])
    draw = next_tokens(windows(split_of(tokenizer.encode(train)), 20, seed=11, padding_id=1))
    # With as many micro-batches as there may be: the first is the same.
    fields = draw_block(draw, LanguageModel.parts, np.arange(1), 3, 6).fields
    shown = [line.split() for line in done.out.split("first batch")[1].splitlines() if "tokens  " in line][1:]
    targets = [line.split() for line in done.out.split("first batch")[1].splitlines() if "targets  " in line][1:]
    assert len(shown) == len(targets) == 3
    for row in range(3):
        for name, cells in {"tokens": shown[row], "targets": targets[row]}.items():
            expected = tokenizer.decode(fields[name][0, 0, row].numpy())
            assert cells[1:] == [repr(c)[1:-1].replace(" ", "␣") for c in expected]


def test_ignored_targets_are_marked():
    tokenizer = tokenizers.train_char(["ab"])
    fields = {
        "tokens": torch.tensor([[3, 4, 1]]), "targets": torch.tensor([[4, IGNORE_INDEX, IGNORE_INDEX]]),
        "swapped": torch.tensor([0.5]),
    }  # fmt: skip
    (row,) = corpus.batch_rows(fields, ("tokens",), tokenizer, count=3)
    assert row == {"tokens": ["a", "b", "<pad>"], "targets": ["b", "·", "·"], "swapped": ["0.5"]}


def test_documents(molino, tiny_documents):
    settings = ("data.batches=documents", "data.block_size=16", f"paths.cache={tiny_documents.cache}")
    done = molino("data", "data=text", f"data.path={tiny_documents.file}", *settings)
    assert (done.status, done.err) == (0, "")
    assert re.search(r"train +[\d,]+ +[\d,]+ +36 ", done.out) and re.search(r"val +[\d,]+ +[\d,]+ +4 ", done.out)
    lengths = np.array([len(small_text(number, 2)) + 2 for number in range(36)])
    share = np.maximum(16 - lengths, 0).sum() / (36 * 16)
    assert fact(done.out, "<pad> in training batches").startswith(f"{share:.2%}, ")


# --- the picture, and mistakes ----------------------------------------------------------------------------------------


def test_the_picture_holds_the_counts():
    counts = np.array([0, 8, 2, 4, 0, 2])
    left, right = draw_corpus("x", counts, "tokens", np.array([1, 2, 2, 3]), np.array([1, 1, 1, 1])).axes
    points, zipf = left.lines
    assert points.get_ydata().tolist() == [8, 4, 2, 2] and points.get_xdata().tolist() == [1, 2, 3, 4]
    assert zipf.get_ydata().sum() == pytest.approx(16) and zipf.get_ydata()[0] == pytest.approx(4 * zipf.get_ydata()[3])
    assert (left.get_xscale(), left.get_yscale()) == ("log", "log")
    assert [bar.get_height() for bar in right.patches] == [1, 2, 1]
    assert len(draw_corpus("x", counts, "tokens", np.array([1]), np.array([16])).axes) == 1


def test_a_picture_is_written_once(look, tmp_path):
    target = tmp_path / "pictures" / "own.png"
    done = look(small_text(0, 400), f"to={target}")
    assert done.status == 0, done.err
    assert target.read_bytes().startswith(b"\x89PNG") and f"picture: {target}" in done.out
    assert [path.name for path in target.parent.iterdir()] == ["own.png"]
    before = target.read_bytes()
    done = look(small_text(0, 400), f"to={target}")
    assert (done.status, done.err) == (2, f"molino: {target} exists: choose another name, nothing is overwritten\n")
    assert target.read_bytes() == before


def test_without_matplotlib_a_picture_is_refused_at_once(look, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert look(small_text(0, 400)).status == 0
    done = look(small_text(0, 400), f"to={tmp_path / 'own.png'}")
    assert (done.status, done.out) == (5, "")
    assert done.err == "molino: pictures need matplotlib: pip install matplotlib\n"


def test_nothing_is_made_but_the_cache(look, tmp_path):
    done = look(small_text(0, 400))
    assert done.status == 0, done.err
    assert {path.name for path in tmp_path.iterdir()} == {"own.txt", "cache"}
    # And the command to go on with is that of the same text.
    assert re.search(rf"next: \S*molino train data=text data.path={tmp_path / 'own.txt'} ", done.out)


def test_a_text_is_no_markup_and_commands_no_terminal(look):
    done = look("[red]x[/] \x1b[31m[/red]\n" * 50, "data.block_size=8", "prompt=[/] \x1b")
    assert done.status == 0, done.err
    assert "\x1b" not in done.out and r"[red]x[/] \x1b[31m[/red]" in done.out and "ESCAPE" in done.out


@pytest.mark.parametrize(
    ("settings", "status", "message"),
    [
        (("lines=0",), 2, "lines=0 is too small: choose 1 or more"),
        (("top=0",), 2, "top=0 is too small"),
        (("top=many",), 2, "top must be int"),
        (("prompt=",), 3, 'prompt="" is no text'),
        (("to=own.jpg",), 2, "to=own.jpg is no name of a picture: choose one that ends with .png"),
        (("seed=-1",), 2, "seed=-1 must be a whole number"),
        (("data.block_size=0",), 2, "data.block_size=0 must be at least 1"),
        (("data.block_size=100000",), 3, "lower data.block_size or use a longer text"),
        (("data.batches=lines",), 2, "data.batches=lines is unknown: choose windows or documents"),
        (("data.bloc_size=8",), 2, "did you mean data.block_size"),
        (("+model=gpt",), 2, "model is not a setting"),
        (("task.monitor=val/x",), 2, "monitor"),
        (("data.path=absent.txt",), 3, "data.path=absent.txt does not exist"),
    ],
)
def test_mistakes_end_in_one_line(look, settings, status, message):
    done = look(small_text(0, 400), *settings)
    assert (done.status, done.out) == (status, "")
    assert message in done.err and len(done.err.splitlines()) == 1


# --- a real corpus ----------------------------------------------------------------------------------------------------


def test_el_quijote(molino, mirror, tmp_path):
    text = (mirror / "raw" / "el_quijote" / "el_quijote.txt").read_bytes().decode()
    done = molino("data", "data=quijote", f"paths.mirror={mirror}", f"paths.cache={tmp_path}", "prompt=señor")
    assert done.status == 0, done.err
    train = text[: int(0.9 * len(text))]
    counted = Counter(train)
    assert f"characters of train: {len(counted)} distinct" in done.out
    assert re.search(r"train +934,557 ", done.out) and re.search(r"val +103,840 ", done.out)
    for character, name in {"\u0301": "ACUTE ACCENT", "\u0303": "TILDE", "\u0308": "DIAERESIS"}.items():
        row = rf"U\+{ord(character):04X} +COMBINING {name} +{counted[character]:,} +accents are decomposed: "
        assert re.search(row, done.out)
    assert f"{'␣':<3} SPACE" in done.out and f"{counted[' ']:,}" in done.out
    assert "'ñ'" in done.err and "from character 2 on" in done.out
