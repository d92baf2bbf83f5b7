"""What tokens lose of a text, against counts by hand."""

import functools
from pathlib import Path

import pytest

from molino.data.corpora.local import UserText
from molino.data.corpus import digest
from molino.data.lost import lost_of
from molino.data.tokenizers import train_bpe, train_char, train_whitespace, train_word
from molino.data.tokens import prepare

TRAIN = "the Mill turns and the mill turns\nand the Mill  turns " * 40


class Texts:
    name, licence, documents = "texts", "none", True

    def __init__(self, splits: dict[str, list[str]]):
        self.splits = splits

    def fingerprint(self) -> str:
        return digest(self.splits)

    def read(self) -> dict[str, list[str]]:
        return self.splits


def lost(tmp_path: Path, heldout: str, train) -> dict[str, float]:
    (tmp_path / "text.txt").write_text(TRAIN + heldout, "utf-8")
    fraction = (len(TRAIN) + 0.5) / (len(TRAIN) + len(heldout))
    corpus = UserText(str(tmp_path / "text.txt"), train_fraction=fraction)
    return lost_of(prepare(corpus, train, tmp_path / "cache"), "val")


@pytest.mark.parametrize("train", [functools.partial(train_char), functools.partial(train_bpe, size=280)])
def test_what_comes_back_is_not_lost(tmp_path, train):
    assert lost(tmp_path, "the Mill  turns\nand turns", train) == {}


def test_of_empty_texts_nothing_is_lost(tmp_path):
    corpus = Texts({"train": [TRAIN], "val": ["", ""]})
    assert lost_of(prepare(corpus, functools.partial(train_word), tmp_path / "cache"), "val") == {}


def test_words_lose_capitals_and_white_space(tmp_path):
    """One capital of a known word, a line end and the second of two spaces; of six words one is unknown, capital and
    all."""
    heldout = "the Mill turns\nand  the Windmill "
    found = lost(tmp_path, heldout, functools.partial(train_word))
    assert found == pytest.approx({"unknown": 1 / 6, "case": 1 / len(heldout), "white_space": 2 / len(heldout)})


def test_words_as_they_stand_keep_capitals_and_line_ends(tmp_path):
    found = lost(tmp_path, "the Mill turns\nand wind ", functools.partial(train_whitespace))
    assert found == pytest.approx({"unknown": 1 / 6})


def test_words_that_a_text_has_as_unknown_are_not_lost(tmp_path):
    """As in Penn Treebank; one more is lost here."""
    found = lost(tmp_path, "the <unk> mill <unk> and wind ", functools.partial(train_whitespace))
    assert found == pytest.approx({"unknown": 1 / 6})
    (tmp_path / "other").mkdir()
    assert lost(tmp_path / "other", "the <unk> mill ", functools.partial(train_whitespace)) == {}


def test_characters_that_training_never_saw_are_lost(tmp_path):
    assert lost(tmp_path, "the mill €", functools.partial(train_char)) == pytest.approx({"unknown": 1 / 10})
