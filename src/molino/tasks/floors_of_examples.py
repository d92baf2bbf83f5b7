"""What a head on examples has to beat: always the same answer, and a bag of words."""

from collections.abc import Sequence

import numpy as np

from molino.data.examples import Example
from molino.data.tokens import TokenizedCorpus
from molino.evaluation.bag_of_words import fill
from molino.runs.measures import Floor
from molino.tasks.bags import bag_of, joined, labelled_of, load_bag
from molino.tasks.outcomes import Choices, Classes, Outcome, Rows, Scores

NEVER = -100.0  # log-probability of a class without training examples


def floors_of_examples(text: TokenizedCorpus, split: str, outcome: Outcome) -> list[Floor]:
    """Return the floors of a split, fitted on the training examples."""
    splits = text.corpus.examples()
    if isinstance(outcome, Classes):
        return _of_classes(text, splits["train"], splits[split], outcome)
    return _of_scores(splits["train"], splits[split], outcome) if isinstance(outcome, Scores) else _of_choices(outcome)


def _of_classes(
    text: TokenizedCorpus, train: Sequence[Example], scored: Sequence[Example], outcome: Classes
) -> list[Floor]:
    wanted, (scored, right) = labelled_of(train, outcome)[1], labelled_of(scored, outcome)
    shares = np.bincount(wanted, minlength=outcome.outputs) / len(wanted)
    same = np.log(shares, out=np.full(len(shares), NEVER), where=shares > 0)
    told = load_bag(bag_of(text, outcome)).log_probabilities(scored)
    return [
        _floor("majority", "majority", outcome, right, np.tile(same, (len(right), 1))),
        _floor("bag_of_words", "bag of words", outcome, right, told),
    ]


def _of_scores(train: Sequence[Example], scored: Sequence[Example], outcome: Scores) -> list[Floor]:
    """The cosine of words alone: pairs of words make it worse, and so do logarithms of counts."""
    scored = [each for each in scored if each.score is not None]
    right = outcome.wanted(scored)
    bag = fill([joined(each) for each in train], pairs=False, sublinear=False)
    one, other = bag.rows([each.text for each in scored]), bag.rows([each.pair for each in scored])
    found = outcome.figures(Rows(np.arange(len(right)), right, np.asarray(one.multiply(other).sum(axis=1))))
    levels = {name: value for name, value in found.items() if name != "loss"}  # it is on no scale of scores
    mean = float((right**2).mean())
    return [
        Floor("floor/bag_of_words", levels["pearson"], "bag of words floor", "bag of words", levels),
        Floor("floor/mean", mean, "mean floor", "mean", {"loss": mean}),
    ]


def _of_choices(outcome: Choices) -> list[Floor]:
    levels = {"accuracy": 1 / outcome.count, "loss": float(np.log(outcome.count))}
    return [Floor("floor/chance", levels["accuracy"], "chance", "chance", levels)]


def _floor(name: str, brief: str, outcome: Classes, right: np.ndarray, logits: np.ndarray) -> Floor:
    levels = outcome.figures(Rows(np.arange(len(right)), right, logits))
    return Floor(f"floor/{name}", levels["accuracy"], f"{brief} floor", brief, levels)
