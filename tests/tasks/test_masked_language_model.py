"""Hidden tokens: which ones, what stands in their place, and figures against sums by hand."""

import functools
import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch

from molino.base.errors import ConfigError
from molino.data.corpora.local import UserText
from molino.data.examples import Example
from molino.data.tokenizers import train_bpe, train_char, train_word
from molino.data.tokens import prepare
from molino.evaluation.totals import measure_all
from molino.models import IGNORE_INDEX
from molino.models.bert import BERT
from molino.models.gpt import GPT
from molino.tasks.language_model import LanguageModel
from molino.tasks.masked_language_model import MASK, MaskedLanguageModel, words_of

TASK = MaskedLanguageModel()
BLOCK_SIZE = 16
PLAIN = " ".join(f"word{n % 7} and thing{n % 11}" for n in range(600))


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(PLAIN, "utf-8")
    return prepare(UserText(str(tmp_path / "text.txt")), functools.partial(train_char), tmp_path / "cache", TASK.tokens)


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(" ".join(["a b c", "d e f g"][number % 2] for _ in range(number + 1)))
    corpus = UserText(str(folder))
    return prepare(corpus, functools.partial(train_word), tmp_path / "cache", TASK.tokens)


def bert(text) -> BERT:
    torch.manual_seed(0)
    model = BERT(text.tokenizer.size, BLOCK_SIZE, n_layer=1, n_head=2, n_embd=8).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def test_shares_of_what_is_chosen_and_what_becomes_of_it(text):
    rows = TASK.draw(text, "windows", BLOCK_SIZE, 3).rows(np.arange(8000).reshape(8, 10, 100))
    tokens, targets = rows.fields["tokens"], rows.fields["targets"]
    chosen, mask_id = targets != IGNORE_INDEX, text.tokenizer.backend.token_to_id(MASK)
    N, V = chosen.sum(), text.tokenizer.size
    assert chosen.mean() == pytest.approx(0.15, abs=4 * math.sqrt(0.15 * 0.85 / chosen.size))
    # A token that is drawn from the vocabulary may be the mask, or the one that stood there.
    shares = {
        "mask": ((tokens == mask_id)[chosen].mean(), 0.8 + 0.1 / V),
        "kept": ((tokens == targets)[chosen].mean(), 0.1 + 0.1 / V),
    }
    for found, wanted in shares.values():
        assert found == pytest.approx(wanted, abs=4 * math.sqrt(wanted * (1 - wanted) / N))
    others = tokens[chosen & (tokens != mask_id) & (tokens != targets)]
    assert len(np.unique(others)) > V * 0.9
    assert (rows.counts["loss"] == chosen.sum(axis=-1)).all() and rows.fields["seen"].all()


def test_batches_are_a_pure_function_of_seed_and_rows(text):
    draw = TASK.draw(text, "windows", BLOCK_SIZE, 3)
    whole = draw.rows(np.arange(60).reshape(3, 2, 10)).fields
    for numbers in (np.arange(60).reshape(6, 1, 10), np.arange(60).reshape(1, 60, 1)):
        for name, array in draw.rows(numbers).fields.items():
            assert (array.reshape(60, -1) == whole[name].reshape(60, -1)).all()
    other = TASK.draw(text, "windows", BLOCK_SIZE, 4).rows(np.arange(60).reshape(3, 2, 10)).fields
    assert (other["targets"] != whole["targets"]).any()
    # The same window is hidden otherwise when it comes again.
    rows = draw.rows(np.arange(20_000).reshape(1, 1, -1)).fields
    windows = np.where(rows["targets"] != IGNORE_INDEX, rows["targets"], rows["tokens"])[0, 0]
    (same, count), *_ = Counter(map(bytes, windows)).most_common()
    at = [number for number, row in enumerate(windows) if bytes(row) == same]
    assert count > 2 and len({bytes(rows["targets"][0, 0][number]) for number in at}) > count / 2


@pytest.mark.parametrize("kind", ["text", "documents"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_each_token_is_read_once_and_the_same_are_hidden(kind, world_size, request):
    text = request.getfixturevalue(kind)
    tokens, found = text.splits["val"].tokens, Counter()
    batches = [
        batch
        for rank in range(world_size)
        for batch in TASK.evaluation(text, "val", BLOCK_SIZE, None, rank, world_size)
    ]
    read = sum(int(batch["seen"].sum()) for batch in batches)
    assert read == len(tokens)
    for batch in batches:
        assert (batch["targets"][~batch["seen"]] == IGNORE_INDEX).all()
        found.update(batch["targets"][batch["targets"] != IGNORE_INDEX].tolist())
    wanted = Counter(tokens[TASK.chosen(text, "val")].tolist())
    assert found == wanted and text.tokenizer.end_of_text_id not in found and sum(found.values()) > 20


@pytest.mark.parametrize("kind", ["text", "documents"])
def test_figures_are_sums_over_hidden_tokens(kind, request):
    text = request.getfixturevalue(kind)
    model, nll, right, count = bert(text), 0.0, 0, 0
    for batch in TASK.evaluation(text, "val", BLOCK_SIZE, None):
        for tokens, targets, seen in zip(batch["tokens"], batch["targets"], batch["seen"], strict=True):
            log_p = model(tokens[seen][None])[0].double().log_softmax(-1).detach()
            for place, wanted in enumerate(targets[seen].tolist()):
                if wanted != IGNORE_INDEX:
                    nll, count = nll - float(log_p[place, wanted]), count + 1
                    right += int(log_p[place].argmax()) == wanted
    batches = TASK.evaluation(text, "val", BLOCK_SIZE, None)
    totals = measure_all(TASK.measure, model, batches, torch.device("cpu"))
    figures = TASK.figures(totals, text.splits["val"])
    assert figures["loss"] == pytest.approx(nll / count, rel=1e-5) and totals["tokens"] == count
    assert figures["perplexity"] == pytest.approx(math.exp(nll / count), rel=1e-5)
    assert figures["accuracy"] == right / count


def test_floors_are_what_counting_by_hand_says(text):
    train, val = (text.splits[name].tokens.tolist() for name in ("train", "val"))
    V, places = text.tokenizer.size, np.flatnonzero(TASK.chosen(text, "val")).tolist()
    pairs, ones, firsts = Counter(itertools.pairwise(train)), Counter(train), Counter(train[:-1])
    unigram, neighbours = TASK.floors(text, "val", BLOCK_SIZE)
    by_hand = [math.log((ones[val[place]] + 1) / (len(train) + V)) for place in places]
    assert unigram.value == pytest.approx(-math.fsum(by_hand) / len(places), rel=1e-9)

    def log_p(alpha: float, place: int) -> float:
        def of(pair: tuple[int, int]) -> float:
            return (pairs[pair] + alpha) / (firsts[pair[0]] + alpha * V)

        left = val[place - 1] if place > 0 and place - 1 not in places else None
        right = val[place + 1] if place + 1 < len(val) and place + 1 not in places else None
        told = []
        for w in range(V):
            p = (ones[w] + 1) / (len(train) + V) if left is None else of((left, w))
            told.append(p if right is None else p * of((w, right)))
        return math.log(told[val[place]] / math.fsum(told))

    losses = [-math.fsum(log_p(alpha, place) for place in places) / len(places) for alpha in (0.01, 0.03, 0.1, 0.3, 1)]
    assert neighbours.value == pytest.approx(min(losses), rel=1e-9) and neighbours.value < unigram.value
    assert neighbours.levels["perplexity"] == pytest.approx(math.exp(min(losses)))


def test_an_answer_fills_one_mask(text):
    model, tokenizer = bert(text), text.tokenizer
    (answer,) = TASK.predict(model, tokenizer, [Example(f"word{MASK} and")], BLOCK_SIZE)
    parts = [tokenizer.encode("word"), [tokenizer.backend.token_to_id(MASK)], tokenizer.encode(" and")]
    ids = torch.from_numpy(np.concatenate(parts).astype(np.int64))[None]
    p = model(ids)[0, 4].softmax(-1).detach()
    assert answer["score"] == pytest.approx(float(p.max()), rel=1e-5) and len(answer["probabilities"]) == 5
    assert answer["token"] == int(p.argmax()) and answer["token_str"] == tokenizer.decode([answer["token"]])
    assert tokenizer.token(answer["token"]) == next(iter(answer["probabilities"]))
    assert answer["sequence"] == tokenizer.decode([*ids[0, :4].tolist(), int(p.argmax()), *ids[0, 5:].tolist()])
    # Of a long text what is around the mask is read.
    (long,) = TASK.predict(model, tokenizer, [Example(f"{'and ' * 40}word{MASK} and {'thing ' * 40}")], BLOCK_SIZE)
    assert long["sequence"].startswith("and and") and len(long["sequence"]) == 40 * 4 + 5 + 5 + 40 * 6
    assert TASK.cut(tokenizer, [Example(f"word{MASK} and"), Example(f"{'and ' * 40}word{MASK}")], BLOCK_SIZE) == 1
    for wrong, count in (("word", 0), (f"{MASK}{MASK}", 2)):
        with pytest.raises(ConfigError, match=f"needs one <mask> to be filled, and text 2 has {count}"):
            TASK.predict(model, tokenizer, [Example(MASK), Example(wrong)], BLOCK_SIZE)


def test_a_sample_shows_what_was_put_in_for_what(text):
    shown = TASK.sample(bert(text), text, BLOCK_SIZE, seed=0)
    assert shown.count("[") >= 1
    whole = text.tokenizer.decode(text.splits["val"].tokens[:BLOCK_SIZE].tolist())
    pieces = [piece.split("|")[-1] for piece in shown.replace("[", "]").split("]")]
    assert "".join(pieces) == whole


def test_each_task_has_its_models(text):
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8}
    with pytest.raises(ConfigError, match=r"needs a model that sees both ways, which GPT does not: choose model=bert"):
        TASK.network(GPT(9, 8, **sizes))
    with pytest.raises(ConfigError, match=r"BERT sees those that come: choose task=masked_language_model"):
        LanguageModel().network(BERT(9, 8, **sizes))
    with pytest.raises(ConfigError, match=r"stride=4 has no use for this task"):
        TASK.evaluation(text, "val", BLOCK_SIZE, 4)


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"share": 0}, "task.share=0"), ({"share": 1.5}, "task.share=1.5"), ({"masked": 0.95}, "task.masked=0.95")],
)
def test_shares_out_of_range_are_one_line(settings, says):
    with pytest.raises(ConfigError, match=says):
        MaskedLanguageModel(**settings)


def test_words_are_hidden_whole(text):
    """Words by a regular expression over the text, as it was read."""
    task = MaskedLanguageModel(whole_words=True)
    chosen, tokens = task.chosen(text, "val"), text.splits["val"].tokens.tolist()
    read = text.tokenizer.decode(tokens)
    words = [match.span() for match in re.finditer(r"\w+|\W", read)]
    whole = [chosen[begin:end].all() for begin, end in words]
    assert all(chosen[begin:end].any() == all_of_it for (begin, end), all_of_it in zip(words, whole, strict=True))
    share = sum(whole) / len(words)
    assert len(read) == len(tokens) and share == pytest.approx(0.15, abs=4 * math.sqrt(0.15 * 0.85 / len(words)))
    rows = task.draw(text, "windows", BLOCK_SIZE, 3).rows(np.arange(300)[None, None]).fields
    for seen, targets in zip(rows["tokens"][0, 0], rows["targets"][0, 0], strict=True):
        window = text.tokenizer.decode(np.where(targets == IGNORE_INDEX, seen, targets).tolist())
        for match in re.finditer(r"\w+|\W", window):
            assert len(set((targets[match.start() : match.end()] != IGNORE_INDEX).tolist())) == 1


@pytest.mark.parametrize(
    ("train", "words", "wanted"),
    [
        (functools.partial(train_word), "one two one", [0, 0, 0]),
        (functools.partial(train_char), "ab, c1", [0, 1, 0, 0, 0, 1]),
        (functools.partial(train_bpe, size=300), "zq zqx, y", [0, 1, 0, 0, 0]),
    ],
)
def test_which_token_begins_a_word(train, words, wanted):
    tokenizer = train(["one two ab, c1 zqx y"])
    tokens = tokenizer.encode(words).astype(np.int64)
    assert words_of(tokenizer)(tokens[None])[0].tolist() == wanted, [tokenizer.token(int(id)) for id in tokens]
