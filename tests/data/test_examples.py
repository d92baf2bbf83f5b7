"""Examples out of rows, against rows written out; and splits that no growth of a file changes."""

import random
import re
from collections import Counter

import pytest

from molino.base.errors import ConfigError, DataError
from molino.data.examples import Example, checked, examples_of, place_of, split_examples, texts_of


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
