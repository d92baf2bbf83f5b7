"""The first sentences of a text, and its longest one."""

import pytest

from molino.evaluation.summaries import lead, longest_sentence, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        (
            "#A#: Hi. How are you?\n#B#: Fine\n\n  #A#: 3.5 miles?! ",
            ["#A#: Hi.", "How are you?", "#B#: Fine", "#A#: 3.5 miles?!"],
        ),
        ("windows\r\nlines", ["windows", "lines"]),
        ("Wait... what?No", ["Wait...", "what?No"]),
        ("\n \n", []),
        ("", []),
    ],
)
def test_lines_and_sentences_end(text, expected):
    assert sentences(text) == expected


def test_the_lead_is_the_first_three():
    assert lead("One. Two!\nThree? Four.") == "One. Two! Three?"
    assert lead("One. Two!\nThree? Four.", 1) == "One."
    assert lead("One") == "One" and lead("") == ""


def test_the_longest_has_most_words_and_is_the_first_of_several():
    assert longest_sentence("Incomprehensibilities. a b c. d e f. g h") == "a b c."
    assert longest_sentence("") == ""
