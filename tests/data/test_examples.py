"""Examples out of rows, against rows written out; and splits that no growth of a file changes."""

import random
import re
from collections import Counter

import pytest

from molino.base.errors import ConfigError, DataError
from molino.data.examples import Answer, Example, checked, examples_of, place_of, split_examples, texts_of


def made(*rows, classes=None, **columns):
    return examples_of(list(rows), {"text": "text", **columns}, "a.csv", classes or {})


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (" good ", "good"), (1, "1"), (1.0, "1"), (0, "0"), (0.5, "0.5"), (True, "true"), (False, "false"),
        ("", None), (None, None), ("1.0", "1.0"),
    ],
)  # fmt: skip
def test_a_label_is_text_whatever_it_was_kept_as(value, label):
    # The second row is there because a column that is empty in every row is refused.
    found, _ = made({"text": " a ", "label": value}, {"text": "b", "label": "x"}, label="label")
    assert found == Example("a", label=label)


def test_classes_are_renamed_by_what_stands_in_the_column():
    rows = [{"text": "a", "label": each} for each in (0, "1", 2.0, None)]
    found = made(*rows, label="label", classes={"0": "bad", "1": "good"})
    assert [each.label for each in found] == ["bad", "good", "2", None]


@pytest.mark.parametrize(
    ("value", "score"),
    [("4.5", 4.5), (3, 3.0), (" -1e3 ", -1000.0), ("", None), ("  ", None), (None, None), (0, 0.0), (0.0, 0.0)],
)
def test_a_score_is_a_number_or_nothing(value, score):
    found, _ = made({"text": "a", "s": value}, {"text": "b", "s": 1}, score="s")
    assert found.score == score and (score is None or isinstance(found.score, float))


@pytest.mark.parametrize("value", ["good", "4,5", "nan", "inf", True, float("nan"), [1]])
def test_what_is_no_number_is_no_score(value):
    with pytest.raises(DataError, match=r"a\.csv, example 2: the score .* is no number: .*columns\.score") as error:
        made({"text": "a", "s": 1}, {"text": "a", "s": value}, score="s")
    assert "\n" not in str(error.value)


def test_an_empty_second_text_is_still_a_text():
    """Every example has as many texts, or those behind it would be taken for its own."""
    found = made({"text": "a", "b": None}, {"text": None, "b": "c"}, pair="b")
    assert found == [Example("a", ""), Example("", "c")]
    assert texts_of({"train": found}) == {"train": ["a", "", "", "c"]}


CHOICES = [{"text": "tea", "name": "A"}, {"text": "1", "name": "B"}, {"text": "0", "name": "C"}]


@pytest.mark.parametrize(
    ("label", "named", "answer"),
    [
        ("B", True, 1), ("tea", True, 0), ("tea", False, 0), (2, False, 2),
        ("1", False, 1), ("0", False, 2),  # the text of a choice comes before its number
        (None, True, None), ("", False, None),
    ],
)  # fmt: skip
def test_an_answer_is_told_by_its_name_its_text_or_its_number(label, named, answer):
    names = {"choice_names": "of.name"} if named else {}
    rows = [{"text": "q", "of": CHOICES, "label": each} for each in (label, "tea")]
    found = made(*rows, choices="of.text", label="label", **names)
    assert found[0] == Example("q", None, ("tea", "1", "0"), answer=answer)
    assert found[0].texts == ("q", "tea", "1", "0")


def test_choices_may_be_columns():
    rows = [{"text": "q", "one": "x", "two": 5, "right": "two"}, {"text": "q", "one": "x", "two": "y", "right": "1"}]
    columns = {"choices": ["one", "two"], "label": "right"}
    assert [each.choices for each in made(*rows[1:], **columns)] == [("x", "y")]
    assert [each.answer for each in made(*rows[1:], **columns)] == [1]
    with pytest.raises(DataError, match=r"example 1: the label 'two' is none of its 2 choices"):
        made(*rows, **columns)


@pytest.mark.parametrize("label", ["D", "3", "-1", "²", "te"])
def test_an_answer_that_is_no_choice_is_one_line(label):
    with pytest.raises(DataError, match=r"example 1: the label '.*' is none of its 3 choices: .*columns\.choice_names"):
        made({"text": "q", "of": CHOICES, "label": label}, choices="of.text", label="label", choice_names="of.name")


@pytest.mark.parametrize("value", ["tea", ["tea"], []])
def test_choices_are_two_or_more(value):
    with pytest.raises(DataError, match=r"example 1: the choices must be a list of two or more"):
        made({"text": "q", "of": value}, choices="of")


def test_columns_that_make_no_examples():
    with pytest.raises(ConfigError, match=r"data\.columns\.lable is not a setting: columns are text, pair, choices"):
        made({"text": "a"}, lable="x")
    with pytest.raises(ConfigError, match=r"data\.columns\.text names no column"):
        examples_of([{"text": "a"}], {"text": None, "label": "text"}, "a.csv", {})
    with pytest.raises(DataError, match=r"data\.columns\.label=lable is no column of a\.csv; did you mean label\?"):
        made({"text": "a", "label": 1}, label="lable")


# What is to be written


@pytest.mark.parametrize(
    ("column", "row", "targets"),
    [
        ("t", {"t": " one "}, ("one",)),
        ("t", {"t": 5.0}, ("5",)),
        ("t", {"t": ["one", " ", None, "other"]}, ("one", "other")),
        (["t", "u"], {"t": "one", "u": "other"}, ("one", "other")),
        (["t", "u"], {"t": "", "u": "other"}, ("other",)),
        ("t", {"t": None}, ("",)),  # still a text, as an empty second one is
        ("t", {"t": []}, ("",)),
    ],
)
def test_targets_are_a_column_a_list_in_it_or_several_columns(column, row, targets):
    found, _ = made({"text": "a", **row}, {"text": "b", "t": "x", "u": "y"}, target=column)
    assert found == Example("a", targets=targets)
    assert found.texts == ("a", targets[0])  # the one that is learnt from


def test_a_target_does_not_take_the_place_of_other_fields():
    row = {"text": "a", "b": "c", "l": "x", "s": 1, "t": "z", "one": "p", "two": "q"}
    found = made(row, pair="b", label="l", score="s", target="t")
    assert found == [Example("a", "c", label="x", score=1.0, targets=("z",))]
    found = made({**row, "l": 1}, pair="b", label="l", choices=["one", "two"], target="t")
    assert found == [Example("a", "c", ("p", "q"), answer=1, targets=("z",))]
    assert found[0].texts == ("a", "c", "p", "q", "z")


def test_a_target_that_holds_others_is_one_line():
    with pytest.raises(DataError, match=r"example 1: the target is \{.*: .*such as data\.columns\.target=a\.b"):
        made({"text": "a", "t": {"de": "x"}}, target="t")


# Answers inside a text


@pytest.mark.parametrize(
    ("context", "answer", "offset", "start"),
    [
        ("in 1605 and 1615", "1615", 12, 12),
        ("in 1605 and 1615", "1615", "12", 12),
        ("in 1605 and 1615", 1615, 12.0, 12),
        ("in 1605 and 1605", "1605", None, 3),  # the first, where nothing is said
        ("in 1605 and 1605", "1605", "", 3),
        (" \n in 1605", "1605", 6, 3),  # offsets count from the beginning as it was read
        (" \n in 1605", "1605", None, 3),
        ("in 1605 ", " 1605 ", 2, 3),
        ("\ufeffin 1605", "1605", 4, 4),  # a byte order mark is no white space
        ("in 1605", ["1605", "in"], [3, 0], (3, 0)),
    ],
)
def test_answers_stand_at_their_offsets_in_the_text_that_is_kept(context, answer, offset, start):
    columns = {"pair": "c", "answer": "a", "offset": "o"}
    row = {"text": "when?", "c": context, "a": answer, "o": offset}
    found, _ = made(row, {"text": "x", "c": "y", "a": "y", "o": 0}, **columns)
    assert tuple(each.start for each in found.answers) == (start if isinstance(start, tuple) else (start,))
    assert found.pair == context.strip() and found.texts == ("when?", context.strip())
    for one in found.answers:
        assert found.pair[one.start : one.start + len(one.text)] == one.text


def test_where_nobody_has_said_an_answer_there_is_none():
    rows = [{"text": "q", "c": "y", "a": each} for each in ("", None, [], "y")]
    found = made(*rows, pair="c", answer="a")
    assert [each.answers for each in found] == [(), (), (), (Answer(0, "y"),)]


@pytest.mark.parametrize(
    ("answer", "offset", "message"),
    [
        ("1615", 3, r"example 1: the answer '1615' is not at its offset 3, where '1605' stands: count"),
        ("1615", 99, r"the answer '1615' is not at its offset 99, where '' stands"),
        ("1615", -4, r"the offset -4 of the answer '1615' is no whole number from 0 on"),
        ("1615", "two", r"the offset 'two' of the answer '1615' is no whole number from 0 on"),
        ("1616", None, r"example 1: the answer '1616' does not stand in its text: correct one of them"),
        (["1615", "1605"], [12], r"example 1 has 2 answers and 1 offsets: each answer has one"),
    ],
)
def test_an_answer_that_is_not_there_is_one_line(answer, offset, message):
    row = {"text": "when?", "c": "in 1605 and 1615", "a": answer, "o": offset}
    with pytest.raises(DataError, match=message) as error:
        made(row, {"text": "x", "c": "y", "a": "y", "o": 0}, pair="c", answer="a", offset="o")
    assert "\n" not in str(error.value)


def test_an_answer_needs_the_text_it_stands_in():
    with pytest.raises(ConfigError, match=r"data\.columns\.answer stands inside a second text: .*data\.columns\.pair"):
        made({"text": "a", "a": "b"}, answer="a")


# Splits


def some(count: int, seed: int = 0) -> list[Example]:
    """Examples with different texts, of which two in ten are rare."""
    label = random.Random(seed).choices
    return [Example(f"text {seed} {i}", label=label(("rare", "frequent"), (2, 8))[0]) for i in range(count)]


FRACTIONS = {"val": 0.1, "test": 0.25}


def test_each_split_gets_its_fraction_of_every_class():
    examples = some(5000)
    found = split_examples(examples, FRACTIONS)
    assert sorted(found) == ["test", "train", "val"]
    assert Counter(each for part in found.values() for each in part) == Counter(examples)
    counts = {split: Counter(each.label for each in part) for split, part in found.items()}
    for label, total in Counter(each.label for each in examples).items():
        for split, fraction in {"train": 0.65, **FRACTIONS}.items():
            # Four standard deviations of a binomial.
            assert abs(counts[split][label] - fraction * total) < 4 * (fraction * (1 - fraction) * total) ** 0.5
    # Nothing is put in another order.
    kept = {each: split for split, part in found.items() for each in part}
    assert all([each for each in examples if kept[each] == split] == part for split, part in found.items())


def test_growth_moves_no_example():
    few, more = some(300), some(300, seed=1)
    mixed = [*more, *few]
    random.Random(0).shuffle(mixed)
    before, after = split_examples(few, FRACTIONS), split_examples(mixed, FRACTIONS)
    assert all(set(before[split]) == set(after[split]) & set(few) for split in ("train", "val", "test"))
    # A larger test split takes from train alone, and val stays.
    larger = split_examples(few, FRACTIONS | {"test": 0.5})
    assert larger["val"] == before["val"] and set(larger["test"]) > set(before["test"])


def test_equal_texts_are_in_one_split():
    examples = [Example(f"a{i}", f"b{i}", label=label) for i in range(200) for label in ("x", "y", None)]
    found = split_examples(examples, FRACTIONS)
    sides = {split: {each.texts for each in part} for split, part in found.items()}
    assert sum(map(len, sides.values())) == 200 and all(len(part) % 3 == 0 for part in found.values())


def test_a_place_follows_from_all_texts_and_where_one_ends():
    assert place_of(Example("a", "b", label="x", score=1.0)) == place_of(Example("a", "b"))
    different = [
        Example("ab"),
        Example("a", "b"),
        Example("ab", ""),
        Example("", "ab"),
        Example("a", choices=("b", "c")),
    ]
    places = [place_of(each) for each in different]
    assert len(set(places)) == len(places) and all(0 <= place < 1 for place in places)
    assert 0 <= place_of(Example("\ud800")) < 1  # half a character, as JSON may hold it


def test_places_may_be_given():
    examples = some(4)
    found = split_examples(examples, FRACTIONS, places=[0.05, 0.2, 0.34, 0.36])
    assert found == {"val": examples[:1], "test": examples[1:3], "train": examples[3:]}


def test_a_fraction_of_nothing_is_no_split():
    assert split_examples(some(3), {"val": 0.0, "test": 0.0}) == {"train": some(3)}


def test_a_split_without_examples_or_with_unequal_choices_is_refused():
    two, three = Example("q", choices=("a", "b")), Example("q", choices=("a", "b", "c"))
    assert checked({"train": [two, two], "val": [two]}, "mine") == {"train": [two, two], "val": [two]}
    said = (
        "the val split of mine has no examples; give more with different texts "
        "(those with equal ones stay together), or a larger fraction"
    )
    with pytest.raises(DataError, match=re.escape(said)):
        checked({"train": [two], "val": []}, "mine")
    with pytest.raises(DataError, match="mine: example 2 of val has 3 choices, the first one 2: all must have equally"):
        checked({"train": [two], "val": [two, three]}, "mine")
