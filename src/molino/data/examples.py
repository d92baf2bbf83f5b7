"""Labelled examples: what a corpus has of them, and how those of one's own are split.

With task=language_model a labelled corpus is its texts; other tasks read them as examples.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from molino.base.errors import ConfigError, DataError
from molino.data.corpus import Corpus
from molino.data.tables import Row, column

SPLITS = ("train", "val", "test")
# What the columns of a table can be.
COLUMNS = ("text", "pair", "choices", "choice_names", "label", "score", "target", "answer", "offset")


class Answer(NamedTuple):
    """An answer inside a text.

    Attributes:
        start: where it begins, in characters from 0 on.
        text: what stands there.
    """

    start: int
    text: str


class Example(NamedTuple):
    """An example, its texts without white space around them.

    Attributes:
        text: the text, or the first of two, or the question.
        pair: the second of two texts, or the one that holds the answer to the question.
        choices: answers, of which one is right.
        label: the name of its class; None where nobody has said it.
        score: a number that it is to be given.
        answer: the number of the right choice, from 0 on.
        targets: what is to be written of the text: references, of which the first one is learnt from.
        answers: right answers inside `pair`; none where nobody has said one.
    """

    text: str
    pair: str | None = None
    choices: tuple[str, ...] = ()
    label: str | None = None
    score: float | None = None
    answer: int | None = None
    targets: tuple[str, ...] = ()
    answers: tuple[Answer, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All its texts, in order; of several targets the first."""
        return (self.text, *(() if self.pair is None else (self.pair,)), *self.choices, *self.targets[:1])


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
        columns: which column is what, by the names of COLUMNS; `choices` and `target` may be lists of columns, and a
            row may hold a list of targets, or of answers and their offsets.
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
    if "answer" in named and "pair" not in named:
        raise ConfigError(f"{place}.answer stands inside a second text: name its column with {place}.pair")

    def values(name: str) -> list[Any]:
        if name not in named:
            return [None] * len(rows)
        many = isinstance(named[name], list | tuple)
        each = [column(one, rows, origin, f"{place}.{name}") for one in (named[name] if many else [named[name]])]
        found = [[value(row) for value in each] if many else each[0](row) for row in rows]
        # Without one they are empty, so that every example has as many texts.
        return ["" if value is None else value for value in found] if name in ("pair", "target") else found

    taken = {name: values(name) for name in COLUMNS}
    return [
        _example(dict(zip(taken, row, strict=True)), classes, f"{origin}, example {number}", place)
        for number, row in enumerate(zip(*taken.values(), strict=True), start=1)
    ]


def _example(row: dict[str, Any], classes: Mapping[str, str], origin: str, place: str) -> Example:
    for name in ("text", "pair", "label"):
        if isinstance(row[name], Mapping | list):
            raise DataError(f"{origin}: the {name} is {row[name]!r}: name what lies in it, such as {place}.{name}=a.b")
    label = _string(row["label"])
    if row["answer"] is not None and not _string(row["text"]):
        raise DataError(f"{origin}: its question is empty: fill it, or leave it out")
    example = Example(
        _string(row["text"]),
        None if row["pair"] is None else _string(row["pair"]),
        targets=_targets(row["target"], origin, place),
        answers=_answers(row["pair"], row["answer"], row["offset"], origin),
    )
    if row["choices"] is not None:
        choices = _choices(row["choices"], origin, place)
        answer = _right_choice(label, choices, row["choice_names"], origin, place) if label else None
        return example._replace(choices=choices, answer=answer)
    return example._replace(label=classes.get(label, label) or None, score=_score(row["score"], origin, place))


def _score(value: Any, origin: str, place: str) -> float | None:
    if not (said := _string(value)):
        return None
    try:
        score = float(said)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DataError(f"{origin}: the score {value!r} is no number: name another column with {place}.score")
    return score


def _targets(value: Any, origin: str, place: str) -> tuple[str, ...]:
    """Return the references that are not empty; an empty one where all are."""
    if value is None:
        return ()
    each = _listed(value)
    if any(isinstance(one, Mapping | list) for one in each):
        raise DataError(f"{origin}: the target is {value!r}: name what lies in it, such as {place}.target=a.b")
    return tuple(filter(None, map(_string, each))) or ("",)


def _answers(context: Any, texts: Any, offsets: Any, origin: str) -> tuple[Answer, ...]:
    """Return the answers at their offsets; without offsets, where each first stands in the context."""
    answers, places = _listed(texts), _listed(offsets)
    if places and len(places) != len(answers):
        raise DataError(f"{origin} has {len(answers)} answers and {len(places)} offsets: each answer has one")
    each = zip(answers, places or [None] * len(answers), strict=True)
    return tuple(_located(str(context), text, offset, origin) for text, offset in each if _string(text))


def _located(context: str, text: Any, offset: Any, origin: str) -> Answer:
    """Return an answer at its place in the context, both without white space around them."""
    if not context.strip():
        raise DataError(f"{origin}: the text that the answer {text!r} stands in is empty: fill it, or leave it out")
    answer, said = _string(text), _string(offset)
    if not said:
        start = context.find(answer)
        if start < 0:
            raise DataError(f"{origin}: the answer {answer!r} does not stand in its text: correct one of them")
    elif not said.isdecimal():
        raise DataError(f"{origin}: the offset {offset!r} of the answer {answer!r} is no whole number from 0 on")
    else:
        start = int(said) + max(str(text).find(answer), 0)  # an offset counts to the white space before it
        if not context.startswith(answer, start):
            there = context[start : start + len(answer)]
            raise DataError(
                f"{origin}: the answer {answer!r} is not at its offset {said}, where {there!r} stands: count the "
                "characters before it, from the beginning of its text"
            )
    return Answer(start - context.index(context.strip()), answer)


def _listed(value: Any) -> list[Any]:
    """Return a value that may be a list as one; nothing is an empty one."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


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


def _right_choice(label: str, choices: tuple[str, ...], names: Any, origin: str, place: str) -> int:
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
    """Return the examples of a corpus of this name, its splits in their usual order, unless they make none.

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
    return {split: splits[split] for split in SPLITS if split in splits}


def texts_of(splits: Mapping[str, list[Example]]) -> dict[str, list[str]]:
    """Return the texts that examples consist of, as `Corpus.read` does."""
    return {split: [text for each in examples for text in each.texts] for split, examples in splits.items()}


def place_of(example: Example) -> float:
    """Return a number in [0, 1) that follows from the texts of an example alone.

    It decides in which split an example is: whatever else comes into the file, no example moves from one split to
    another, and those that have the same texts are on one side.
    """
    return place_of_text("\0".join(example.texts))


def place_of_text(text: str) -> float:
    """Return a number in [0, 1) that follows from a text alone."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_examples(
    examples: Sequence[Example],
    fractions: Mapping[str, float],
    rest: str = "train",
    places: Iterable[float] | None = None,
) -> dict[str, list[Example]]:
    """Split examples by their places.

    Args:
        fractions: of each split but the rest; each class is shared out by the same chance.
        rest: the split that gets the others.
        places: a number in [0, 1) for each example; None for those that follow from their texts.
    """
    found: dict[str, list[Example]] = {rest: [], **{split: [] for split, fraction in fractions.items() if fraction}}
    bounds = [(split, fraction) for split, fraction in fractions.items() if fraction]
    for example, place in zip(examples, map(place_of, examples) if places is None else places, strict=True):
        for split, fraction in bounds:
            if place < fraction:
                found[split].append(example)
                break
            place -= fraction
        else:
            found[rest].append(example)
    return found
