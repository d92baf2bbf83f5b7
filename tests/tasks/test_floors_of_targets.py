"""The floors of what is written, and what they come to on published texts."""

import pytest
from published_texts import dialogsum, multi30k, xquad

from molino.base.errors import ConfigError, DataError
from molino.evaluation.written import metrics_of, scores_of
from molino.tasks.floors_of_targets import Texts, floors_of_targets

TRAIN = Texts(["das Haus", "das Buch", "ein Buch"], [["the house"], ["the book", "the book"], ["a book"]])


def by_tag(kind: str, train: Texts, held: Texts, language: str = "en") -> dict:
    floors = floors_of_targets(kind, train, held, language)
    names = [metric.name for metric in metrics_of(kind)]
    for floor in floors:
        assert list(floor.levels) == names and floor.value == floor.levels[names[0]]
        assert floor.title == f"{floor.brief} floor"
    return {floor.tag: floor.levels for floor in floors}


def test_a_translation_has_to_beat_a_copy_the_most_frequent_one_and_a_dictionary():
    held = Texts(["ein Haus", "das Buch Otto"], [["a house"], ["the book Otto", "that book"]])
    found = by_tag("translation", TRAIN, held)
    assert list(found) == ["floor/copy", "floor/frequent", "floor/word_by_word"]
    assert found["floor/copy"] == scores_of("translation", held.sources, held.targets)
    assert found["floor/frequent"] == scores_of("translation", ["the book"] * 2, held.targets)
    assert found["floor/word_by_word"] == scores_of("translation", ["a house", "the book Otto"], held.targets)


def test_a_dictionary_is_made_of_all_references():
    train = Texts(["Katze", "Katze"], [["a", "cat"], ["b", "cat"]])
    found = by_tag("translation", train, Texts(["Katze Otto"], [["cat Otto"]]))
    assert found["floor/word_by_word"]["chrf"] == pytest.approx(100)
    assert found["floor/frequent"]["chrf"] < 100


def test_answers_without_contexts_have_no_spans():
    held = Texts(["2 + 2", "4"], [["the book"], ["4"]])
    assert by_tag("answer", TRAIN, held) == {
        "floor/copy": {"f1": 50, "exact_match": 50},
        "floor/frequent": {"f1": 50, "exact_match": 50},
    }


def test_an_answer_is_sought_in_its_own_context():
    questions, contexts = ["¿Quién come?", "¿Quién duerme?"], ["Duerme uno. Come el gato.", "Ana duerme. Come uno."]
    held = Texts(questions, [["come gato"], ["Ana duerme"]], contexts)
    found = by_tag("answer", held, held, "es")
    assert list(found) == ["floor/common_words", "floor/random"]
    assert found["floor/common_words"] == {"f1": 100, "exact_match": 100}
    # The article of another language is a word.
    assert by_tag("answer", held, held, "en")["floor/common_words"] == pytest.approx({"f1": 90, "exact_match": 50})


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ConfigError) as refused:
        floors_of_targets("bleu", TRAIN, TRAIN)
    assert str(refused.value) == "task.score=bleu is not a score. Known here: answer, summary, translation"
    with pytest.raises(DataError) as refused:
        floors_of_targets("translation", TRAIN, TRAIN._replace(targets=[["a"], [], ["b"]]))
    assert str(refused.value) == "example 1 (from 0 on) has no reference to be compared with"


def test_floors_of_multi30k(mirror):
    train, held = (
        Texts(german, [[text] for text in english])
        for german, english in (multi30k(mirror, split) for split in ("train", "test_2016_flickr"))
    )
    found = by_tag("translation", train, held)
    print(found)
    assert {tag: levels["bleu"] for tag, levels in found.items()} == pytest.approx(
        {"floor/copy": 0.48, "floor/frequent": 0.44, "floor/word_by_word": 27.86}, abs=0.05
    )


def test_floors_of_dialogsum(mirror):
    held = Texts(*dialogsum(mirror))
    found = by_tag("summary", Texts([], []), held)
    print(found)
    assert list(found) == ["floor/lead3", "floor/longest"]
    assert found["floor/lead3"] == pytest.approx({"rouge1": 32.44, "rouge2": 10.04, "rougeL": 25.83}, abs=0.05)
    assert found["floor/longest"] == pytest.approx({"rouge1": 26.60, "rouge2": 8.53, "rougeL": 22.45}, abs=0.05)


@pytest.mark.parametrize(("language", "common", "random"), [("en", 15.30, 3.55), ("es", 15.68, 5.31)])
def test_floors_of_xquad(mirror, language, common, random):
    questions, contexts, answers = xquad(mirror, language)
    assert len(questions) == 1190
    held = Texts(questions, answers, contexts)
    found = by_tag("answer", held, held, language)
    print(found)
    assert found["floor/common_words"]["f1"] == pytest.approx(common, abs=0.01)
    assert found["floor/random"]["f1"] == pytest.approx(random, abs=0.01)
