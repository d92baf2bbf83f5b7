"""What is typed, as a vocabulary knows it, against the forms that Unicode defines."""

import random
import unicodedata

import pytest

from molino.data.line_ends import LINE_ENDS
from molino.data.spelling import spelt
from molino.data.tokenizers import Tokenizer, train_bpe, train_char, train_whitespace, train_word

SPANISH = "Cómo está, señor? ¿Qué tal, año, Ñu? mejor así. "
KOREAN = "한국어 텍스트"


def nfc(text):
    return unicodedata.normalize("NFC", text)


def nfd(text):
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize("text", [SPANISH, KOREAN])
@pytest.mark.parametrize("make", [train_char, train_word, train_whitespace], ids=lambda make: make.__name__)
@pytest.mark.parametrize(("written", "typed"), [(nfc, nfd), (nfd, nfc), (nfc, nfc), (nfd, nfd)])
def test_accents_are_written_as_in_the_corpus(make, written, typed, text):
    tokenizer = make([written(text) * 3])
    found, changed = spelt(typed(text), tokenizer)
    assert found == written(text) and not tokenizer.unknown(found)
    assert bool(changed) == (typed(text) != written(text))
    assert all(new == written(old) and new in found for old, new in changed.items())


def test_bytes_are_written_in_the_form_of_fewer_tokens():
    tokenizer = train_bpe([nfd(SPANISH) * 50], size=350)
    few, many = (len(tokenizer.encode(form(SPANISH))) for form in (nfd, nfc))
    assert few < many
    assert spelt(nfc(SPANISH), tokenizer)[0] == spelt(nfd(SPANISH), tokenizer)[0] == nfd(SPANISH)
    assert spelt(nfd(SPANISH), tokenizer)[1] == {}
    # Bytes know everything: what only looks alike stays, and so does what takes as many tokens.
    for text in ("ﬁn Ａ…", "plain", "", "\ud800 ñ"):
        assert spelt(nfd(text), tokenizer) == (nfd(text), {})


def test_only_what_is_unknown_is_changed_and_only_into_what_is_known():
    tokenizer = train_char([nfc("señal de año") + nfd("cómo") + "fin a1."])
    assert spelt(nfc("señó"), tokenizer) == (nfc("señ") + nfd("ó"), {nfc("ó"): nfd("ó")})
    assert spelt(nfc("señal ü «x»"), tokenizer) == (nfc("señal ü «x»"), {})
    assert spelt("ﬁn\u00a0a\u2003①…", tokenizer) == (
        "fin a 1...",
        {"ﬁ": "fi", "\u00a0": " ", "\u2003": " ", "①": "1", "…": "..."},
    )
    assert spelt("“a” ‘1’", tokenizer) == ("“a” ‘1’", {})  # no form of Unicode makes them straight
    assert spelt("½", tokenizer) == ("½", {})  # 1, a slash that is not known, and 2


def test_words_that_are_known_stay():
    tokenizer = train_word([nfc("año señal ") + nfd("señor ")])
    typed = nfc("año señor camión, señal")
    assert spelt(typed, tokenizer) == (nfc("año ") + nfd("señor") + nfc(" camión, señal"), {nfc("ñ"): nfd("ñ")})


@pytest.mark.parametrize("end", LINE_ENDS)
@pytest.mark.parametrize("typed", LINE_ENDS)
@pytest.mark.parametrize("make", [train_char, lambda texts: train_bpe(texts, 300)], ids=["char", "bpe"])
def test_line_ends_are_those_of_the_corpus(make, end, typed):
    tokenizer = make([f"uno{end}dos{end}tres"])
    expected = f"uno{end}{end}dos"
    found = spelt(f"uno{typed}{typed}dos", tokenizer, end)
    assert found == (expected, {typed: end} if typed != end else {})


def test_line_ends_of_which_nothing_is_known_are_changed_where_they_are_unknown():
    unix, old, windows = (train_char([f"uno{end}dos"]) for end in ("\n", "\r", "\r\n"))
    assert spelt("uno\r\ndos\rno\n", unix)[0] == "uno\ndos\nno\n"
    assert spelt("uno\r\ndos\n", old)[0] == "uno\rdos\r"
    assert spelt("uno\ndos\r\n", windows) == ("uno\ndos\r\n", {})
    assert spelt("uno\ndos", train_char(["unodos"])) == ("uno\ndos", {})


def test_where_line_ends_are_white_space_nothing_is_said_of_them():
    assert spelt("uno\ndos", train_word(["uno\r\ndos"]), "\r\n") == ("uno\ndos", {})
    assert spelt("uno\r\ndos", train_whitespace(["uno\ndos"]), "\n") == ("uno\r\ndos", {})


def test_a_tokenizer_without_anything_for_what_is_unknown():
    backend = train_char(["abc"]).backend
    spec = backend.to_str().replace('"unk_token":"<unk>"', '"unk_token":"none"')
    tokenizer = Tokenizer(type(backend).from_str(spec.replace('"<unk>":0,', "")))
    assert spelt("abc", tokenizer) == ("abc", {})


def test_of_any_text_less_is_unknown_and_it_says_the_same():
    source = random.Random(0)
    alphabet = [*"aeounc .\n\r", *nfd("áñü"), *nfc("áñü"), "ﬁ", "Ａ", "①", "…", "\u00a0", "한", *nfd("한"), "”", "😀"]
    changes = 0
    for _ in range(300):
        corpus, text = ("".join(source.choices(alphabet, k=source.randrange(1, 40))) for _ in range(2))
        for make in (train_char, train_word):
            tokenizer = make([corpus + " a"])
            found, changed = spelt(text, tokenizer)
            assert len(tokenizer.unknown(found)) <= len(tokenizer.unknown(text))
            assert bool(changed) == (found != text) and (changed == {} or tokenizer.unknown(text))
            plain = [
                unicodedata.normalize("NFKD", each.replace("\r\n", "\n").replace("\r", "\n")) for each in (found, text)
            ]
            assert plain[0] == plain[1]
            changes += found != text
    assert changes > 50
