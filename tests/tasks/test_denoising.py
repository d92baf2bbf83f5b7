"""Hidden parts of texts: what is read and written about them holds the text, and figures are sums by hand."""

import functools
import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import CPU

from molino.base.errors import ConfigError, DataError
from molino.data.batches import draw_block
from molino.data.corpora.local import UserText
from molino.data.examples import Example
from molino.data.tokenizers import Tokenizer, train_bpe, train_char
from molino.data.tokens import prepare
from molino.evaluation.totals import measure_all
from molino.models import IGNORE_INDEX
from molino.models.bert import BERT
from molino.models.bigram import Bigram
from molino.models.gpt import GPT
from molino.models.source_first import SourceFirst
from molino.models.t5 import T5
from molino.models.transformer import Transformer
from molino.tasks.answers_in_words import sources_of
from molino.tasks.denoising import Denoising
from molino.tasks.noise import Marks, Noise, Noised
from molino.trained.load import load_run
from molino.trained.looking import look

BLOCK = 24
PLAIN = " ".join(f"word{n % 7} and thing{n % 11}" for n in range(600))
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 8}
KINDS = ("spans", "infill")
# Texts have other tokens than these.
MARKS = {"spans": Marks(1, 2, 3, np.arange(100, 200)), "infill": Marks(1, 2, 3, np.array([100]))}
FIRST = 1000


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(PLAIN, "utf-8")
    return lambda task: prepare(
        UserText(str(tmp_path / "text.txt")), functools.partial(train_bpe, size=280), tmp_path / "cache", task.tokens
    )


@pytest.fixture
def documents(tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.txt").write_text("a b c d e f "[number % 5 :] * (number % 7 + 1))
    return lambda task: prepare(UserText(str(folder)), functools.partial(train_char), tmp_path / "cache", task.tokens)


def network_of(task: Denoising, text, model=T5):
    torch.manual_seed(0)
    network = task.network(model(text.tokenizer.size, 2 * BLOCK if model is GPT else BLOCK, **SIZES)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return network


def texts(rows: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = np.concatenate([np.arange(longest + 1), rng.integers(0, longest + 1, rows)])
    return rng.integers(FIRST, 2 * FIRST, (len(sizes), longest)), sizes


def restored(source: list[int], target: list[int], first: int = FIRST) -> list[int]:
    """The text that spans were hidden of: each mark gives way to what was written about it."""
    parts: dict[int, list[int]] = {}
    for token in target:
        if token < first:
            assert token not in parts
            parts[token] = []
        else:
            parts[list(parts)[-1]].append(token)
    assert [token for token in source if token < first] == list(parts) and all(parts.values())
    return [each for token in source for each in (parts[token] if token < first else [token])]


def pair(noised: Noised, row: int) -> tuple[list[int], list[int]]:
    """A source and a target without their ends and padding."""
    source = noised.source[row][noised.seen[row]].tolist()
    target = noised.targets[row][noised.targets[row] != IGNORE_INDEX].tolist()
    assert source[-1] == target[-1] == 2 and (noised.source[row][~noised.seen[row]] == 3).all()
    assert noised.tokens[row][: len(target)].tolist() == [1, *target[:-1]]
    return source[:-1], target[:-1]


@pytest.mark.parametrize(("share", "mean"), [(0.15, 3.0), (0.3, 3.0), (0.5, 1.0), (0.01, 20.0)])
def test_what_is_read_and_what_is_written_hold_the_text(share, mean):
    tokens, sizes = texts(300, 63)
    for kind in KINDS:
        noise = Noise(kind, share, mean)
        noised = noise(tokens, sizes, np.arange(len(sizes)), 3, MARKS[kind])
        assert max(noised.source.shape[1], noised.targets.shape[1]) <= 64
        for row, size in enumerate(sizes):
            whole = tokens[row, :size].tolist()
            source, target = pair(noised, row)
            hidden = max(round(share * size), min(size, 1))
            assert size - sum(token >= FIRST for token in source) == hidden == noise.hidden(sizes)[row]
            if kind == "spans":
                assert restored(source, target) == whole
                spans = max(min(round(hidden / mean), hidden, size - hidden), min(hidden, 1))
                assert list(range(100, 100 + spans)) == [token for token in target if token < FIRST]
            else:
                assert target == whole
                left = iter(whole)
                assert all(token in left for token in source if token != 100)  # in their order


def test_spans_are_as_long_and_stand_where_they_may():
    tokens, sizes, rows = np.arange(FIRST, FIRST + 120)[None], 120, 6000
    noised = Noise("spans", 0.15, 3.0)(
        np.repeat(tokens, rows, axis=0), np.full(rows, sizes), np.arange(rows), 0, MARKS["spans"]
    )
    hidden = np.zeros(sizes)
    lengths: Counter[int] = Counter()
    for row in range(rows):
        source, target = pair(noised, row)
        hidden[np.setdiff1d(tokens[0], source) - FIRST] += 1
        lengths.update(np.diff([*np.flatnonzero(np.array(target) < FIRST), len(target)]) - 1)
    assert sum(hidden) == rows * 18 and lengths.total() == rows * 6
    # As much is hidden everywhere, but for the ends, where a span has to begin, or to end.
    assert np.ptp(hidden[20:-20]) / rows < 0.04 and hidden[20:-20].mean() / rows == pytest.approx(0.16, abs=0.02)
    assert hidden[[0, -1]] / rows == pytest.approx(6 / 103, abs=0.015)
    # All ways to share 18 tokens among 6 spans are equally likely.
    ways = math.comb(17, 5)
    for length in range(1, 10):
        wanted = math.comb(17 - length, 4) / ways
        assert lengths[length] / lengths.total() == pytest.approx(wanted, abs=5 * math.sqrt(wanted / lengths.total()))
    noised = Noise("infill", 0.3, 3.0)(
        np.repeat(tokens, rows, axis=0), np.full(rows, sizes), np.arange(rows), 0, MARKS["infill"]
    )
    masks = (noised.source == 100).sum(axis=1)
    # The same drawn by a loop: lengths by Poisson's law until 36 tokens are hidden.
    rng, counts = np.random.default_rng(1), []
    for _ in range(rows):
        left, count = 36, 0
        while left > 0:
            left, count = left - rng.poisson(3.0), count + 1
        counts.append(count)
    for one, other in ((masks.mean(), np.mean(counts)), (masks.std(), np.std(counts))):
        assert one == pytest.approx(other, abs=5 * np.std(counts) * math.sqrt(2 / rows))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batches", ["windows", "documents"])
def test_batches_are_a_pure_function_of_seed_and_rows(text, documents, kind, batches):
    task = Denoising(kind=kind)
    data = (text if batches == "windows" else documents)(task)
    draw = task.draw(data, batches, BLOCK, 3)
    whole = draw.rows(np.arange(60).reshape(3, 2, 10))
    for numbers in (np.arange(60).reshape(6, 1, 10), np.arange(60).reshape(1, 60, 1)):
        for name, array in draw.rows(numbers).fields.items():
            assert (array.reshape(60, -1) == whole.fields[name].reshape(60, -1)).all()
    other = task.draw(data, batches, BLOCK, 4).rows(np.arange(60).reshape(3, 2, 10)).fields
    assert (other["source"] != whole.fields["source"]).any()
    assert (whole.counts["loss"] == (whole.fields["targets"] != IGNORE_INDEX).sum(axis=-1)).all()
    # An end ends sources and targets, and stands nowhere else.
    end = data.tokenizer.end_of_text_id
    assert ((whole.fields["targets"] == end).sum(axis=-1) == 1).all()
    assert (((whole.fields["source"] == end) & whole.fields["seen"]).sum(axis=-1) == 1).all()
    # What comes again is hidden otherwise.
    rows = draw.rows(np.arange(3000)[None, None]).fields
    sides = [
        _sides(source, seen, target, end)
        for source, seen, target in zip(*(rows[name][0, 0] for name in ("source", "seen", "targets")), strict=True)
    ]
    marked = Marked(data, task)
    told = [tuple(target) if kind == "infill" else tuple(restored(source, target, marked)) for source, target in sides]
    (same, count), *_ = Counter(told).most_common()
    sources = {bytes(rows["source"][0, 0][number]) for number, each in enumerate(told) if each == same}
    assert count > 3 and len(sources) > min(count / 4, 10)


class Marked:
    """In place of the first number of a text: `token < marked` where a token stands in place of something."""

    def __init__(self, text, task: Denoising):
        self.ids = set(map(text.tokenizer.backend.token_to_id, task.hidden))

    def __gt__(self, token: int) -> bool:
        return token in self.ids


def _sides(source, seen, target, end) -> tuple[list[int], list[int]]:
    found = [each for each in source[seen].tolist() if each != end]
    return found, [each for each in target[target != IGNORE_INDEX].tolist() if each != end]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("world_size", [1, 3])
def test_each_held_out_token_is_read_once_and_hidden_alike(text, documents, kind, world_size):
    for make in (text, documents):
        task = Denoising(kind=kind)
        data = make(task)
        split, end, found = data.splits["val"], data.tokenizer.end_of_text_id, []
        for rank in range(world_size):
            windows = task.evaluation(data, "val", BLOCK, None, rank, world_size)
            assert len(list(windows)) == len(windows)
            for batch in windows:
                for source, seen, target in zip(
                    *(batch[k].numpy() for k in ("source", "seen", "targets")), strict=True
                ):
                    sides = _sides(source, seen, target, end)
                    found.append(sides[1] if kind == "infill" else restored(*sides, Marked(data, task)))
        wanted = [
            split.tokens[at : min(at + BLOCK - 1, stop)].tolist()
            for begin, stop in split.bounds
            for at in range(begin, stop, BLOCK - 1)
        ]
        assert sorted(found) == sorted(wanted) and end not in {token for each in found for token in each}
    alike = [next(iter(Denoising(kind=kind).evaluation(data, "val", BLOCK, None)))["source"] for _ in range(2)]
    assert torch.equal(*alike)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", [T5, Transformer, GPT])
def test_figures_are_sums_over_windows_read_alone(text, kind, model):
    task, cpu = Denoising(kind=kind), torch.device("cpu")
    data = text(task)
    network, nll, right, count = network_of(task, data, model), 0.0, 0, 0
    assert isinstance(network, SourceFirst) == (model is GPT)
    for batch in task.evaluation(data, "val", BLOCK, None):
        for source, seen, tokens, targets in zip(*batch.values(), strict=True):
            there = targets != IGNORE_INDEX
            log_p = network(tokens[there][None], source[seen][None])[0].double().log_softmax(-1).detach()
            nll -= log_p.gather(1, targets[there][:, None]).sum().item()
            right, count = right + int((log_p.argmax(-1) == targets[there]).sum()), count + int(there.sum())
    totals = measure_all(task.measure, network, task.evaluation(data, "val", BLOCK, None), cpu)
    figures = task.figures(totals, data.splits["val"])
    assert figures == pytest.approx(
        {"loss": nll / count, "perplexity": math.exp(nll / count), "accuracy": right / count}, rel=1e-5
    )
    shares = [
        measure_all(task.measure, network, task.evaluation(data, "val", BLOCK, None, r, 3), cpu) for r in range(3)
    ]
    together = {name: sum(share[name] for share in shares) for name in totals}
    assert task.figures(together, data.splits["val"]) == pytest.approx(figures, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_add_up_over_micro_batches_and_processes(documents, kind):
    task = Denoising(kind=kind)
    data = documents(task)
    network, draw = network_of(task, data), task.draw(data, "documents", BLOCK, 3)

    def loss(accumulate: int, world_size: int) -> float:
        total = 0.0
        for rank in range(world_size):
            shares = (accumulate, 12 // accumulate, rank, world_size)
            (batches,) = draw_block(draw, task.parts, np.arange(1), *shares).steps()
            total += sum(w["loss"] * task.loss(network, b)["loss"].item() for b, w in batches) / world_size
        return total

    assert [loss(2, 1), loss(1, 3), loss(2, 3)] == pytest.approx([loss(1, 1)] * 3, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_floor_is_what_frequent_tokens_tell(text, documents, kind):
    task = Denoising(kind=kind)
    for make in (text, documents):
        data, counts = make(task), {}
        (floor,) = task.floors(data, "val", BLOCK)
        for split in ("train", "val"):
            targets = [batch["targets"] for batch in task.evaluation(data, split, BLOCK, None)]
            counts[split] = Counter(each for target in targets for each in target.flatten().tolist())
            del counts[split][IGNORE_INDEX]
        train, val, V = counts["train"], counts["val"], data.tokenizer.size
        nll = math.fsum(n * math.log((train.total() + V) / (train[each] + 1)) for each, n in val.items())
        assert floor.value == pytest.approx(nll / val.total(), rel=1e-12)
        assert floor.levels["perplexity"] == pytest.approx(math.exp(floor.value))
        most = max(train.values())
        assert floor.levels["accuracy"] in {val[each] / val.total() for each, n in train.items() if n == most}


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_shows_what_was_read_told_and_wanted(text, kind):
    task = Denoising(kind=kind)
    data = text(task)
    read, told, wanted = task.sample(network_of(task, data), data, 12, 0).split("\n  ")
    assert told.startswith("> ") and wanted.startswith("= ")
    whole = data.tokenizer.decode(data.splits["val"].tokens[:12].tolist())
    if kind == "infill":
        assert wanted[2:] == whole and "<mask>" in read
    else:
        assert read.count("<extra_id_0>") == wanted.count("<extra_id_0>") == 1
        assert read.replace("<extra_id_0>", wanted[2:].removeprefix("<extra_id_0>")) == whole


def test_an_encoder_decoder_learns_what_was_hidden(text):
    task = Denoising(share=0.3)
    data = text(task)
    torch.manual_seed(0)
    network = task.network(Transformer(data.tokenizer.size, BLOCK, n_layer=1, n_head=4, n_embd=32, norm="pre"))
    draw, optimizer = task.draw(data, "windows", BLOCK, 0), torch.optim.Adam(network.parameters(), 0.01)
    for (batch, _), *_ in draw_block(draw, task.parts, np.arange(150), 1, 32).steps():
        optimizer.zero_grad()
        task.loss(network, batch)["loss"].backward()
        optimizer.step()
    totals = measure_all(task.measure, network, task.evaluation(data, "val", BLOCK, None), torch.device("cpu"))
    assert task.figures(totals, data.splits["val"])["loss"] < task.floors(data, "val", BLOCK)[0].value / 2


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "span"}, "task.kind=span is unknown: choose spans or infill"),
        ({"share": 0.0}, "task.share=0.0 must be above 0 and at most 0.5"),
        ({"share": 0.6}, "task.share=0.6 must be"),
        ({"mean": 0.5}, "task.mean=0.5 must be from 1 to 100"),
        ({"sentinels": 0}, "task.sentinels=0 must be at least 1"),
        ({"kind": "infill", "sentinels": 9}, "task.sentinels=9 has no use for task.kind=infill: leave it out"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(settings, says):
    with pytest.raises(ConfigError) as error:
        Denoising(**settings)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_windows_and_models_that_do_not_go_with_it_are_refused(text):
    task = Denoising(sentinels=1)
    data = text(task)
    with pytest.raises(ConfigError, match=r"data.block_size=64 needs 3 tokens in place of spans: add task.sentinels=3"):
        task.draw(data, "windows", 64, 0)
    with pytest.raises(ConfigError, match=r"data.block_size=4 has no room to hide something: choose 5 or more"):
        task.evaluation(data, "val", 4, None)
    with pytest.raises(ConfigError, match=r"stride=4 has no use for this task"):
        task.evaluation(data, "val", BLOCK, 4)
    with pytest.raises(DataError, match=r"windows are too few for 999 processes"):
        task.evaluation(data, "val", BLOCK, None, 0, 999)
    for model, says in ((BERT(9, 8, **SIZES), "BERT does neither"), (Bigram(9, 8), "Bigram does neither")):
        with pytest.raises(ConfigError, match=says):
            task.network(model)


@pytest.mark.parametrize(("kind", "model"), [("spans", "t5"), ("infill", "transformer")])
def test_what_writes_about_sources_begins_from_a_run_of_it(molino, tmp_path, kind, model):
    (tmp_path / "text.txt").write_text(PLAIN * 3, "utf-8")
    lines = [f"word{n % 7} and thing{n % 11}\tthing{n % 11} and word{n % 7}\n" for n in range(80)]
    (tmp_path / "pairs.tsv").write_text("text\ttarget\n" + "".join(lines), "utf-8")
    paths = (f"paths.cache={tmp_path / 'cache'}", f"paths.outputs={tmp_path / 'outputs'}")
    sizes = (f"model={model}", "data.block_size=32", "data.batch_size=4", *(f"model.{k}={v}" for k, v in SIZES.items()))
    own = ("data=text", f"data.path={tmp_path / 'text.txt'}", "data/tokenizer=bpe", "data.tokenizer.size=300")
    done = molino("train", *own, "task=denoising", f"task.kind={kind}", "debug=fast", *sizes, *paths, *CPU)
    assert done.status == 0, done.err
    (run,) = (tmp_path / "outputs").iterdir()
    summary = json.loads((run / "summary.json").read_text("utf-8"))
    assert {"val/loss", "val/perplexity", "val/accuracy", "floor/unigram"} <= summary.keys()
    exported = molino("export", f"run={run}", f"to={tmp_path / 'folder'}")
    assert exported.status == 0, exported.err
    asked = f"text=word3 {'<mask>' if kind == 'infill' else '<extra_id_0>'} thing"
    assert f'predict run={run} text="... {asked.split()[1]} ..."' in done.out
    answers = [molino("predict", where, asked, *CPU) for where in (f"run={run}", f"source={tmp_path / 'folder'}")]
    assert [each.status for each in answers] == [0, 0] and answers[0].out == answers[1].out
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    (read,) = sources_of(tokenizer, [Example(asked.removeprefix("text="))], 32)
    hole = tokenizer.backend.token_to_id(asked.split()[1])
    words = tokenizer.decode(read[read != hole][:-1].tolist()).split()
    assert list(read).count(hole) == 1 and words == ["word3", "thing"]
    looked = look(load_run(run, "best", torch.device("cpu")), "explain", asked.removeprefix("text="), asked.split()[1])
    assert hole in looked.ids
    start = Tokenizer.load(run / "tokenizer.json").backend.token_to_id("<start>")
    config = json.loads((tmp_path / "folder" / "config.json").read_text("utf-8"))
    assert config["decoder_start_token_id"] == start is not None
    columns = ("data.columns.text=text", "data.columns.target=target")
    pairs = (
        "data=pairs",
        f"data.path={tmp_path / 'pairs.tsv'}",
        *columns,
        "task=sequence_to_sequence",
        "task.written=2",
    )
    done = molino(
        "train", *pairs, f"weights={run}", "debug=fast", "trainer.max_steps=2", "trainer.val_every=2", *paths, *CPU
    )
    assert done.status == 0, done.err
    (other,) = (each for each in (tmp_path / "outputs").iterdir() if each != run)
    assert (other / "tokenizer.json").read_text("utf-8") == (run / "tokenizer.json").read_text("utf-8")
    assert json.loads((other / "summary.json").read_text("utf-8"))["val/loss"] > 0
