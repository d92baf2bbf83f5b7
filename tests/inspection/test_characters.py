"""Characters and words, counted in pieces as by Python itself in one go; and those that are not what they seem."""

import random
from collections import Counter

import pytest

from molino.data.text import FileText
from molino.inspection.characters import count_characters, count_words, name_of, unusual

ALPHABET = "ab \n\r\té\u0301\u00a0\u200b\ufeff\ufffd\x00\x1b\ue000字🙂\u2028\U000e0001"


@pytest.mark.parametrize("size", [0, 1, 1000, 2_200_000])
def test_counts_are_those_of_a_counter(size, tmp_path):
    text = "".join(random.Random(size).choices(ALPHABET, k=size))
    (tmp_path / "text.txt").write_bytes(text.encode("utf-8"))
    texts = [text, FileText(tmp_path / "text.txt", "utf-8")] if size and text[0] != "\ufeff" else [text]
    counts = count_characters(texts)
    assert counts == {c: len(texts) * n for c, n in Counter(text).items()}
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert count_words(texts) == len(texts) * len(text.split())


def test_half_a_character_is_counted_too():
    assert count_characters(["a\ud800a"]) == {"a": 2, "\ud800": 1}


def test_words_over_the_borders_of_pieces():
    class Pieces(list):
        """A text in pieces, as one that is larger than memory."""

    assert count_words([Pieces(["one tw", "o", " three", "", " ", "four ", " five", "s"])]) == 5


def test_what_is_not_what_it_seems():
    found = {
        each.character: each for each in unusual(Counter("a b\nc\r\n\tñn\u0303\u00a0\u200b\ufeff\ufffd\x1b\ue000字"))
    }
    assert set(found) == set("\r\t\u0303\u00a0\u200b\ufeff\ufffd\x1b\ue000")
    assert [found[c].name for c in "\r\u0303\u00a0\x1b"] == [
        "CARRIAGE RETURN", "COMBINING TILDE", "NO-BREAK SPACE", "ESCAPE"
    ]  # fmt: skip
    assert found["\u00a0"].code == "U+00A0" and found["\r"].count == 1
    assert "looks like a space" in found["\u00a0"].remark and "\\r\\n" in found["\r"].remark
    assert name_of("\ue000") == "without a name" and name_of("字") == "CJK UNIFIED IDEOGRAPH-5B57"
