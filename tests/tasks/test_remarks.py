"""What is said of labelled examples before training, on examples that have everything that is worth a remark."""

from molino.data.examples import Example
from molino.tasks.outcomes import Choices, Classes, Scores
from molino.tasks.remarks import remarks_on


def labelled(**counts):
    return [Example(f"{label} {number}", label=label) for label, count in counts.items() for number in range(count)]


def test_examples_without_peculiarities_are_only_counted():
    splits = {"train": labelled(a=1500, b=500), "val": [Example("new", label="a")]}
    found = remarks_on(splits, Classes(("a", "b")), {"train": 0, "val": 0})
    assert found.pop("classes") == "a 75%, b 25%"
    assert list(found) == ["examples"] and "1,500" not in found["examples"] and "2,000" in found["examples"]


def test_each_peculiarity_is_counted_by_split():
    train = [*labelled(a=96, b=2, c=0), Example("a 95", label=None), Example("", label="a")]
    val = [Example("a 1", label="b"), Example("a 2"), Example("new", label="c"), Example("newer", label="c")]
    found = remarks_on({"train": train, "val": val}, Classes(("a", "b", "c")), {"train": 0, "val": 3})
    # 97 of 99 that have a label.
    assert found["classes"] == "a 98%, b 2%, c 0%"
    assert found["rare"].startswith("b: accuracy says little")
    assert found["not in train"].startswith("c (2 of ")
    counts = {
        key: found[key] for key in ("without a label", "with an empty text", "cut to the context", "in train as well")
    }
    assert [value.count(" of ") for value in counts.values()] == [2, 1, 1, 1]
    assert [value.split(" of ")[0] for value in counts.values()] == ["1", "1", "3", "2"]


def test_of_many_classes_a_few_are_named():
    train = [*labelled(a=5000), *(Example(f"t{number}", label=f"b{number:03}") for number in range(100))]
    val = [Example("v", label=f"c{number:03}") for number in range(50)]
    names = ("a", *(f"b{number:03}" for number in range(100)), *(f"c{number:03}" for number in range(50)))
    found = remarks_on({"train": train, "val": val}, Classes(names), {"train": 0, "val": 0})
    assert found["rare"].startswith("b000, b001, ") and "b009 and 90 more: accuracy" in found["rare"]
    assert found["not in train"].count("c0") == 10 and found["not in train"].endswith(" and 40 more")


def test_texts_are_in_train_as_well_only_with_all_their_parts():
    train = [Example("a", "b", score=1.0), Example("q", choices=("x", "y"))]
    other = [
        Example("a", "c", score=1.0),
        Example("b", "a"),
        Example("q", choices=("y", "x")),
        Example("a", "b", score=2.0),
    ]
    found = remarks_on({"train": train, "test": other}, Scores(0.0, 1.0), {})
    assert found["in train as well"].startswith("1 of ") and "classes" not in found
    unanswered = [Example("q", choices=("x", "y"), answer=0), Example("r", choices=("x", "y"))]
    told = remarks_on({"train": unanswered}, Choices(2), {})["without a label"]
    assert told.startswith("1 of ")
