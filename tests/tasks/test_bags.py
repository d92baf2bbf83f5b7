"""The bag of words of a labelled corpus, and what those fitted on the other parts say, against plain loops."""

import functools
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from molino.base.errors import DataError
from molino.data.corpus import digest
from molino.data.examples import Example, place_of, texts_of
from molino.data.tokenizers import train_word
from molino.data.tokens import prepare
from molino.evaluation.bag_of_words import fill, fit
from molino.tasks.bags import FittedBag, bag_of, cross_fitted, features, joined, labelled_of, load_bag
from molino.tasks.outcomes import Classes

WORDS = ("good", "bad", "film", "the", "a", "plot", "dull", "fine")


class Labelled:
    """A corpus of examples in memory that counts how often they are asked for."""

    name, licence, documents = "mine", "free", True

    def __init__(self, splits):
        self.splits, self.asked = splits, 0

    def fingerprint(self):
        return digest({name: [list(each) for each in part] for name, part in self.splits.items()})

    def examples(self):
        self.asked += 1
        return self.splits

    def read(self):
        return texts_of(self.splits)


def some(count: int, seed: int, pairs: bool = False) -> list[Example]:
    """Examples whose class follows from their words, though not always; every seventh has none."""
    chance, found = random.Random(seed), []
    for number in range(count):
        words = chance.choices(WORDS, k=6)
        label = "positive" if (words.count("good") >= words.count("bad")) ^ (chance.random() < 0.2) else "negative"
        pair = " ".join(chance.choices(WORDS, k=4)) if pairs else None
        found.append(Example(" ".join(words), pair, label=None if number % 7 == 3 else label))
    return found


@pytest.fixture(params=[False, True], ids=["texts", "pairs"])
def corpus(request):
    return Labelled({"train": some(100, 0, request.param), "val": some(20, 1, request.param)})


@pytest.fixture
def prepared(corpus, tmp_path):
    text = prepare(corpus, functools.partial(train_word), tmp_path)
    return text, Classes(None).settle(corpus.splits, "mine")


def test_a_bag_is_fitted_once_on_labelled_training_examples(prepared, corpus):
    text, outcome = prepared
    path = bag_of(text, outcome)
    fitted, asked = load_bag(path), corpus.asked
    assert bag_of(text, outcome) == path and corpus.asked == asked
    train = [each for each in corpus.splits["train"] if each.label is not None]
    bag = fill([joined(each) for each in train])
    wanted = np.array([outcome.names.index(each.label) for each in train])
    told = fit(features(bag, train), wanted, 2).log_probabilities(features(bag, corpus.splits["val"]))
    # What is kept is rounded to float32.
    assert fitted.log_probabilities(corpus.splits["val"]) == pytest.approx(told, abs=1e-5)
    known, numbers = labelled_of(corpus.splits["train"], outcome)
    assert known == train and numbers.tolist() == wanted.tolist() and len(train) < 100


def test_other_classes_have_a_bag_of_their_own(prepared):
    text, outcome = prepared
    turned = Classes(outcome.names[::-1])
    one, other = (load_bag(bag_of(text, each)) for each in (outcome, turned))
    examples = text.corpus.examples()["val"]
    assert one.log_probabilities(examples) == pytest.approx(other.log_probabilities(examples)[:, ::-1], abs=0.02)
    assert bag_of(text, outcome) != bag_of(text, turned)


def test_an_example_is_told_of_by_the_other_parts(prepared, corpus):
    text, outcome = prepared
    found, train = cross_fitted(text, outcome), corpus.splits["train"]
    bag = load_bag(bag_of(text, outcome)).bag
    parts = [int(10 * place_of(each)) for each in train]
    assert len(set(parts)) == 10 and found.shape == (100, 2)
    for part in range(10):
        others = [each for each, own in zip(train, parts, strict=True) if own != part and each.label is not None]
        wanted = np.array([outcome.names.index(each.label) for each in others])
        mine = [each for each, own in zip(train, parts, strict=True) if own == part]
        naive = fit(features(bag, others), wanted, 2).log_probabilities(features(bag, mine))
        assert found[[own == part for own in parts]] == pytest.approx(naive, abs=1e-4)
    # Who has seen the labels is more sure of them than who has not.
    known = [number for number, each in enumerate(train) if each.label is not None]
    wanted = outcome.wanted(train)[known]
    seen = load_bag(bag_of(text, outcome)).log_probabilities(train)
    assert seen[known, wanted].mean() > found[known, wanted].mean() + 0.05


def test_parts_are_fitted_once(prepared, corpus):
    one = cross_fitted(*prepared)
    asked = corpus.asked
    assert (cross_fitted(*prepared) == one).all() and corpus.asked == asked


def test_unseen_words_are_told_of_by_how_frequent_classes_are():
    train = some(100, 0)
    outcome = Classes(("negative", "positive"))
    known, wanted = labelled_of(train, outcome)
    bag = fill([joined(each) for each in known])
    fitted = FittedBag(bag, fit(features(bag, known), wanted, 2))
    told = fitted.log_probabilities([Example("unheard of"), Example(""), Example("good film")])
    bias = fitted.regression.bias_K - np.logaddexp.reduce(fitted.regression.bias_K)
    assert told[:2] == pytest.approx(np.stack([bias, bias]), rel=1e-12) and abs(told[2] - bias).max() > 0.1
    assert np.logaddexp.reduce(told, axis=1) == pytest.approx(0, abs=1e-12)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-5])


def changed(**tensors):
    def damage(path):
        kept = load_file(path) | {name: value for name, value in tensors.items() if value is not None}
        save_file({name: value for name, value in kept.items() if tensors.get(name, value) is not None}, path)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        lambda path: path.write_bytes(b"no safetensors"),
        lambda path: path.unlink(),
        changed(idf=None),
        changed(idf=torch.ones(3)),
        changed(weights=torch.ones(3, 2)),
        changed(bias=torch.ones(3)),
        changed(words=torch.tensor([123, 125], dtype=torch.uint8)),
        changed(words=torch.tensor([255, 0], dtype=torch.uint8)),
    ],
    ids=["cut off", "nonsense", "missing", "no idf", "few idf", "few weights", "biases", "no list", "no JSON"],
)
def test_a_damaged_file_is_one_line(tmp_path, damage):
    corpus = Labelled({"train": some(100, 0), "val": some(20, 1)})
    text = prepare(corpus, functools.partial(train_word), tmp_path)
    path = bag_of(text, Classes(("negative", "positive")))
    damage(path)
    with pytest.raises(DataError, match=r"bag-.* is damaged \(.*\): delete that file") as error:
        load_bag(path)
    assert "\n" not in str(error.value)
