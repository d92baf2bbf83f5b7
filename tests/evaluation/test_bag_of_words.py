"""The bag of words against scikit-learn, and what it comes to on published corpora."""

import random

import numpy as np
import pytest
from scipy import sparse

from molino.configuration.build import build
from molino.configuration.composer import compose
from molino.data.corpus import Corpus
from molino.evaluation import bag_of_words
from molino.evaluation.bag_of_words import compare, fill, fit
from molino.tasks import scores
from molino.tasks.bags import features, joined
from molino.tasks.outcomes import Classes

WORDS = ["Good", "bad", "film", "the", "naïve", "isn't", "über", "3.5", "<br />", "señor!", "a", "it", "(not)", "再见"]
PATTERN = r"\w+|[^\w\s]"


def sentences(count: int, seed: int) -> list[str]:
    """Texts of 0 to 12 words, whose frequent ones come more than once in a text."""
    chance = random.Random(seed)
    weights = [1 / (1 + number) for number in range(len(WORDS))]
    return [" ".join(chance.choices(WORDS, weights, k=chance.randrange(13))) for _ in range(count)]


@pytest.mark.parametrize(("pairs", "sublinear"), [(True, True), (False, False), (True, False), (False, True)])
def test_features_are_those_of_scikit_learn(pairs, sublinear):
    text = pytest.importorskip("sklearn.feature_extraction.text")
    train, other = sentences(200, 0), [*sentences(100, 1), "", "words never seen", "good unseen film"]
    theirs = text.TfidfVectorizer(ngram_range=(1, 1 + pairs), sublinear_tf=sublinear, token_pattern=PATTERN)
    x_train, x_other = theirs.fit_transform(train), theirs.transform(other)
    bag = fill(train, pairs, sublinear)
    y_train, y_other = bag.rows(train), bag.rows(other)
    assert y_train.shape == x_train.shape
    # Columns stand in another order, of which products of rows know nothing.
    for (x, x2), (y, y2) in (((x_train, x_other), (y_train, y_other)), ((x_other, x_other), (y_other, y_other))):
        assert abs((x @ x2.T) - (y @ y2.T)).max() < 1e-12
    # Nor do they of the numbers in each column alone; sorted they are the same.
    assert np.sort(bag.idf_F) == pytest.approx(np.sort(theirs.idf_), rel=1e-12)


def test_a_text_of_unknown_words_is_an_empty_row_and_pairs_have_no_gap():
    bag = fill(["a b", "b c"])
    rows = bag.rows(["", "x y", "a x b", "a b"]).toarray()
    assert not rows[:2].any()
    # An unknown word stands between a and b: they are no pair.
    assert np.count_nonzero(rows[2]) == 2 and np.count_nonzero(rows[3]) == 3
    assert np.linalg.norm(rows[2:], axis=1) == pytest.approx(1, rel=1e-12)


def test_features_of_pairs_are_differences_and_products():
    one, other = (
        bag_rows.toarray() for bag_rows in map(fill(sentences(50, 0)).rows, (sentences(9, 1), sentences(9, 2)))
    )
    found = compare(sparse.csr_matrix(one), sparse.csr_matrix(other)).toarray()
    assert (found == np.concatenate([np.abs(one - other), one * other], axis=1)).all()


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("strength", [10.0, 0.5])
@pytest.mark.parametrize(("tolerance", "difference"), [(1e-6, 1e-3), (bag_of_words.TOLERANCE, 0.03)])
def test_probabilities_are_those_of_scikit_learn(classes, strength, tolerance, difference, monkeypatch):
    """Descended far enough they are the same; where it commonly stops they are near."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    monkeypatch.setattr(bag_of_words, "TOLERANCE", tolerance)
    train, chance = sentences(200, 0), random.Random(1)
    # Noisy labels that follow from words, so that there is something to learn, though not all.
    wanted = np.array([chance.randrange(classes) if chance.random() < 0.2 else len(t) % classes for t in train])
    wanted[["film" in text for text in train]] = 1
    bag = fill(train)
    rows, other = bag.rows(train), bag.rows([*sentences(100, 2), "", "unseen"])
    theirs = linear_model.LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(rows, wanted)
    found = np.exp(fit(rows, wanted, classes, strength).log_probabilities(other))
    assert found == pytest.approx(theirs.predict_proba(other), abs=difference)
    # Were all alike, they would be near without having learnt a thing.
    assert np.ptp(found, axis=0).max() > 0.3


def test_a_class_that_never_occurs_is_unlikely():
    rows = fill(texts := sentences(50, 0)).rows(texts)
    told = fit(rows, np.arange(50) % 2, 3).log_probabilities(rows)
    assert (np.exp(told[:, 2]) < 0.01).all()


# Published corpora, as scikit-learn scores them on the same features


def examples(name, mirror, cache):
    settings = compose("train", [f"data={name}", f"paths.mirror={mirror}", f"paths.cache={cache}"]).settings
    return build(settings["data"]["corpus"], "data.corpus", Corpus).examples()


@pytest.mark.parametrize(
    ("name", "whole", "wanted"),
    [
        ("sst2", False, {"accuracy": 81.7}),
        ("rt_polarity", True, {"accuracy": 76.5}),
        ("cola", True, {"matthews": 15.6}),
        ("mrpc", True, {"accuracy": 74.1, "f1": 82.2}),
        ("rte", True, {"accuracy": 52.0}),
        ("sick", False, {"accuracy": 81.3}),
    ],
)
def test_classes_of_published_corpora(mirror, tmp_path, name, whole, wanted):
    splits = examples(name, mirror, tmp_path)
    # What was published was trained on the whole of the training file, of which `val` is a part.
    train, test = splits["train"] + (splits["val"] if whole else []), splits["test"]
    outcome = Classes(None).settle({"train": train}, name)
    bag = fill([joined(each) for each in train])
    regression = fit(features(bag, train), outcome.wanted(train), outcome.outputs)
    guessed = regression.log_probabilities(features(bag, test)).argmax(axis=1)
    table = scores.confusion(outcome.wanted(test), guessed, outcome.outputs)
    found = {"accuracy": scores.accuracy(table), "matthews": scores.matthews(table), "f1": scores.f1(table)[1]}
    assert {key: 100 * found[key] for key in wanted} == pytest.approx(wanted, abs=0.3)


@pytest.mark.parametrize(("name", "wanted"), [("stsb", {"val": 71.4, "test": 65.6}), ("sick", {"test": 62.1})])
def test_cosines_of_published_corpora(mirror, tmp_path, name, wanted):
    """Of words alone and without logarithms, whose correlation with the scores needs no training."""
    splits = examples(name, mirror, tmp_path)
    bag = fill([joined(each) for each in splits["train"]], pairs=False, sublinear=False)
    for split, value in wanted.items():
        one, other = (bag.rows([getattr(each, side) for each in splits[split]]) for side in ("text", "pair"))
        cosines = np.asarray(one.multiply(other).sum(axis=1))[:, 0]
        found = scores.pearson(cosines, np.array([each.score for each in splits[split]]))
        assert 100 * found == pytest.approx(value, abs=0.3)
