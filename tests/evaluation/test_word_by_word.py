"""IBM's model 1 against an EM that is written down as it is told, and what it comes to on Multi30k."""

import random
import time
from collections import defaultdict

import numpy as np
import pytest
from published_texts import multi30k

from molino.evaluation.word_by_word import Dictionary, fit, joined, translate
from molino.evaluation.written import bleu

BOOKS = (["das Haus", "das Buch", "ein Buch"], ["the house", "the book", "a book"])


def slowly(sources: list[str], targets: list[str], iterations: int) -> dict[tuple[str, str], float]:
    """How likely the second word is, given the first, with a loop for everything."""
    pairs = [(source.split(), target.split()) for source, target in zip(sources, targets, strict=True)]
    p = defaultdict(lambda: 1.0)
    for _ in range(iterations):
        count, total = defaultdict(float), defaultdict(float)
        for source, target in pairs:
            for e in target:
                whole = sum(p[f, e] for f in source)
                for f in source:
                    count[f, e] += p[f, e] / whole
                    total[f] += p[f, e] / whole
        p = {(f, e): value / total[f] for (f, e), value in count.items()}
    return dict(p)


def likelihoods(found: Dictionary) -> dict[tuple[str, str], float]:
    pairs = zip(found.source_P, found.target_P, found.p_P, strict=True)
    return {(found.sources[source], found.targets[target]): p for source, target, p in pairs}


def made_up(count: int, seed: int) -> tuple[list[str], list[str]]:
    """Sentences of words, some of them more than once in one, and translations of other lengths."""
    chance = random.Random(seed)
    sides = [[f"{letter}{number}" for number in range(12)] for letter in "fe"]
    return tuple([" ".join(chance.choices(side, k=chance.randint(1, 7))) for _ in range(count)] for side in sides)


@pytest.mark.parametrize("iterations", [1, 2, 5, 30])
@pytest.mark.parametrize("texts", [BOOKS, made_up(50, 0), made_up(3, 1)], ids=["books", "many", "few"])
def test_it_is_the_slow_one(texts, iterations):
    assert likelihoods(fit(*texts, iterations)) == pytest.approx(slowly(*texts, iterations), rel=1e-9)


def test_the_book_is_found_by_what_stands_beside_it():
    once = likelihoods(fit(*BOOKS, iterations=1))
    assert once["das", "the"] == 0.5 and once["das", "house"] == 0.25 and once["Haus", "the"] == 0.5
    assert fit(*BOOKS).likeliest() == {"das": "the", "Haus": "house", "Buch": "book", "ein": "a"}


def test_of_equally_likely_words_the_first_is_taken():
    assert fit(["f g"], ["second first"]).likeliest() == {"f": "second", "g": "second"}


@pytest.mark.parametrize("texts", [([], []), (["", "f"], ["e", ""])])
def test_where_nothing_meets_all_is_copied(texts):
    found = fit(*texts)
    assert found.likeliest() == {} and translate("f, e", found.likeliest()) == "f, e"


def test_an_empty_side_changes_nothing():
    more = (["", "ein", *BOOKS[0]], ["a", "", *BOOKS[1]])
    assert likelihoods(fit(*more)) == likelihoods(fit(*BOOKS))


def test_what_goes_beyond_the_room_is_left_out():
    assert likelihoods(fit(*BOOKS, room=11)) == likelihoods(fit(BOOKS[0][:2], BOOKS[1][:2]))
    assert fit(*BOOKS, room=12).likeliest() == fit(*BOOKS).likeliest()


def test_words_are_written_one_by_one_and_unknown_ones_copied():
    likeliest = {"das": "the", "Haus": "house", "(": "(", "ist": "is"}
    assert translate("Wo ist das Haus?", likeliest) == "Wo is the house?"
    assert translate("  das(Haus),   \n das !", likeliest) == "the (house), the!"
    assert translate("", likeliest) == ""


@pytest.mark.parametrize(
    "text", ["A man, a dog; a cat!", "¿Qué es (más o menos) esto?", "«Sí», dijo: ¡ven!", "10% [or less]…"]
)
def test_spaces_stand_where_one_writes_them(text):
    spaced = "".join(each if each.isalnum() or each == " " else f" {each} " for each in text)
    assert joined(spaced.split()) == text


def test_multi30k_is_translated_in_seconds(mirror):
    pytest.importorskip("sacrebleu")
    began = time.process_time()
    likeliest = fit(*multi30k(mirror, "train")).likeliest()
    seconds = time.process_time() - began
    german, english = multi30k(mirror, "val")
    told = [translate(text, likeliest) for text in german]
    reached = bleu(told, [[text] for text in english])
    print(f"BLEU {reached:.2f}, {seconds:.1f} s")
    assert reached == pytest.approx(26.66, abs=0.05)
    assert seconds < 30
    assert likeliest["Hund"] == "dog" and likeliest["Ein"] == "A" and likeliest["."] == "."


def test_the_same_texts_have_the_same_dictionary():
    one, other = (fit(*made_up(200, 5)) for _ in range(2))
    assert (one.p_P == other.p_P).all() and one.likeliest() == other.likeliest()
    assert np.bincount(one.source_P, one.p_P) == pytest.approx(np.ones(len(one.sources)))
