"""What a head on examples has to beat: always the same answer, and a bag of words."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from molino.data.examples import Example
from molino.evaluation.bag_of_words import Bag, Regression, compare, fill, fit
from molino.runs.measures import Floor
from molino.tasks.outcomes import Choices, Classes, Outcome, Rows, Scores


def floors_of_examples(train: Sequence[Example], scored: Sequence[Example], outcome: Outcome) -> list[Floor]:
    """Return the floors of a split, fitted on the training examples."""
    if isinstance(outcome, Classes):
        return _of_classes(train, scored, outcome)
    return _of_scores(train, scored, outcome) if isinstance(outcome, Scores) else _of_choices(scored, outcome)


def joined(example: Example) -> str:
    """Return all that is read of an example as one text."""
    return " ".join(example.texts)


def features(bag: Bag, examples: Sequence[Example]) -> Any:
    """Return the features of examples, those of pairs from both texts: a sparse matrix (N, F)."""
    rows = bag.rows([each.text for each in examples])
    if examples[0].pair is None:
        return rows
    return compare(rows, bag.rows([each.pair for each in examples]))


def fit_bag(train: Sequence[Example], wanted: np.ndarray, classes: int) -> tuple[Bag, Regression]:
    """Return the words of training examples, and the regression on them."""
    bag = fill([joined(each) for each in train])
    return bag, fit(features(bag, train), wanted, classes)


def labelled(examples: Sequence[Example], outcome: Outcome) -> tuple[list[Example], np.ndarray]:
    """Return the examples of which it is known what is wanted, and that."""
    wanted = outcome.wanted(examples)
    known = ~np.isnan(wanted) if wanted.dtype.kind == "f" else wanted >= 0
    return [each for each, there in zip(examples, known, strict=True) if there], wanted[known]


def _of_classes(train: Sequence[Example], scored: Sequence[Example], outcome: Classes) -> list[Floor]:
    (train, wanted), (scored, right) = labelled(train, outcome), labelled(scored, outcome)
    shares = np.bincount(wanted, minlength=outcome.outputs) / len(wanted)
    with np.errstate(divide="ignore"):
        same = np.maximum(np.log(shares), -100.0)  # a class without training examples
    bag, regression = fit_bag(train, wanted, outcome.outputs)
    return [
        _floor("majority", "majority", outcome, right, np.tile(same, (len(right), 1))),
        _floor("bag_of_words", "bag of words", outcome, right, regression.log_probabilities(features(bag, scored))),
    ]


def _of_scores(train: Sequence[Example], scored: Sequence[Example], outcome: Scores) -> list[Floor]:
    (train, _), (scored, right) = labelled(train, outcome), labelled(scored, outcome)
    bag = fill([joined(each) for each in train], pairs=False, sublinear=False)
    one, other = (bag.rows([text for each in scored for text in each.texts[at : at + 1]]) for at in (0, 1))
    cosine = np.asarray(one.multiply(other).sum(axis=1))
    found = outcome.figures(Rows(np.arange(len(right)), right, cosine))
    levels = {name: value for name, value in found.items() if name != "loss"}  # it is on no scale of scores
    mean = Floor("floor/mean", float((right**2).mean()), "mean floor", "mean", {"loss": float((right**2).mean())})
    return [Floor("floor/bag_of_words", levels["pearson"], "bag of words floor", "bag of words", levels), mean]


def _of_choices(scored: Sequence[Example], outcome: Choices) -> list[Floor]:
    right = labelled(scored, outcome)[1]
    level = 1 / outcome.count
    levels = {"accuracy": level, "loss": float(np.log(outcome.count))}
    return [Floor("floor/chance", level, "chance", "chance", levels)] if len(right) else []


def _floor(name: str, brief: str, outcome: Outcome, right: np.ndarray, logits: np.ndarray) -> Floor:
    levels = outcome.figures(Rows(np.arange(len(right)), right, logits))
    first = next(iter(levels))
    return Floor(f"floor/{name}", levels[first], f"{brief} floor", brief, levels)
