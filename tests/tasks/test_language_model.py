"""The loss of a language model against sums in plain float64, its units against closed forms, its floors."""

import functools
import itertools
import lzma
import math
import zlib

import numpy as np
import pytest
import torch

from molino.data.batches import EvaluationWindows
from molino.data.corpora.grammar import Grammar
from molino.data.corpora.local import UserText
from molino.data.counts import best_order
from molino.data.tokenizers import train_char, train_word
from molino.data.tokens import Split, prepare
from molino.evaluation.compressors import COMPRESSORS
from molino.evaluation.floors import floors
from molino.evaluation.ngrams import unigram_loss
from molino.evaluation.totals import measure_all
from molino.models import IGNORE_INDEX
from molino.models.bigram import Bigram
from molino.models.counting import stream_of
from molino.tasks.figures import perplexity
from molino.tasks.language_model import LanguageModel, loss_units

CPU = torch.device("cpu")
TASK = LanguageModel()


def exact_loss(model: torch.nn.Module, batches) -> tuple[float, int]:
    """The loss over all batches, and how many targets there are."""
    totals = measure_all(TASK.measure, model, batches, CPU)
    figures = TASK.figures(totals, split(range(10)))
    assert figures["perplexity"] == perplexity(figures["loss"])
    return figures["loss"], totals["tokens"]


def bigram(vocab_size: int = 7) -> Bigram:
    model = Bigram(vocab_size, 8)
    torch.nn.init.normal_(model.table.weight, generator=torch.Generator().manual_seed(0))
    return model


def nll_by_hand(model: Bigram, pairs) -> float:
    """The summed negative log likelihood of (token, next token) pairs, in Python's floats."""
    table = model.table.weight.detach().double().tolist()
    log_sums = [math.log(sum(map(math.exp, row))) for row in table]
    return math.fsum(log_sums[token] - table[token][target] for token, target in pairs)


def split(tokens, characters: int = 1, size: int = 1, marks=None) -> Split:
    marks = [0, len(tokens) - 1] if marks is None else marks
    return Split("val", np.asarray(tokens, np.uint16), np.array(marks), characters, size, 0)


@pytest.mark.parametrize(("block_size", "stride", "batch_size"), [(8, 8, 4), (8, 3, 5), (1, 1, 64), (500, 500, 1)])
def test_every_token_of_the_split_counts_once(block_size, stride, batch_size):
    tokens = np.random.default_rng(0).integers(0, 7, 403).tolist()
    model = bigram()
    loss, count = exact_loss(model, EvaluationWindows(split(tokens), block_size, stride, batch_size))
    assert count == 402
    assert loss == pytest.approx(nll_by_hand(model, itertools.pairwise(tokens)) / 402, rel=1e-6)


def test_it_is_no_mean_of_batch_means():
    model, tokens = bigram(), np.random.default_rng(1).integers(0, 7, 12).tolist()
    batches = list(EvaluationWindows(split(tokens), 8, 8, 1))
    pairs = [list(itertools.pairwise(tokens))[:8], list(itertools.pairwise(tokens))[8:]]
    sums = [nll_by_hand(model, part) for part in pairs]
    mean_of_means = (sums[0] / 8 + sums[1] / 3) / 2
    loss, _ = exact_loss(model, batches)
    assert loss == pytest.approx(sum(sums) / 11, rel=1e-6)
    assert abs(loss - mean_of_means) > 0.01


def test_ignored_targets_count_nowhere():
    model, ignore = bigram(), IGNORE_INDEX
    inputs, targets = torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.tensor([[1, ignore, 3], [ignore, ignore, 6]])
    measured = TASK.measure(model, {"tokens": inputs, "targets": targets})
    nll, count = measured["nll"], measured["tokens"]
    assert (nll.dtype, count.item()) == (torch.float64, 3)
    assert nll.item() == pytest.approx(nll_by_hand(model, [(0, 1), (2, 3), (5, 6)]), rel=1e-6)
    padding = {"tokens": inputs, "targets": torch.full_like(targets, ignore)}
    assert exact_loss(model, [padding, {"tokens": inputs, "targets": targets}]) == pytest.approx((nll.item() / 3, 3))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_large_sum_loses_nothing(batch_size):
    model = Bigram(2, 1)
    with torch.no_grad():
        model.table.weight[0, 1] = -(2.0**24)
    # 0 -> 1 costs 2**24 nats and 1 -> 0 costs ln 2; in float32 their sum would be 2**24.
    loss, count = exact_loss(model, EvaluationWindows(split([0, 1, 0]), 1, 1, batch_size))
    assert count == 2 and 2 * loss == pytest.approx(2**24 + math.log(2), abs=1e-6)


def test_the_model_is_left_as_it_was():
    class Dropped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bigram, self.dropout = bigram(), torch.nn.Dropout(0.5)

        def forward(self, tokens_BT):
            return self.dropout(self.bigram(tokens_BT))

    batches = EvaluationWindows(split([0, 1, 2, 3, 4, 5, 6]), 4, 4, 2)
    model = Dropped().train()
    state = torch.get_rng_state()
    loss, _ = exact_loss(model, batches)
    assert loss == exact_loss(model.bigram, batches)[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and model.dropout.training
    assert exact_loss(model.eval(), batches)[0] == loss and not model.training


def test_units_of_a_text_of_characters():
    text = "ñandú, ñandú"
    units = loss_units(split(range(len(text)), len(text), len(text.encode())))
    # A uniform guess among 8 characters is 3 bits, for all of the 12 but the first; 16 bytes hold them.
    assert math.log(8) * units["bits_per_character"] == pytest.approx(3 * 11 / 12)
    assert math.log(8) * units["bits_per_byte"] == pytest.approx(3 * 11 / 16)


def test_units_do_not_depend_on_how_a_text_is_cut():
    # The same total of 100 bits, spread over 20 predicted tokens or over 5.
    many, few = split(range(21), 40, 50), split(range(6), 40, 50)
    for part, tokens in ((many, 20), (few, 5)):
        loss = 100 * math.log(2) / tokens
        assert loss * loss_units(part)["bits_per_character"] == pytest.approx(100 / 40)
        assert loss * loss_units(part)["bits_per_byte"] == pytest.approx(100 / 50)


@pytest.mark.parametrize(("loss", "value"), [(0.0, 1.0), (math.log(65), 65.0), (699.0, math.exp(699)), (1e6, math.inf)])
def test_perplexity_never_overflows(loss, value):
    assert perplexity(loss) == pytest.approx(value)


def test_each_split_has_its_own_floors(tmp_path):
    """Words, of which a character's entropy makes another figure in every split."""
    corpus = Grammar(characters=20_000)
    text = prepare(corpus, functools.partial(train_word), tmp_path)
    found = {name: {f.tag: f for f in TASK.floors(text, name, 8)} for name in ("train", "val")}
    for name, part in text.splits.items():
        source = corpus.entropy_per_character * part.characters / len(part.tokens)
        assert found[name]["floor/source"].value == pytest.approx(source, rel=1e-12)
        assert not found[name]["floor/source"].beatable
    assert found["train"]["floor/source"].value != found["val"]["floor/source"].value
    train, val = text.splits["train"].tokens, text.splits["val"].tokens
    order, V = best_order(text), text.tokenizer.size
    train, val = (stream_of(each, np.array([0, len(each) - 1]), V) for each in (train, val))
    wanted = floors(train, val, V, order)
    assert {name: found["val"][f"floor/{name}"].value for name in wanted} == wanted
    assert found["val"]["floor/kneser_ney"].facts == {"floor/kneser_ney_order": order}
    assert found["val"]["floor/kneser_ney"].brief == f"{order}-gram"
    assert found["train"]["floor/unigram"].value == unigram_loss(train, train, V)
    assert found["train"].keys() == {"floor/unigram", "floor/bigram_train", "floor/source"}
    # A floor of the loss is one of all that follows from it; the optimum on the training split is none of this one.
    part = text.splits["val"]
    for tag, floor in found["val"].items():
        bits = floor.value * (len(part.tokens) - 1) / math.log(2)
        levels = {
            "loss": floor.value, "perplexity": math.exp(floor.value),
            "bits_per_character": bits / part.characters, "bits_per_byte": bits / part.bytes,
        }  # fmt: skip
        if tag.removeprefix("floor/") in COMPRESSORS:
            levels = {"bits_per_byte": floor.value}
        assert floor.levels == pytest.approx({} if tag == "floor/bigram_train" else levels)


def test_compressing_programs_have_read_the_training_split(tmp_path):
    text = prepare(Grammar(characters=20_000), functools.partial(train_word), tmp_path)
    found = {f.tag: f.value for f in TASK.floors(text, "val", 8)}
    train, val = ("".join(text.corpus.read()[name]).encode() + b"\n" for name in ("train", "val"))
    sizes = {"gzip": lambda data: len(zlib.compress(data, 9)), "xz": lambda data: len(lzma.compress(data, preset=9))}
    for name, size in sizes.items():
        assert found[f"floor/{name}"] == 8 * (size(train + val) - size(train)) / len(val)


def test_too_little_text_has_no_ngram_floor(tmp_path, capsys):
    (tmp_path / "few.txt").write_text("de la mancha, se.", "utf-8")
    text = prepare(UserText(str(tmp_path / "few.txt"), 0.8, "utf-8"), functools.partial(train_char), tmp_path)
    assert "floor/kneser_ney" not in {floor.tag for floor in TASK.floors(text, "val", 8)}
    assert "13 tokens, too few to choose an n-gram floor by: it is left out" in capsys.readouterr().out


def test_a_sample_starts_from_nothing_and_is_the_same_again(tmp_path):
    text = prepare(Grammar(characters=20_000), functools.partial(train_word), tmp_path)
    model = bigram(text.tokenizer.size)
    state = torch.get_rng_state()
    one, again, other = (TASK.sample(model, text, 9, seed) for seed in (1, 1, 2))
    assert one == again != other and torch.equal(torch.get_rng_state(), state)
