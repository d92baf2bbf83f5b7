"""Labelled examples: what a corpus has of them, and how those of one's own are split.

With task=language_model a labelled corpus is its texts; other tasks read them as examples.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from molino.base.errors import ConfigError, DataError
from molino.data.corpus import Corpus
from molino.data.tables import Row, column

# What the columns of a table can be.
COLUMNS = ("text", "pair", "choices", "choice_names", "label", "score")


class Example(NamedTuple):
    """An example, its texts without white space around them.

    Attributes:
        text: the text, or the first of two, or the question.
        pair: the second of two texts.
        choices: answers, of which one is right.
        label: the name of its class; None where nobody has said it.
        score: a number that it is to be given.
        answer: the number of the right choice, from 0 on.
    """

    text: str
    pair: str | None = None
    choices: tuple[str, ...] = ()
    label: str | None = None
    score: float | None = None
    answer: int | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """All its texts, in order."""
        return (self.text, *(() if self.pair is None else (self.pair,)), *self.choices)


class Labelled(Corpus, Protocol):
    """A corpus of examples. `read` returns their `texts`, one after the other."""

    def examples(self) -> dict[str, list[Example]]:
        """Return the examples of each split, in the order of `read`; there may be no 'train'."""
        ...


def examples_of(
    rows: list[Row], columns: Mapping[str, Any], origin: object, classes: Mapping[str, str], place: str = "data.columns"
) -> list[Example]:
    """Return the examples in the rows of a table.

    Args:
        columns: which column is what, by the names of COLUMNS; `choices` may be a list of columns.
        origin: where the rows come from, for messages.
        classes: names of classes by what stands in the column; what is not among them is its own name.
        place: the setting that names the columns.

    Raises:
        ConfigError: the columns make no examples.
        DataError: a column is not there, or holds something else.
    """
    named = {name: each for name, each in columns.items() if each is not None}
    if unknown := [name for name in named if name not in COLUMNS]:
        raise ConfigError(f"{place}.{unknown[0]} is not a setting: columns are {', '.join(COLUMNS)}")
    if "text" not in named:
        there = ", ".join(dict.fromkeys(key for row in rows[:100] for key in row))
        raise ConfigError(f"{place}.text names no column of {origin}, which has {there}: say which one is read")

    def values(name: str) -> list[Any]:
        if name not in named:
            return [None] * len(rows)
        if name == "pair":  # without one it is empty, so that every example has as many texts
            value = column(named[name], rows, origin, f"{place}.{name}")
            return [_string(value(row)) for row in rows]
        names = named[name] if isinstance(named[name], list | tuple) else [named[name]]
        each = [column(one, rows, origin, f"{place}.{name}") for one in names]
        if isinstance(named[name], list | tuple):
            return [[value(row) for value in each] for row in rows]
        return [each[0](row) for row in rows]

    taken = {name: values(name) for name in COLUMNS}
    return [
        _example(dict(zip(taken, row, strict=True)), classes, f"{origin}, example {number}", place)
        for number, row in enumerate(zip(*taken.values(), strict=True), start=1)
    ]


def _example(row: dict[str, Any], classes: Mapping[str, str], origin: str, place: str) -> Example:
    for name in ("text", "pair", "label"):
        if isinstance(row[name], Mapping | list):
            raise DataError(f"{origin}: the {name} is {row[name]!r}: name what lies in it, such as {place}.{name}=a.b")
    text, pair = _string(row["text"]), None if row["pair"] is None else _string(row["pair"])
    choices = () if row["choices"] is None else _choices(row["choices"], origin, place)
    label, score = _string(row["label"]) if row["label"] is not None else "", row["score"]
    if choices:
        answer = _answer(label, choices, row["choice_names"], origin, place) if label else None
        return Example(text, pair, choices, answer=answer)
    if score is not None and _string(score):
        try:
            score = float(_string(score))
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise DataError(
                f"{origin}: the score {row['score']!r} is no number: name another column with {place}.score"
            )
    return Example(text, pair, (), classes.get(label, label) or None, score if isinstance(score, float) else None)


def _string(value: Any) -> str:
    """Return a value as text; of a number that is whole without a fraction, as a table may keep labels."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value).strip()


def _choices(value: Any, origin: str, place: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or len(value) < 2:
        raise DataError(f"{origin}: the choices must be a list of two or more, or {place}.choices=[one,other,...]")
    return tuple(_string(each) for each in value)


def _answer(label: str, choices: tuple[str, ...], names: Any, origin: str, place: str) -> int:
    """Return the number of the right choice, which is told by its name, its text or its number from 0 on."""
    for known in (tuple(map(_string, names or ())), choices):
        if label in known:
            return known.index(label)
    if label.isdecimal() and int(label) < len(choices):
        return int(label)
    raise DataError(
        f"{origin}: the label {label!r} is none of its {len(choices)} choices: give the text of one, its number from 0 "
        f"on, or its name in {place}.choice_names"
    )


def checked(splits: dict[str, list[Example]], name: str) -> dict[str, list[Example]]:
    """Return the examples of a corpus of this name, unless they make none.

    Raises:
        DataError: a split is empty, or some examples have more choices than others.
    """
    count = None
    for split, examples in splits.items():
        if not examples:
            raise DataError(
                f"the {split} split of {name} has no examples; give more with different texts (those with "
                "equal ones stay together), or a larger fraction"
            )
        for number, example in enumerate(examples, start=1):
            count = len(example.choices) if count is None else count
            if len(example.choices) != count:
                raise DataError(
                    f"{name}: example {number} of {split} has {len(example.choices)} choices, the first one {count}: "
                    "all must have equally many"
                )
    return splits


def texts_of(splits: Mapping[str, list[Example]]) -> dict[str, list[str]]:
    """Return the texts that examples consist of, as `Corpus.read` does."""
    return {split: [text for each in examples for text in each.texts] for split, examples in splits.items()}


def place_of(example: Example) -> float:
    """Return a number in [0, 1) that follows from the texts of an example alone.

    It decides in which split an example is: whatever else comes into the file, no example moves from one split to
    another, and those that have the same texts are on one side.
    """
    digest = hashlib.sha256("\0".join(example.texts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_examples(
    examples: Iterable[Example], fractions: Mapping[str, float], rest: str = "train"
) -> dict[str, list[Example]]:
    """Split examples by their places.

    Args:
        fractions: of each split but the rest; each class is shared out by the same chance.
        rest: the split that gets the others.
    """
    found: dict[str, list[Example]] = {rest: [], **{split: [] for split, fraction in fractions.items() if fraction}}
    bounds = [(split, fraction) for split, fraction in fractions.items() if fraction]
    for example in examples:
        place = place_of(example)
        for split, fraction in bounds:
            if place < fraction:
                found[split].append(example)
                break
            place -= fraction
        else:
            found[rest].append(example)
    return found
