"""Pieces that have the ids of the whole, by the library itself; and what is cut where there is no such place."""

import random
import tracemalloc

import pytest
import tokenizers

from molino.data import cuts
from molino.data import tokenizers as ours
from molino.data.cuts import cut

AWKWARD = [
    *"ab1²½一我éßﬁ'sS_.,;-/ \t\n\r\f\v\u3000\xa0\x1c\u2028\u200b。，「」！’",
    "'s",
    "  ",
    "\r\n",
    "字",
    "ไทย",
    "\u0301",
    "😀",
    "ꟊ",
]
SPLITTER = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)


def words(text: str) -> list[str]:
    return [word for word, _ in SPLITTER.pre_tokenize_str(text)]


@pytest.mark.parametrize("seed", range(40))
def test_a_piece_has_the_words_of_the_whole(seed):
    draw = random.Random(seed)
    text = "".join(draw.choices(AWKWARD, k=3000))
    pieces = [piece for piece, _ in cut(text, draw.choice([1, 10, 100]))]
    assert "".join(pieces) == text and len(pieces) > 10
    assert [word for piece in pieces for word in words(piece)] == words(text)


@pytest.mark.parametrize("seed", range(20))
def test_so_it_has_where_kinds_of_characters_meet(seed, monkeypatch):
    """Stretches that begin at once, and that are cut at no other place."""
    monkeypatch.setattr(cuts, "LONGEST", 5)
    monkeypatch.setattr(cuts, "SHORT", 1)
    draw = random.Random(seed)
    text = "".join(draw.choices(AWKWARD, k=400))
    at = 0
    for piece, _ in cut(text, 2):
        at += len(piece)
        if cuts.KINDS.fullmatch(text, at - 1, at + 1) or cuts.SPACE.fullmatch(text, at - 1, at + 1):
            assert words(text[:at]) + words(text[at:]) == words(text), (text[at - 5 : at], text[at : at + 5])
    assert at == len(text)


def test_a_stretch_without_white_space_is_cut_whatever_it_is(monkeypatch):
    monkeypatch.setattr(cuts, "LONGEST", 1000)
    monkeypatch.setattr(cuts, "SHORT", 50)
    before, behind = "so it was. " * 30, " and so on" * 30
    for stretch in ("字" * 5000, "我说，你说。" * 900, "a" * 1500, "=" * 3000, "ab12" * 2000, " " * 4000):
        found = list(cut(before + stretch + behind, 100))
        assert "".join(piece for piece, _ in found) == before + stretch + behind
        inside = [piece for piece, within in found if within]
        assert max(map(len, inside)) <= 100 and len("".join(inside)) >= len(stretch) - 1
        # What is not of it is not told to be.
        assert found[0] == (before[: len(found[0][0])], False) and not found[-1][1]
    # One character fewer is none.
    assert not any(within for _, within in cut("字" * 1100, 100)) and any(within for _, within in cut("字" * 1101, 100))


def test_how_a_text_comes_makes_no_difference(monkeypatch):
    monkeypatch.setattr(cuts, "LONGEST", 300)
    monkeypatch.setattr(cuts, "SHORT", 20)
    text = "so it was. " * 30 + "字" * 1000 + "。「" * 300 + " and so on" * 30 + "b" * 301
    whole = list(cut(text, 50))
    for length in (1, 7, 299, 5000):
        assert list(cut([text[at : at + length] for at in range(0, len(text), length)], 50)) == whole


def test_what_is_learnt_of_stretches_is_bounded(monkeypatch):
    monkeypatch.setattr(ours, "MOST_UNSPACED", 20_000)
    draw = random.Random(0)
    early, late = ("".join(draw.choices(letters, k=80_000)) for letters in ("abcd", "wxyz"))
    spaced = "so it was " * 10_000
    tokens = set(ours.train_bpe([early, late, spaced], 400).backend.get_vocab())
    assert any(set(token) <= set("abcd") for token in tokens if len(token) > 1) and "Ġwas" in tokens
    assert not any(set(token) <= set("wxyz") for token in tokens if len(token) > 1)
    # What white space parts is learnt from wherever it stands, and to the end.
    assert ours.train_bpe([spaced], 300).json() == ours.train_bpe([early[:0], spaced], 300).json()


def test_a_text_without_white_space_is_written_without_loss_in_little_memory():
    text = "".join(random.Random(0).choices("ACGT", k=1_000_000))
    tokenizer = ours.train_bpe([text[:100_000]], 300)
    tracemalloc.start()
    arrays = list(tokenizer.stream([text]))
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert max(map(len, arrays)) <= 2 * cuts.SHORT
    assert "".join(tokenizer.decode(array) for array in arrays) == text
