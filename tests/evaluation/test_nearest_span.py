"""Answers that no one has understood."""

import collections

from molino.evaluation.nearest_span import LONGEST, common_words_answer, random_span

CONTEXT = "El molino es viejo. La casa de la colina, la más alta, es nueva.\nEl río es ancho."


def test_the_sentence_with_most_words_of_the_question_answers_it():
    assert common_words_answer("¿Es nueva la «casa»?", CONTEXT, "es") == "La casa de la colina, la más alta, es nueva."
    assert common_words_answer("¿Cómo de ancho es el RÍO?", CONTEXT, "es") == "El río es ancho."
    # Of several it is the first, and so it is where there are none.
    assert common_words_answer("es", CONTEXT, "es") == common_words_answer("why", CONTEXT) == "El molino es viejo."
    assert common_words_answer("why", "") == ""


def test_a_word_counts_once_and_articles_do_not():
    assert common_words_answer("the cat", "The the the. A cat.") == "A cat."
    assert common_words_answer("cat cat dog bird", "cat cat cat. A dog, a bird.") == "A dog, a bird."
    assert common_words_answer("¿Un gato?", "Un perro. Un «gato».", "es") == "Un «gato»."
    # Where they are words as others are, they count.
    assert common_words_answer("the cat", "The cats, the. A dog.", "es") == "The cats, the."


def test_a_random_span_is_words_of_the_context_as_they_stand():
    found = [random_span(CONTEXT, number) for number in range(2000)]
    assert found == [random_span(CONTEXT, number) for number in range(2000)]
    assert all(span in CONTEXT and span == span.strip() for span in found)
    lengths = collections.Counter(len(span.split()) for span in found)
    # All lengths are as likely, but those at the end of the context are cut.
    assert set(lengths) == set(range(1, LONGEST + 1)) and min(lengths.values()) > 2000 / LONGEST / 2
    starts = collections.Counter(CONTEXT.index(span) for span in found)
    assert {0, CONTEXT.index("ancho.")} <= set(starts)


def test_of_an_empty_context_it_is_nothing():
    assert random_span("", 0) == random_span(" \n", 1) == ""
    assert random_span(" one ", 7) == "one"
