"""What is told of examples, and the figures of a split, against plain sums over its examples."""

import math

import numpy as np
import pytest
import torch

from molino.base.errors import ConfigError, DataError
from molino.data.examples import Example
from molino.tasks.outcomes import Choices, Classes, Rows, Scores, rows_of


def labelled(*labels, **splits):
    parts = {"train": labels, **splits}
    return {name: [Example(f"text {i}", label=each) for i, each in enumerate(part)] for name, part in parts.items()}


def scored(*values):
    return {"train": [Example(f"text {i}", "b", score=each) for i, each in enumerate(values)]}


def softmax(logits):
    total = math.fsum(map(math.exp, logits))
    return [math.exp(each) / total for each in logits]


def some_rows(classes, count=200):
    generator = np.random.default_rng(classes)
    wanted = generator.integers(0, classes, count)
    logits = generator.normal(size=(count, classes)) + 2 * np.eye(classes)[wanted]
    return Rows(np.arange(count), wanted.astype(np.float64), logits)


def naive(rows):
    """Accuracy, loss, confidence error in 15 bins and the F1 of each class, one example after the other."""
    p = [softmax(row) for row in rows.logits.tolist()]
    wanted, K = [int(each) for each in rows.wanted], len(p[0])
    guessed = [max(range(K), key=row.__getitem__) for row in p]
    right = [g == w for g, w in zip(guessed, wanted, strict=True)]
    bins = {}
    for row, ok in zip(p, right, strict=True):
        number = math.ceil(max(row) * 15)
        bins[number] = bins.get(number, 0.0) + max(row) - ok
    f1 = []
    for k in range(K):
        both = sum(g == w == k for g, w in zip(guessed, wanted, strict=True))
        f1.append(2 * both / (guessed.count(k) + wanted.count(k)))
    loss = -math.fsum(math.log(row[w]) for row, w in zip(p, wanted, strict=True)) / len(p)
    return {
        "accuracy": sum(right) / len(p),
        "loss": loss,
        "calibration_error": sum(map(abs, bins.values())) / len(p),
        "macro_f1": sum(f1) / K,
        "f1": f1[1],
    }


@pytest.mark.parametrize("classes", [2, 3])
def test_figures_of_classes_are_sums_over_examples(classes):
    rows, outcome = some_rows(classes), Classes(tuple("abc"[:classes]))
    wanted = naive(rows)
    if classes > 2:
        del wanted["f1"]  # of which one of three?
    found = outcome.figures(rows)
    matthews = found.pop("matthews")
    assert found == pytest.approx(wanted, rel=1e-9)
    # Which of the correlation's own formulas is used does not matter: this is that of indicator variables.
    one, other = (np.eye(classes)[each] for each in (rows.wanted.astype(int), rows.logits.argmax(axis=1)))
    covariance = lambda a, b: ((a - a.mean(0)) * (b - b.mean(0))).sum()  # noqa: E731
    assert matthews == pytest.approx(
        covariance(one, other) / math.sqrt(covariance(one, one) * covariance(other, other)), rel=1e-9
    )
    assert {each.name for each in outcome.metrics} == {*wanted, "matthews"}


def test_figures_of_choices_are_sums_over_examples():
    rows, outcome = some_rows(4), Choices(4)
    wanted = {key: naive(rows)[key] for key in ("accuracy", "loss", "calibration_error")}
    assert outcome.figures(rows) == pytest.approx(wanted, rel=1e-9)
    assert {each.name for each in outcome.metrics} == wanted.keys()


def test_figures_of_scores_are_sums_over_examples():
    generator = np.random.default_rng(0)
    wanted = generator.normal(size=50)
    told = wanted + generator.normal(size=50)
    found = Scores(2.0, 0.5).figures(Rows(np.arange(50), wanted, told[:, None]))
    assert found["loss"] == pytest.approx(sum((a - b) ** 2 for a, b in zip(told, wanted, strict=True)) / 50, rel=1e-9)
    assert found["pearson"] == pytest.approx(np.corrcoef(told, wanted)[0, 1], rel=1e-9)
    ranks = [[sorted(each).index(value) for value in each] for each in (told.tolist(), wanted.tolist())]
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], rel=1e-9)
    assert {each.name for each in Scores(None, None).metrics} == found.keys()


@pytest.mark.parametrize(("outcome", "K"), [(Classes(("a", "b", "c")), 3), (Choices(4), 4), (Scores(0.0, 1.0), 1)])
def test_the_loss_that_is_trained_on_is_the_loss_that_is_reported(outcome, K):
    rows = some_rows(max(K, 2))
    logits, wanted = rows.logits[:, :K], rows.wanted
    trained = outcome.criterion(
        torch.from_numpy(logits), torch.from_numpy(wanted) if K == 1 else torch.from_numpy(wanted).long()
    )
    assert trained.item() == pytest.approx(outcome.figures(Rows(rows.numbers, wanted, logits))["loss"], rel=1e-9)


def test_figures_do_not_depend_on_the_order_in_which_examples_came():
    rows = some_rows(3)
    array = np.concatenate([rows.numbers[:, None], rows.wanted[:, None], rows.logits], axis=1)
    shuffled = rows_of(np.random.default_rng(1).permutation(array))
    assert all((mine == theirs).all() for mine, theirs in zip(shuffled, rows, strict=True))


# What a corpus tells


@pytest.mark.parametrize(("order", "names"), [((), "abc"), (("c", "a"), "cab"), (("b", "z", "c", "a"), "bca")])
def test_classes_are_those_of_all_splits_in_an_order(order, names):
    splits = labelled("b", None, "a", "b", val=["c", None])
    assert Classes(None).settle(splits, "mine", order).names == tuple(names)


def test_classes_have_their_numbers():
    outcome = Classes(("b", "a"))
    assert outcome.settled == {"classes": ["b", "a"]} and outcome.outputs == 2
    examples = labelled("a", None, "b")["train"]
    assert outcome.wanted(examples).tolist() == [1, -1, 0]
    assert [outcome.right(each) for each in examples] == ["a", None, "b"]
    assert outcome.settle(labelled("a", "a"), "mine") is outcome  # what was named before holds


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (labelled("a", "a", val=["b"]), "the train split of mine has 'a' alone: there is nothing to tell apart"),
        (labelled(None, None), r"the train split of mine has no label \(name its column with data\.columns\.label\)"),
    ],
)
def test_one_class_alone_is_refused(splits, message):
    with pytest.raises(DataError, match=message):
        Classes(None).settle(splits, "mine")


def test_an_unknown_class_is_refused_with_how_to_rename_it():
    message = (
        r"has the class 'z', and the head is for a, b: rename it with data\.corpus\.classes "
        r"\(data\.classes of data=labelled\), or train a head of its own"
    )
    with pytest.raises(ConfigError, match=f"mine {message}"):
        Classes(("a", "b")).settle(labelled("a", "b", val=["z"]), "mine")
    with pytest.raises(ConfigError, match=f"the data {message}"):
        Classes(("a", "b")).wanted(labelled("a", "z")["train"])


def test_choices_are_as_many_as_the_corpus_has():
    examples = [Example("q", choices=("a", "b", "c"), answer=each) for each in (2, None, 0)]
    outcome = Choices(None).settle({"val": examples}, "mine")
    assert outcome == Choices(3) == Choices(3).settle({"val": examples}, "mine") and outcome.settled == {"choices": 3}
    assert outcome.wanted(examples).tolist() == [2, -1, 0]
    assert [outcome.right(each) for each in examples] == ["c", None, "a"]
    with pytest.raises(ConfigError, match="mine has 3 choices an example, and the run was trained on 4"):
        Choices(4).settle({"val": examples}, "mine")


def test_scores_are_scaled_by_those_to_train_on():
    splits = scored(1.0, None, 2.0, 6.0) | {"val": scored(100.0)["train"]}
    outcome = Scores(None, None).settle(splits, "mine")
    assert (outcome.mean, outcome.deviation) == pytest.approx((3.0, math.sqrt(14 / 3)), rel=1e-12)
    assert outcome.settled == {"scale": [outcome.mean, outcome.deviation]}
    wanted = outcome.wanted(splits["train"])
    assert np.isnan(wanted[1]) and np.nanmean(wanted) == pytest.approx(0, abs=1e-12)
    assert np.nanstd(wanted) == pytest.approx(1, rel=1e-12)
    back = [outcome.answer(np.array([each]), splits["train"][0])["score"] for each in wanted[[0, 2, 3]]]
    assert back == pytest.approx([1.0, 2.0, 6.0], rel=1e-12)
    assert outcome.settle(scored(7.0, 8.0), "mine") is outcome
    assert [outcome.right(each) for each in splits["train"]] == ["1", None, "2", "6"]


@pytest.mark.parametrize("values", [(0.1,) * 3, (4.2,) * 10, (5.0,), (0.1,) * 7 + (None,)])
def test_one_score_alone_is_refused(values):
    """Its deviation, rounded, may be a little more than nothing."""
    with pytest.raises(DataError, match=rf"the train split of mine has {values[0]:g} as every score: there is nothing"):
        Scores(None, None).settle(scored(*values), "mine")


def test_no_scores_are_refused():
    with pytest.raises(DataError, match=r"has no scores \(name them with data\.columns\.score\)"):
        Scores(None, None).settle(scored(None, None), "mine")


# Answers


def test_an_answer_names_the_likeliest_and_the_probabilities_of_all():
    logits, p = np.array([1.0, 3.0, 2.0]), softmax([1.0, 3.0, 2.0])
    names = ("x", "y", "z")
    of_classes = Classes(names).answer(logits, Example("a"))
    of_choices = Choices(3).answer(logits, Example("q", choices=names))
    assert of_classes == of_choices and list(of_classes) == ["label", "score", "probabilities"]
    assert of_classes["label"] == "y" and of_classes["score"] == pytest.approx(p[1], rel=1e-12)
    assert of_classes["probabilities"] == pytest.approx(dict(zip(names, p, strict=True)), rel=1e-12)


def test_choices_that_are_the_same_share_a_probability():
    p = softmax([1.0, 3.0, 2.0])
    told = Choices(3).answer(np.array([1.0, 3.0, 2.0]), Example("q", choices=("x", "y", "x")))
    assert told["label"] == "y" and told["probabilities"] == pytest.approx({"x": p[0] + p[2], "y": p[1]}, rel=1e-12)
