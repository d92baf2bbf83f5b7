"""Characters are counted exactly, wherever a text is cut, and the odd ones have a name and a word of explanation."""

import unicodedata
from collections import Counter

import numpy as np
import pytest
from conftest import small_text

from molino.data import tokenizers
from molino.data.text import FileText
from molino.inspection import characters

# One of each kind of character that deserves a word.
ODD = "uno\r\ncafe\u0301 nin\u0303o\u00a0x\u200by\u00adz\ufeff \ue000\ufffd\x96\x00\x0c\u2028\u0378 fin\n"


@pytest.mark.parametrize(
    "texts", [[small_text(3, 5000) + ODD], [small_text(n, 3) for n in range(50)], ["x"], [" \r", "\n"]]
)
def test_characters_words_and_line_ends(texts):
    found = characters.survey(texts)
    counted = Counter("".join(texts))
    assert {chr(code): found.counts[code] for code in np.flatnonzero(found.counts)} == counted
    assert found.distinct == len(counted)
    assert found.words == sum(len(text.split()) for text in texts)
    assert found.line_ends == sum(text.count("\r\n") for text in texts)
    assert sum(found.accented.values()) == sum(count for c, count in counted.items() if unicodedata.combining(c))
    ranked = found.most_frequent(5)
    assert [count for _, count in ranked] == [count for _, count in counted.most_common(5)]


def test_pieces_of_a_file_count_as_its_whole(tmp_path, monkeypatch):
    # Wherever a piece ends: between \r and \n, letter and accent, in a word, in a character of several bytes.
    text = ("uno\r\ndos cafe\u0301 " * 40)[:-3]
    path = tmp_path / "own.txt"
    path.write_bytes(text.encode())
    whole = characters.survey([text])
    for size in (1, 2, 3, 7):
        monkeypatch.setattr("molino.data.text.CHUNK_BYTES", size)
        found = characters.survey([FileText(path)])
        assert (found.words, found.line_ends, found.accented) == (whole.words, whole.line_ends, whole.accented)
        assert (found.counts == whole.counts).all()


def test_control_characters_have_their_names():
    for code, name in characters.CONTROL_NAMES.items():
        assert unicodedata.lookup(name) == chr(code)
        assert unicodedata.category(chr(code)) == "Cc"
    assert len(characters.CONTROL_NAMES) == 65


def test_unusual_characters_are_named_and_explained():
    found = {
        each.character: each for each in characters.unusual(characters.survey([ODD]), tokenizers.train_char([ODD]))
    }
    says = {
        "\r": ("CARRIAGE RETURN", r"1 of 2 line ends are \r\n: \r is a token of its own"),
        "\u0301": ("COMBINING ACUTE ACCENT", "é typed as one character does not meet them"),
        "\u0303": ("COMBINING TILDE", "ñ typed as one character"),
        "\u00a0": ("NO-BREAK SPACE", "looks like a space"),
        "\u200b": ("ZERO WIDTH SPACE", "not to be seen"),
        "\u00ad": ("SOFT HYPHEN", "a hyphen"),
        "\ufeff": ("ZERO WIDTH NO-BREAK SPACE", "a byte order mark inside the text"),
        "\ue000": ("PRIVATE USE", "a font of its own"),
        "\ufffd": ("REPLACEMENT CHARACTER", "decoded wrongly"),
        "\x96": ("START OF GUARDED AREA", "probably – of cp1252"),
        "\x00": ("NULL", "another encoding"),
        "\x0c": ("FORM FEED", "a page break"),
        "\u2028": ("LINE SEPARATOR", "no \\n"),
        "\u0378": ("NOT ASSIGNED", "no character of Unicode"),
    }
    assert found.keys() == says.keys()
    for character, (name, remark) in says.items():
        assert found[character].name == name and remark in found[character].remark
        assert found[character].count == ODD.count(character)


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("a\r\nb\r\n" * 9, r"line ends are \r\n: \r is a token of its own"),
        ("a\rb\r", r"lines end with \r alone: convert them to \n"),
        ("a\rb\n", r"lines end with \r here and \n there"),
    ],
)
def test_carriage_returns(text, remark):
    (each,) = characters.unusual(characters.survey([text]), tokenizers.train_char([text]))
    assert each.remark == remark
    (each,) = characters.unusual(characters.survey([text]), tokenizers.train_word([text]))
    assert each.remark == "the tokenizer drops it"


def test_both_spellings_of_an_accent_are_noticed():
    text = "café cafe\u0301"
    (each,) = characters.unusual(characters.survey([text]), tokenizers.train_char([text]))
    assert each.remark.endswith("does not meet them, and the text has é so too")


def test_vowel_signs_and_tabs_are_not_odd():
    text = "हिन्दी भाषा\tשָׁלוֹם\nالعَرَبِيَّة"
    assert characters.unusual(characters.survey([text]), tokenizers.train_char([text])) == []
