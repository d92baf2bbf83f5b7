"""Pairs: what a batch holds, what is lost on it, what is written and measured; each against the same done by hand."""

import functools
import math
import pickle

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU
from torch.nn import functional as F

from molino.base.errors import ConfigError, DataError
from molino.data.examples import Example, texts_of
from molino.data.examples_drawn import draw_examples
from molino.data.tokenizers import Tokenizer, train_char
from molino.data.tokens import prepare
from molino.evaluation.totals import measure_all
from molino.generation.targets import Writing
from molino.models import IGNORE_INDEX
from molino.models.bert import BERT
from molino.models.gpt import GPT
from molino.models.kneser_ney import KneserNey
from molino.models.llama import Llama
from molino.models.t5 import T5
from molino.models.transformer import Transformer
from molino.tasks.sequence_to_sequence import SequenceToSequence

BLOCK = 16
CPU = torch.device("cpu")
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 32}
MODELS = {"transformer": Transformer, "t5": T5, "gpt": GPT, "llama": Llama}


class Corpus:
    """Words, and the same ones spelt backwards."""

    name, licence, documents = "made up", "CC0", True

    def __init__(self, train, val):
        self.splits = {"train": train, "val": val}

    def fingerprint(self) -> str:
        return f"{abs(hash(str(self.splits))):064x}"

    def examples(self):
        return self.splits

    def read(self):
        return texts_of(self.splits)


def made_up(count: int, seed: int, longest: int = 8) -> list[Example]:
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdef"), rng.integers(1, longest))) for _ in range(count)]
    return [Example(word, targets=(word[::-1],)) for word in words]


@pytest.fixture
def prepared(tmp_path):
    def make_text(train=None, val=None, joint=True):
        corpus = Corpus(train or made_up(40, 0), val or made_up(25, 1))
        return prepare(corpus, functools.partial(train_char), tmp_path, SequenceToSequence.tokens, joint)

    return make_text


def network_of(task: SequenceToSequence, text, model=Transformer, **settings):
    task.settle(text)
    torch.manual_seed(0)
    size = BLOCK if model in (Transformer, T5) else 2 * BLOCK
    network = task.network(model(vocab_size=text.tokenizer.size, block_size=size, **SIZES, **settings))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network.eval()


def by_hand(network, text, example: Example) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of a pair read alone, and what they should tell."""
    start, end = text.tokenizer.backend.token_to_id("<start>"), text.tokenizer.end_of_text_id
    source = [*text.tokenizer.encode(example.text).tolist(), end]
    target = [*text.tokenizer.encode(example.targets[0]).tolist(), end]
    logits_BTV = network(torch.tensor([[start, *target[:-1]]]), torch.tensor([source]))
    return logits_BTV[0], torch.tensor(target)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_loss_is_that_of_pairs_read_alone(prepared, model):
    text, task = prepared(), SequenceToSequence(smoothing=0.1)
    network = network_of(task, text, model)
    examples = text.corpus.splits["val"]
    read = [by_hand(network, text, each) for each in examples]
    logits_NV, targets_N = (torch.cat(each) for each in zip(*read, strict=True))
    expected = F.cross_entropy(logits_NV, targets_N).item()
    figures = measured(task, network, text)
    assert figures["loss"] == pytest.approx(expected, rel=1e-5)
    assert figures["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)

    draw = task.draw(text, "documents", BLOCK, 0)
    (micro,) = next(draw_examples(draw, draw.order(40), task.parts, np.arange(1), 1).steps())
    read = [by_hand(network, text, each) for each in text.corpus.splits["train"]]
    logits_NV, targets_N = (torch.cat(each) for each in zip(*read, strict=True))
    losses = task.loss(network, micro.fields)
    assert losses["loss"].item() == pytest.approx(F.cross_entropy(logits_NV, targets_N).item(), rel=1e-5)
    smoothed = F.cross_entropy(logits_NV, targets_N, label_smoothing=0.1).item()
    assert losses["smoothed_loss"].item() == pytest.approx(smoothed, rel=1e-5)
    assert task.parts == {"smoothed_loss": 1.0, "loss": 0.0}
    assert not losses["loss"].requires_grad and losses["smoothed_loss"].requires_grad


def measured(task, network, text, split="val", ranks=1):
    totals = [
        measure_all(task.measure, network, task.evaluation(text, split, BLOCK, None, rank, ranks), CPU)
        for rank in range(ranks)
    ]
    together = {name: sum(each[name] for each in totals) for name in totals[0] if name != "written"}
    together["written"] = np.concatenate([each["written"] for each in totals])
    return task.figures(together, text.splits[split])


@pytest.mark.parametrize("writing", [Writing(), Writing(beams=3)], ids=["greedy", "beams"])
def test_what_is_written_is_scored_over_the_whole_split(prepared, writing):
    text, task = prepared(), SequenceToSequence(writing=writing)
    network = network_of(task, text)
    examples = text.corpus.splits["val"]
    told = [each["translation_text"] for each in task.predict(network, text.tokenizer, examples, BLOCK)]
    figures = measured(task, network, text)
    assert figures["bleu"] == pytest.approx(BLEU().corpus_score(told, [[e.targets[0] for e in examples]]).score)
    assert measured(task, network, text, ranks=3) == pytest.approx(figures, rel=1e-6)
    assert list(figures) == [metric.name for metric in task.metrics]


def test_figures_of_some_are_called_partial(prepared):
    text = prepared()
    task = SequenceToSequence(written=5)
    network = network_of(task, text)
    figures = measured(task, network, text)
    assert set(figures) == {"loss", "perplexity", "partial_bleu", "partial_chrf", "partial_bleu_lowercase"}
    batches = task.evaluation(text, "val", BLOCK, None)
    assert sum(int(batch["written"].sum()) for batch in batches) == 5
    assert batches.describe()["written"] == "5 of them"
    none = SequenceToSequence(written=0)
    assert [metric.name for metric in none.metrics] == ["loss", "perplexity"]
    assert set(measure_all(none.measure, network, none.evaluation(text, "val", BLOCK, None), CPU)) == {"nll", "tokens"}
    assert none.floors(text, "val", BLOCK) == []


@pytest.mark.parametrize("model", [Transformer, GPT])
def test_it_learns_to_write(prepared, model):
    """A letter that stands for another one, whatever else there is."""
    other = dict(zip("ghijkl", "hijklg", strict=True))
    rng = np.random.default_rng(3)
    words = ["".join(rng.choice(list("ghijkl"), rng.integers(1, 4))) for _ in range(200)]
    examples = [Example(word, targets=("".join(map(other.get, word)),)) for word in words]
    text, task = prepared(examples, examples[:30]), SequenceToSequence(score="answer")
    torch.manual_seed(0)
    size = BLOCK if model is Transformer else 2 * BLOCK
    # Post-norm blocks want a longer warm-up than there is.
    more = {"norm": "pre"} if model is Transformer else {}
    task.settle(text)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 64}
    network = task.network(model(vocab_size=text.tokenizer.size, block_size=size, **sizes, **more))
    draw = task.draw(text, "documents", BLOCK, 0)
    optimizer = torch.optim.Adam(network.parameters(), 0.003)
    for (batch, _), *_ in draw_examples(draw, draw.order(32), task.parts, np.arange(300), 1).steps():
        optimizer.zero_grad()
        sum(task.loss(network, batch).values()).backward()
        optimizer.step()
    assert measured(task, network.eval(), text)["exact_match"] > 90


def test_a_batch_holds_what_it_says(prepared):
    text = prepared()
    task = SequenceToSequence()
    draw, tokenizer = task.draw(text, "documents", BLOCK, 0), text.tokenizer
    order = draw.order(8)
    (micro,) = next(draw_examples(draw, order, task.parts, np.arange(1), 1).steps())
    fields = micro.fields
    for row, number in enumerate(order(0)):
        example = text.corpus.splits["train"][number]
        source = fields["source"][row][fields["seen"][row].bool()]
        assert tokenizer.decode(source) == example.text + "<|endoftext|>"
        assert (fields["source"][row][~fields["seen"][row].bool()] == tokenizer.padding_id).all()
        kept = fields["targets"][row] != IGNORE_INDEX
        assert tokenizer.decode(fields["targets"][row][kept]) == example.targets[0] + "<|endoftext|>"
        assert tokenizer.decode(fields["tokens"][row][kept]) == "<start>" + example.targets[0]
    assert draw.sizes_NF.tolist() == [[len(e.text) + 1, len(e.text) + 1] for e in text.corpus.splits["train"]]


def test_long_sources_are_cut_and_long_targets_refused(prepared):
    text = prepared(val=[Example("a" * 30, targets=("b",)), Example("c", targets=("d",))])
    task = SequenceToSequence()
    batches = task.evaluation(text, "val", BLOCK, None)
    (batch,) = batches
    assert sorted(batch["seen"].sum(1).tolist()) == [2, BLOCK] and "1 of them cut" in batches.describe()["pairs"]
    assert task.remarks(text, BLOCK)["sources that are cut"] == "1 of val"
    assert task.cut(text.tokenizer, [Example("a" * 30), Example("a" * 15), Example("a" * 16)], BLOCK) == 2
    long = prepared(val=[Example("a", targets=("b",)), Example("c", targets=("d" * 20,))])
    with pytest.raises(DataError, match=r"target 2 of val has 21 tokens .*data.block_size=16 .*raise it to 21"):
        SequenceToSequence().evaluation(long, "val", BLOCK, None)


def test_answers_look_as_in_a_pipeline(prepared):
    text = prepared()
    asked = [Example("abc"), Example("f")]
    task = SequenceToSequence(score="summary", writing=Writing(beams=3, n_best=2))
    network = network_of(task, text)
    first, _ = task.predict(network, text.tokenizer, asked, BLOCK)
    assert list(first) == ["summary_text", "score", "others"]
    assert first["others"][0].keys() == {"summary_text", "score"} and first["others"][0]["score"] <= first["score"]
    plain = SequenceToSequence()
    assert list(plain.predict(network, text.tokenizer, asked, BLOCK)[0]) == ["translation_text", "score"]
    shown = plain.sample(network, text, 100, 0)
    assert all(each in shown for each in (text.corpus.splits["val"][0].text, "\n  > ", "\n  = "))
    with pytest.raises(DataError, match="source 2 is empty"):
        plain.predict(network, text.tokenizer, [Example("a"), Example("")], BLOCK)
    with pytest.raises(ConfigError, match="pair"):
        plain.predict(network, text.tokenizer, [Example("a", "b")], BLOCK)


def test_floors_are_of_the_scores(prepared):
    text = prepared(made_up(300, 0))
    floors = {floor.tag: floor for floor in SequenceToSequence(score="answer").floors(text, "val", BLOCK)}
    same = np.mean([e.text == e.targets[0] for e in text.corpus.splits["val"]])
    assert floors["floor/copy"].levels["exact_match"] == pytest.approx(100 * same)
    partial = SequenceToSequence(score="answer", written=3).floors(text, "val", BLOCK)
    few = [text.corpus.splits["val"][number] for number in (0, 12, 24)]
    copied = 100 * np.mean([e.text == e.targets[0] for e in few])
    assert partial[0].levels["partial_exact_match"] == pytest.approx(copied)
    assert all(name.startswith("partial_") for floor in partial for name in floor.levels)


def test_sources_may_have_a_vocabulary_of_their_own(prepared, tmp_path):
    capitals = [each._replace(targets=(each.targets[0].upper(),)) for each in made_up(40, 0)]
    text, task = prepared(capitals, capitals[:20], joint=False), SequenceToSequence()
    tokenizer = text.tokenizer
    assert not tokenizer.is_joint and tokenizer.of("source") is tokenizer.source and tokenizer.of("tokens") is tokenizer
    assert tokenizer.unknown("abcABC") == ["a", "b", "c"] and tokenizer.source.unknown("abcABC") == ["A", "B", "C"]
    task.settle(text)
    sizes = {"vocab_size": tokenizer.size, "source_vocab_size": tokenizer.source.size, "block_size": BLOCK, **SIZES}
    network = task.network(Transformer(share_tables=False, **sizes)).eval()
    for batch in task.evaluation(text, "val", BLOCK, None):
        for row, number in enumerate(batch["numbers"].tolist()):
            source = batch["source"][row][batch["seen"][row].bool()]
            assert tokenizer.source.decode(source) == capitals[number].text + "<|endoftext|>"
            kept = batch["targets"][row] != IGNORE_INDEX
            assert tokenizer.decode(batch["tokens"][row][kept]) == "<start>" + capitals[number].targets[0]
    assert measured(task, network, text)["loss"] > 0
    told = task.predict(network, tokenizer, [Example("abc")], BLOCK)[0]["translation_text"]
    assert not set(told) & set("abcdef")

    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    assert again.digest == tokenizer.digest != Tokenizer.load(tmp_path / "source_tokenizer.json").digest
    assert again.source.json() == tokenizer.source.json()
    assert pickle.loads(pickle.dumps(again)).source.json() == again.source.json()
    once_more = prepared(capitals, capitals[:20], joint=False)
    assert once_more.digest == text.digest != prepared(capitals, capitals[:20]).digest


@pytest.mark.parametrize(
    ("settings", "named"), [({"smoothing": 1.0}, "smoothing"), ({"written": -1}, "written"), ({"score": "x"}, "score")]
)
def test_settings_out_of_range_are_refused(settings, named):
    with pytest.raises(ConfigError, match=f"task.{named}"):
        SequenceToSequence(**settings)


def test_what_does_not_go_with_it_is_refused(prepared):
    text, task = prepared(), SequenceToSequence()
    with pytest.raises(ConfigError, match="batches=windows"):
        task.draw(text, "windows", BLOCK, 0)
    with pytest.raises(ConfigError, match="stride"):
        task.evaluation(text, "val", BLOCK, 4)
    for model in (BERT(8, 8, n_layer=1, n_head=1, n_embd=8), KneserNey(8, 8, order=2)):
        with pytest.raises(ConfigError, match="model=transformer"):
            task.network(model)
    without = prepared([Example("a")], [Example("b")])
    with pytest.raises(ConfigError, match="has none"):
        task.settle(without)
    more = prepared([Example("a", "b", targets=("c",))], [Example("a", "b", targets=("c",))])
    with pytest.raises(ConfigError, match="more beside it"):
        task.settle(more)
