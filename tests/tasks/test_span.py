"""Answers inside a text: places of tokens, windows, and figures, each against the same done by hand."""

import functools
import itertools
import json
import math
import re

import numpy as np
import pytest
import torch
from conftest import CPU
from torch.nn import functional as F

from molino.base.errors import ConfigError, DataError
from molino.configuration.build import build
from molino.configuration.composer import compose
from molino.data.corpus import Corpus
from molino.data.examples import Answer, Example, texts_of
from molino.data.examples_drawn import draw_examples
from molino.data.tokenizers import Tokenizer, train_bpe, train_char, train_word
from molino.data.tokens import prepare
from molino.evaluation.totals import measure_all
from molino.evaluation.written import scores_of
from molino.models.bert import BERT
from molino.models.bigram import Bigram
from molino.models.gpt import GPT
from molino.models.kneser_ney import KneserNey
from molino.models.transformer import Transformer
from molino.models.with_span import WIDTHS, best_spans, shared_with_question
from molino.tasks.context_windows import ContextWindows, answer_at, answer_tokens
from molino.tasks.span import Span

BLOCK = 40
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 8}
WORDS = ("ab", "cde", "fa", "gag", "él", "hi")
MARKS = ("<start>", "<delimiter>", "<extract>")


class Made:
    """Questions that are made up."""

    name, licence, documents, language = "made up", "CC0", True, "es"

    def __init__(self, train, val):
        self.splits = {"train": train, "val": val}

    def fingerprint(self) -> str:
        return f"{abs(hash(str(self.splits))):064x}"

    def examples(self):
        return self.splits

    def read(self):
        return texts_of(self.splits)


def made_up(count: int, seed: int, words: tuple[int, int] = (3, 8)) -> list[Example]:
    """A number of the context, and which word it is by."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        chosen = [str(word) for word in rng.choice(WORDS, rng.integers(*words))]
        at = int(rng.integers(1, len(chosen)))
        number = str(rng.integers(10, 99))
        context = " ".join([*chosen[:at], number, *chosen[at:]])
        found.append(Example(chosen[at - 1], context, answers=(Answer(context.index(number), number),)))
    return found


@pytest.fixture
def prepared(tmp_path):
    def make(train=None, val=None):
        corpus = Made(train or made_up(60, 0), val or made_up(25, 1))
        return prepare(corpus, functools.partial(train_char), tmp_path, Span.tokens)

    return make


def network_of(text, model=BERT, block_size=BLOCK, in_common=False, **sizes):
    torch.manual_seed(0)
    network = (
        Span(in_common=in_common)
        .network(model(vocab_size=text.tokenizer.size, block_size=block_size, **(sizes or SIZES)))
        .eval()
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return network


def scores_by_hand(network, tokenizer: Tokenizer, question: str, context: str):
    """Log-probabilities of a window's <start> and of the tokens of its context, as (2, 1 + C)."""
    start, delimiter, extract = map(tokenizer.backend.token_to_id, MARKS)
    asked, read = tokenizer.encode(question).tolist(), tokenizer.encode(context).tolist()
    ids = torch.tensor([[start, *asked, delimiter, *read, extract]])
    parts = torch.tensor([[0] * (len(asked) + 2) + [1] * (len(read) + 1)])
    more = {"segments_BT": parts} if isinstance(network.model, BERT) else {}
    scores = network.span_head(network.model.hidden(ids, **more))[0].double()
    return torch.cat([scores[:1], scores[len(asked) + 2 : -1]]).log_softmax(0).T.detach()


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
def test_places_of_tokens_are_exact(mirror, tmp_path, language, kind):
    typed = [f"data=xquad_{language}", f"paths.mirror={mirror}", f"paths.cache={tmp_path}"]
    corpus = build(compose("train", typed).settings["data"]["corpus"], "data.corpus", Corpus)
    splits = corpus.examples()
    train = {"bpe": functools.partial(train_bpe, size=1000), "word": train_word, "char": train_char}[kind]
    tokenizer = train(list(texts_of(splits)["train"])).extended(Span.tokens)
    places, exact, encode = {}, [], functools.cache(lambda piece: tokenizer.encode(piece).tolist())
    for example in (each for part in splits.values() for each in part):
        context, (answer,) = example.pair, example.answers
        if context not in places:
            found = places[context] = tokenizer.places(context)
            assert (found[:, 0] <= found[:, 1]).all() and (np.diff(found, axis=0) >= 0).all()
            # What a token covers is what it was made of; of bytes that are part of a character, all of that.
            covered, ids = [context[begin:end] for begin, end in found], tokenizer.encode(context)
            alone = map(encode, covered)
            assert all(id in many if kind == "bpe" else [id] == many for id, many in zip(ids, alone, strict=True))
        first, last = answer_tokens(places[context], example.answers)
        begin, end = int(places[context][first, 0]), int(places[context][last, 1])
        told = answer_at(context, begin, end)
        assert context[told.start : told.start + len(told.text)] == told.text
        assert begin < answer.start + len(answer.text) and end > answer.start
        exact.append(told == answer)
        if not exact[-1]:
            # Tokens may hold more than the answer, and words drop what stands around them.
            longer, shorter = answer.text in told.text, told.text in answer.text
            assert longer or (kind == "word" and shorter), (answer, told)
    assert np.mean(exact) == 1 if kind == "char" else np.mean(exact) > 0.9


def test_the_token_that_holds_a_letter_is_taken_and_no_token_is_no_answer():
    places = np.array([[0, 4], [4, 8], [8, 9], [8, 9], [12, 15]])
    assert answer_tokens(places, (Answer(5, "x"),)) == (1, 1)
    assert answer_tokens(places, (Answer(2, "xxxxx"),)) == (0, 1)
    # A character of two tokens is both; what lies between tokens is none.
    assert answer_tokens(places, (Answer(8, "x"),)) == (2, 3) and answer_tokens(places, (Answer(9, "x"),)) == (-1, -1)
    assert answer_tokens(places, ()) == (-1, -1) and answer_at("a  bc d", 1, 6) == Answer(3, "bc")
    text = "El niño 🙂 comió «pan» ahí."
    for tokenizer in (train_bpe([text], 262), train_bpe([text] * 9, 300)):
        for start, end in ((3, 7), (8, 9), (10, 15), (17, 20), (22, 25)):
            found = tokenizer.places(text)
            first, last = answer_tokens(found, (Answer(start, text[start:end]),))
            assert text[start:end] in answer_at(text, found[first, 0], found[last, 1]).text


@pytest.mark.parametrize("model", [BERT, GPT, Transformer])
def test_figures_are_those_of_each_question_alone(prepared, model):
    text, task = prepared(), Span(longest=4)
    network, examples, nll, told = network_of(text, model), text.corpus.examples()["val"], [], []
    for each in examples:
        log_p = scores_by_hand(network, text.tokenizer, each.text, each.pair)
        (answer,) = each.answers
        last = answer.start + len(answer.text) - 1
        nll.append(-(log_p[0, 1 + answer.start] + log_p[1, 1 + last]).item() / 2)
        spans = {
            (a, b): (log_p[0, 1 + a] + log_p[1, 1 + b]).item()
            for a in range(len(each.pair))
            for b in range(a, min(a + 4, len(each.pair)))
        }
        (a, b), best = max(spans.items(), key=lambda span: span[1])
        told.append((each.pair[a : b + 1].strip(), math.exp(best)))
    totals = measure_all(task.measure, network, task.evaluation(text, "val", BLOCK, None), torch.device("cpu"))
    figures = task.figures(totals, text.splits["val"])
    assert figures["loss"] == pytest.approx(np.mean(nll), rel=1e-5)
    wanted = scores_of("answer", [text for text, _ in told], [[each.answers[0].text] for each in examples], "es")
    assert {name: figures[name] for name in wanted} == wanted and list(wanted) == ["f1", "exact_match"]
    # What is told of them when somebody asks is the same, beside others or alone.
    answers = task.predict(network, text.tokenizer, examples, BLOCK)
    for each, answer, (right, p) in zip(examples, answers, told, strict=True):
        assert answer["answer"] == right == each.pair[answer["start"] : answer["end"]]
        assert answer["score"] == pytest.approx(p, rel=1e-4) and 0 < p <= 1
    (alone,) = task.predict(network, text.tokenizer, examples[3:4], BLOCK)
    assert alone == answers[3] | {"score": pytest.approx(answers[3]["score"], rel=1e-4)}
    # The loss of training is the same figure, of its own split.
    draw = task.draw(text, "documents", BLOCK, 0)
    (micro,) = next(draw_examples(draw, draw.order(60), task.parts, np.arange(1), 1).steps())
    totals = measure_all(task.measure, network, task.evaluation(text, "train", BLOCK, None), torch.device("cpu"))
    loss = task.figures(totals, text.splits["train"])["loss"]
    assert task.loss(network, micro.fields)["loss"].item() == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("stride", [None, 0, 7])
def test_windows_cover_contexts_and_share_tokens(prepared, stride):
    text = prepared(val=made_up(20, 3, words=(2, 60)))
    examples = text.corpus.examples()["val"]
    windows = ContextWindows(text.tokenizer, examples, BLOCK, stride)
    covered = {number: [] for number in range(len(examples))}
    shared = windows.stride
    assert shared == (9 if stride is None else stride)
    for window in range(len(windows)):
        taken = windows.take(np.array([window]))
        number, (begin,), (end,) = windows.numbers_W[window], taken["begins"], taken["ends"]
        example, tokens = examples[number], taken["tokens"][0]
        assert len(tokens) == windows.lengths_W[window] <= BLOCK
        told = [text.tokenizer.decode([id]) for id in tokens]
        assert told[0] == "<start>" and told[begin - 1] == "<delimiter>" and told[end:] == ["<extract>"]
        assert "".join(told[1 : begin - 1]) == example.text
        places = taken["places"][0, begin:end]
        assert "".join(told[begin:end]) == example.pair[places[0, 0] : places[-1, 1]]
        covered[number].append(range(places[0, 0], places[-1, 1]))
        ((first, last),), answer = taken["answers"], example.answers[0]
        whole = covered[number][-1]
        if answer.start in whole and answer.start + len(answer.text) - 1 in whole:
            assert "".join(told[first : last + 1]) == answer.text
        else:
            assert (first, last) == (0, 0)
    for number, parts in covered.items():
        assert parts[0].start == 0 and parts[-1].stop == len(examples[number].pair)
        assert all(len(set(one) & set(other)) == shared for one, other in itertools.pairwise(parts))
    assert max(map(len, covered.values())) > 3
    assert stride == 0 or windows.found_N.all()


def test_an_answer_in_the_middle_of_a_long_context_is_found(prepared):
    """By a network that is sure of numbers alone."""
    context = " ".join(["ab", "cde"] * 30 + ["47"] + ["fa", "hi"] * 40)
    asked = [Example("fa", context, answers=(Answer(context.index("47"), "47"),))]
    text, task = prepared(val=asked), Span()

    class Sure(torch.nn.Module):
        def forward(self, tokens_BT, begins_B, ends_B):
            marked = torch.tensor([text.tokenizer.backend.token_to_id(each) for each in "47"])
            scores = (tokens_BT[:, None] == marked[:, None]) * 20.0
            scores[..., 0] = 5.0
            places = torch.arange(tokens_BT.shape[1])
            there = (places >= begins_B[:, None]) & (places < ends_B[:, None]) | (places == 0)
            return scores.masked_fill(~there[:, None], -torch.inf).log_softmax(-1)

    (answer,) = task.predict(Sure(), text.tokenizer, asked, BLOCK)
    assert answer["answer"] == "47" and answer["start"] == context.index("47") and answer["score"] > 0.99
    windows = ContextWindows(text.tokenizer, asked, BLOCK, None)
    assert len(windows) > 8 and 1 <= (windows.answers_W2[:, 0] > 0).sum() <= 2
    totals = measure_all(task.measure, Sure(), task.evaluation(text, "val", BLOCK, None), torch.device("cpu"))
    assert task.figures(totals, text.splits["val"])["exact_match"] == 100
    assert task.outcomes(totals, text, 3).wrong == []


def test_spans_end_behind_their_beginnings_are_short_and_never_the_first_token():
    log_p_B2T = torch.tensor([[[9.0, 0, 1, 5, 2, 1], [9.0, 0, 7, 1, 2, 6]]]).log_softmax(-1)
    begins_B = torch.tensor([2])
    for longest, wanted in ((1, [2, 2]), (2, [2, 2]), (3, [3, 5]), (30, [3, 5])):
        span_B2, best_B = best_spans(log_p_B2T, begins_B, longest)
        assert span_B2.tolist() == [wanted]
        assert best_B.item() == pytest.approx((log_p_B2T[0, 0, wanted[0]] + log_p_B2T[0, 1, wanted[1]]).item())
    assert best_spans(log_p_B2T, torch.tensor([6]), 3)[1].item() == -math.inf


def test_three_processes_measure_what_one_does(prepared):
    text, task, cpu = prepared(val=made_up(20, 3, words=(2, 60))), Span(), torch.device("cpu")
    network = network_of(text)
    whole = measure_all(task.measure, network, task.evaluation(text, "val", BLOCK, None), cpu)
    parts = [measure_all(task.measure, network, task.evaluation(text, "val", BLOCK, None, r, 3), cpu) for r in range(3)]
    together = {"rows": np.concatenate([part["rows"] for part in parts])}
    found, wanted = (task.figures(each, text.splits["val"]) for each in (together, whole))
    assert all(len(part["rows"]) > 20 for part in parts) and found == pytest.approx(wanted, rel=1e-6)
    draw = task.draw(text, "documents", BLOCK, 3)

    def loss(world_size: int) -> float:
        total = 0.0
        for rank in range(world_size):
            (batches,) = draw_examples(draw, draw.order(9), task.parts, np.arange(1), 1, rank, world_size).steps()
            total += sum(w["loss"] * task.loss(network, batch)["loss"].item() for batch, w in batches) / world_size
        return total

    assert loss(3) == pytest.approx(loss(1), rel=1e-5)


def test_a_small_encoder_learns_to_tell_the_word_or_the_number(prepared):
    train = []
    for each in made_up(200, 5, words=(2, 5)):
        word = next(part for part in each.pair.split() if not part.isdigit())
        right = {"ab": each.answers[0], "hi": Answer(each.pair.index(word), word)}
        train += [Example(question, each.pair, answers=(answer,)) for question, answer in right.items()]
    text, task = prepared(train, train[::7]), Span()
    torch.manual_seed(0)
    bert = BERT(text.tokenizer.size, 24, n_layer=2, n_head=4, n_embd=32, positions="rotary", norm="pre")
    network = task.network(bert)
    draw, optimizer = task.draw(text, "documents", 24, 0), torch.optim.Adam(network.parameters(), 0.01)
    for (batch, _), *_ in draw_examples(draw, draw.order(32), task.parts, np.arange(150), 1).steps():
        optimizer.zero_grad()
        task.loss(network, batch)["loss"].backward()
        optimizer.step()
    totals = measure_all(task.measure, network, task.evaluation(text, "val", 24, None), torch.device("cpu"))
    assert task.figures(totals, text.splits["val"])["exact_match"] > 90


def test_questions_give_way_to_contexts_and_that_is_said(prepared):
    long = Example("ab " * 20, "cde 12 " * 20, answers=(Answer(4, "12"),))
    apart = Example("ab", "fa" * 40, answers=(Answer(0, "fa" * 30),))
    text, task = prepared(val=[long, apart, long._replace(answers=())]), Span()
    assert task.remarks(text, BLOCK) == {
        "questions": "train 60 in 60 windows, val 2 in 17 windows",
        "questions that are cut": "1 of val",
        "answers that no window holds whole": "1 of val",
        "without an answer": "1 of val",
    }
    assert task.cut(text.tokenizer, [long, apart], BLOCK) == 1
    shown = task.sample(network_of(text), text, 20, 0)
    assert shown.count("\n  > ") == shown.count("\n  = ") == 2
    wrong = task.outcomes(
        measure_all(task.measure, network_of(text), task.evaluation(text, "val", BLOCK, None), torch.device("cpu")),
        text,
        7,
    ).wrong
    assert [each.wanted for each in wrong if each.told] and all(0 < each.sure <= 1 for each in wrong)


def test_a_head_is_taken_over_from_another_run_of_the_task(prepared):
    text = prepared()
    one, other = network_of(text), Span().network(BERT(text.tokenizer.size, BLOCK, **SIZES))
    Span().begin(other, one)
    assert torch.equal(one.span_head.weight, other.span_head.weight)
    Span().begin(other, None)
    # What it is told beside its tokens comes as well, and is never lost in silence.
    told, fresh = (
        network_of(text, in_common=True),
        Span(in_common=True).network(BERT(text.tokenizer.size, BLOCK, **SIZES)),
    )
    Span(in_common=True).begin(fresh, told)
    assert torch.equal(told.in_common.matrix.weight, fresh.in_common.matrix.weight)
    Span(in_common=True).begin(fresh, one)
    with pytest.raises(ConfigError, match=r"would be lost: add task.in_common=true"):
        Span().begin(other, told)


def test_what_question_and_context_have_in_common_is_counted_as_by_hand(prepared):
    windows = ContextWindows(prepared().tokenizer, made_up(12, 5, words=(3, 12)), BLOCK, None)
    taken = {name: torch.from_numpy(array) for name, array in windows.take(np.arange(len(windows))).items()}
    found_BTW = shared_with_question(taken["tokens"], taken["begins"], taken["ends"])
    for row, (tokens, begin, end) in enumerate(
        zip(*(taken[name].tolist() for name in ("tokens", "begins", "ends")), strict=True)
    ):
        question, context = tokens[1 : begin - 1], tokens[begin:end]
        shares = [
            1 - math.log(context.count(each)) / math.log(len(context) + 1) if each in question else 0.0
            for each in context
        ]
        for at, width in enumerate(WIDTHS):
            wanted = torch.zeros(len(tokens))
            for place in range(len(context)):
                wanted[begin + place] = sum(shares[max(place - width, 0) : place + width + 1])
            assert torch.allclose(found_BTW[row, :, at], wanted, atol=1e-5)
    assert found_BTW[..., 0].max() > 0.3


@pytest.mark.parametrize("model", [BERT, GPT])
def test_a_network_that_is_told_begins_as_one_that_is_not_and_learns_from_it(prepared, model):
    text = prepared()
    windows = ContextWindows(text.tokenizer, text.corpus.examples()["val"], BLOCK, None)
    taken = {name: torch.from_numpy(array) for name, array in windows.take(np.arange(9)).items()}
    fields = [taken[name] for name in ("tokens", "begins", "ends")]
    plain, told = (
        network_of(text, model),
        Span(in_common=True).network(model(text.tokenizer.size, BLOCK, **SIZES)).eval(),
    )
    told.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(told(*fields), plain(*fields))
    told.loss(*fields, taken["answers"]).backward()
    assert told.in_common.matrix.weight.grad.norm() > 0
    with torch.no_grad():
        told.in_common.matrix.weight.normal_()
    # It is the same beside a longer one, whose padding it has.
    together, shortest = told(*fields), int(windows.lengths_W[:9].argmin())
    alone = windows.take(np.array([shortest]))
    alone = told(*(torch.from_numpy(alone[name]) for name in ("tokens", "begins", "ends")))
    length = alone.shape[2]
    assert torch.allclose(together[shortest, :, :length], alone[0], atol=1e-5)
    assert not torch.allclose(together, plain(*fields), atol=1e-2)


def test_padding_changes_nothing(prepared):
    text = prepared()
    windows = ContextWindows(text.tokenizer, text.corpus.examples()["val"], BLOCK, None)
    shortest, longest = np.argsort(windows.lengths_W)[[0, -1]]
    for model in (BERT, GPT, Transformer):
        network, found = network_of(text, model), []
        for rows in ([shortest], [shortest, longest]):
            taken = windows.take(np.array(rows))
            fields = [torch.from_numpy(taken[name]) for name in ("tokens", "begins", "ends")]
            found.append(network(*fields)[0, :, : windows.lengths_W[shortest]])
        assert torch.allclose(*found, atol=1e-5)
        taken = {name: torch.from_numpy(array) for name, array in windows.take(np.arange(9)).items()}
        loss = network.loss(taken["tokens"], taken["begins"], taken["ends"], taken["answers"])
        by_hand = [
            F.nll_loss(network(*(taken[name][n : n + 1] for name in ("tokens", "begins", "ends")))[0], answer)
            for n, answer in enumerate(taken["answers"])
        ]
        assert loss.item() == pytest.approx(torch.stack(by_hand).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "block_size", "says"),
    [
        ({"longest": 0}, BLOCK, "task.longest=0 is too small"),
        ({"stride": 19}, BLOCK, "task.stride=19 must be from 0 to 18 with data.block_size=40"),
        ({"stride": -1}, BLOCK, "task.stride=-1 must be from 0 to 18"),
        ({}, 4, "data.block_size=4 has no room for a question and a context beside 3 marks: raise it"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(prepared, settings, block_size, says):
    with pytest.raises(ConfigError) as error:
        Span(**settings).draw(prepared(), "documents", block_size, 0)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_other_examples_than_the_task_reads_are_refused(prepared):
    text, task = prepared(), Span()
    with pytest.raises(ConfigError, match=r"stride=4 has no use for this task: windows are cut as task.stride says"):
        task.evaluation(text, "val", BLOCK, 4)
    with pytest.raises(ConfigError, match=r"data.batches=windows has no use for questions"):
        task.draw(text, "windows", BLOCK, 0)
    bare = prepared(train=[Example("ab", "fa cde hi")])
    with pytest.raises(ConfigError, match=r"the train split of made up has none: choose data=xquad_en"):
        task.draw(bare, "windows", BLOCK, 0)
    for wrong in (Example("a"), Example("a", "b", choices=("c", "d")), Example("a", "b", targets=("c",))):
        with pytest.raises(ConfigError, match=r"reads a question and its context \(text and pair of a table\)"):
            task.predict(network_of(text), text.tokenizer, [wrong], BLOCK)
    with pytest.raises(DataError, match=r"the context of question 2 is empty"):
        task.predict(network_of(text), text.tokenizer, [Example("a", "b"), Example("a", "")], BLOCK)
    with pytest.raises(DataError, match=r"question 1 is empty"):
        task.predict(network_of(text), text.tokenizer, [Example(" ", "b")], BLOCK)
    with pytest.raises(DataError, match=r"too few for 99 processes"):
        task.evaluation(text, "val", BLOCK, None, 0, 99)
    with pytest.raises(ConfigError, match=r"KneserNey has no hidden states for a head to read"):
        task.network(KneserNey(9, 8))
    with pytest.raises(ConfigError, match=r"Bigram sees one token at a time"):
        task.network(Bigram(9, 8))
    with pytest.raises(ConfigError, match=r"task.in_common=true: Transformer takes nothing beside its tokens"):
        Span(in_common=True).network(Transformer(9, 8, **SIZES))


def test_a_run_answers_and_is_measured(molino, mirror, tmp_path):
    paths = (f"paths.mirror={mirror}", f"paths.cache={tmp_path / 'cache'}", f"paths.outputs={tmp_path / 'outputs'}")
    sizes = ("data.tokenizer.size=300", "data.block_size=256", "model.n_layer=1", "model.n_embd=8", "model.n_head=2")
    small = ("debug=fast", "data.batch_size=4", "trainer.max_steps=2", "trainer.val_every=2")
    trained = molino("train", "data=xquad_es", "task=span", "model=bert", *sizes, *small, *paths, *CPU)
    assert trained.status == 0, trained.err
    (run,) = (tmp_path / "outputs").iterdir()
    assert re.search(r'predict run=\S+ question="\.\.\." context="\.\.\."', trained.out)
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert {"val/f1", "val/exact_match", "val/loss", "floor/common_words", "floor/random"} <= summary.keys()
    measured = molino("evaluate", f"run={run}", *paths, *CPU)
    assert measured.status == 0, measured.err
    assert "exact match" in measured.out and "common words" in measured.out
    table = tmp_path / "asked.jsonl"
    table.write_text(json.dumps({"text": "¿Quién duerme?", "pair": "El niño duerme ahí. " * 30}) + "\n", "utf-8")
    told = molino("predict", f"run={run}", f"file={table}", *CPU)
    assert told.status == 0, told.err
    question = ("question=¿Quién (dice) «duerme»?", 'context=El niño\'s "casa", que duerme.')
    assert molino("predict", f"run={run}", *question, *CPU).out.strip() in question[1]
    answer = json.loads(told.out)
    assert answer["answer"] == answer["pair"][answer["start"] : answer["end"]] and 0 <= answer["score"] <= 1
