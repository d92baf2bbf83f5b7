import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from benchmarks import (
    classification,
    common,
    counting,
    generation,
    growth,
    loops,
    preparation,
    preparing,
    recipe,
    start,
    training,
    translation,
)
from benchmarks import command as benchmark
from benchmarks.generation import BANDWIDTH, KINDS, OURS, THEIRS, THEIRS_AS_USED, UNCACHED, Reads
from molino.data.batches import evaluation_windows
from molino.data.tokens import Split
from molino.evaluation.totals import measure_all
from molino.models.dropout import Dropout
from molino.tasks.language_model import LanguageModel

ROOT = Path(__file__).resolve().parents[2]
TINY = {"vocab_size": 65, "block_size": 64, "n_layer": 2, "n_head": 4, "n_embd": 32}


def test_what_decoding_reads(tmp_path):
    gpt = TINY | {"activation": "gelu_tanh"}
    # A block: two norms, and matrices with biases for queries, keys and values, their output, and the MLP's two.
    block = 2 * 2 * 32 + (32 * 96 + 96) + (32 * 32 + 32) + (32 * 128 + 128) + (128 * 32 + 32)
    # The table of tokens is the head, too; that of places is not read but for a row.
    expected = 65 * 32 + 2 * block + 2 * 32
    assert generation.write(tmp_path / "gpt", "molino.models.gpt.GPT", gpt) == Reads(4 * expected, 4 * 2 * 2 * 32)

    llama = TINY | {"n_kv_head": 2, "n_inner": 64}
    block = 2 * 32 + 32 * (32 + 16 + 16) + 32 * 32 + 3 * 32 * 64
    expected = 65 * 32 + 2 * block + 32
    assert generation.write(tmp_path / "llama", "molino.models.llama.Llama", llama) == Reads(
        4 * expected, 4 * 2 * 2 * 16
    )


def test_bandwidth_share():
    # A prompt of 4, then 3 tokens: they see 4, 5 and 6 tokens.
    reads = Reads(weights=1000, cache=10)
    assert reads.per_token(3) == 1000 + 10 * (4 + 5 + 6) / 3
    assert generation.bandwidth_share(reads, 3, speed=20.0, bandwidth=42_000.0) == 0.5


def test_summary_takes_ratios_round_by_round():
    assert common.summary([1.0, 2.0, 4.0], [2.0, 8.0, 4.0], "{:.1f}") == ("2.0", "1.0 to 4.0", "2.00")
    assert common.summary([1.0], [3.0, 8.0, 4.0], "{:.1f}") == ("1.0", "1.0 to 1.0", "3.00")


def test_disagreements_are_told():
    texts = {OURS: [[1, 2, 3], [1, 2, 3]], UNCACHED: [[1, 2, 3]], THEIRS: [[1, 2, 3], [1, 4, 3]], "short": [[1, 2]]}
    lines = generation.disagreements(texts)
    assert len(lines) == 2
    assert THEIRS in lines[0] and "token 2 of 3" in lines[0]
    assert "short" in lines[1] and "token 3 of 3" in lines[1]


def test_generation_compares_the_same_weights(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setattr(generation, "LONG", 4)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    reads = generation.write(tmp_path / "model", "molino.models.llama.Llama", TINY | {"n_kv_head": 2})
    with generation.contenders(tmp_path / "model", [OURS, UNCACHED, THEIRS, BANDWIDTH]) as taking_part:
        figures = generation.measure(taking_part, 6, 2, "tiny")
    rounds = {name: len(speeds) for name, speeds in figures.speeds.items()}
    assert rounds == {OURS: 2, UNCACHED: 1, THEIRS: 2}
    assert all(math.isfinite(speed) and speed > 0 for speeds in figures.speeds.values() for speed in speeds)
    assert figures.bandwidth > 1e8
    assert all(len(text) == 6 for texts in figures.texts.values() for text in texts)
    assert len(set(figures.texts[OURS][0])) > 1
    assert generation.disagreements(figures.texts) == []
    assert all(process.process.poll() is not None for process in taking_part.values())

    generation.show("tiny", 6, 2, figures, reads)
    shown = capsys.readouterr().out
    for expected in (*rounds, "(1 round)", "times as fast at 6 tokens", "greedy tokens of all contenders agree"):
        assert expected in shown


def test_only_one_contender_waits_as_users_of_transformers_do(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("GOMP_SPINCOUNT", "5000")
    monkeypatch.setattr(generation, "Contender", lambda *given: SimpleNamespace(given=given, stop=lambda: None))
    with generation.contenders(tmp_path, KINDS) as started:
        environments = {name: contender.given[3] for name, contender in started.items()}
    plain = environments.pop(THEIRS_AS_USED)
    assert all(
        environment == plain | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000"}
        for environment in environments.values()
    )
    assert not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & plain.keys()


def test_a_contender_that_fails_says_why(tmp_path):
    contender = generation.Contender("unheard-of", tmp_path, tmp_path / "log", dict(os.environ))
    with pytest.raises(SystemExit, match=r"unheard-of failed: (.|\n)*KeyError"):
        contender.turn(new_tokens=1)
    contender.stop()


@pytest.mark.parametrize("kind", preparation.KINDS)
def test_all_ways_to_prepare_a_text_give_as_many_tokens(kind, tmp_path):
    preparing.write_text(tmp_path / "text", 40_000, vocabulary=300)
    lengths = {}
    for way in preparation.NAMES:
        if (way, kind) == ("tutorial", "bpe"):
            continue
        (tmp_path / way).mkdir()
        assert all(seconds > 0 for seconds in preparing.WAYS[way](kind, tmp_path / "text", tmp_path / way))
        files = sorted((tmp_path / way).rglob("*.npy"))
        arrays = [np.load(path) for path in files if not path.stem.endswith((".documents", ".texts"))]
        lengths[way] = sum(map(len, arrays))
    # molino cuts between characters, the others between lines: a word, and a merge, may lie across.
    assert max(lengths.values()) - min(lengths.values()) <= (0 if kind == "char" else 20)


def test_preparation_is_compared_in_turns(tmp_path, capsys):
    preparing.write_text(tmp_path / "text", 20_000, vocabulary=100)
    preparation.compare("char", tmp_path, tmp_path / "text", 1)
    shown = capsys.readouterr().out
    assert all(name in shown for name in preparation.NAMES.values())


def test_a_start_is_timed_from_the_command_to_the_first_step(tmp_path, monkeypatch):
    """A whole run, of a bigram, and --help; imports by themselves take long and tell nothing here."""
    whole, trained = common.run, common.train_run
    little = ("model=bigram", "hardware=cpu", "data=grammar", "data.corpus.characters=20000")
    monkeypatch.setattr(common, "train_run", lambda *given: trained(*given, *little))
    monkeypatch.setattr(common, "run", lambda command, *more: "" if "-c" in command else whole(command, *more))
    found = start.start(str(ROOT / "scripts" / "train.py"), tmp_path, 1)
    assert 0 < found["--help"][0] < found["command to first step"][0] < 100
    assert set(found) > {"import torch", "import all that a run needs"} and max(found["import torch"]) < 0.1


def test_memory_is_that_of_no_file():
    allocate = "import time; held = bytearray(60_000_000); time.sleep(0.5); print('done')"
    printed, peak = preparation.watched([sys.executable, "-c", allocate])
    assert printed == "done\n" and 57 < peak < 90
    with pytest.raises(SystemExit, match="failed: no"):
        preparation.watched([sys.executable, "-c", "raise SystemExit('no')"])


def test_transformers_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"transformers, which is missing: pip install transformers"):
        generation.generation(tmp_path, ["gpt"], [1], 1, False)
    with pytest.raises(SystemExit, match=r"missing: pip install transformers accelerate"):
        classification.classification("train.py", tmp_path, 1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(("--tokens", "2045"), "between 1 and 2044"), (("--rounds", "0"), "one round or more")],
)
def test_impossible_settings(arguments, reason):
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "generation", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and reason in done.stderr.splitlines()[-1]


def test_training_compares_tokens_a_second(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 16, "dropout": 0.1}
    little = ("data=grammar", "data.corpus.characters=20000")
    case = training.Case("a tiny GPT", "gpt", sizes, batch_size=4, block_size=8, steps=4, log_every=2, data=little)
    monkeypatch.setitem(training.CASES, "tiny", case)
    kept = tmp_path / "figures.json"
    monkeypatch.setattr(
        sys, "argv", ["benchmark.py", "training", "--cases", "tiny", "--rounds", "1", "--json", str(kept)]
    )
    benchmark.main(str(ROOT / "scripts" / "benchmark.py"))
    written = json.loads(kept.read_text("utf-8"))
    assert written["environment"]["packages"]["torch"]
    found = written["figures"]["tiny"]
    assert set(found["contenders"]) == {training.OURS, *training.CONTENDERS}
    for figures in found["contenders"].values():
        assert math.isfinite(figures["tokens_per_second"]) and figures["tokens_per_second"] > 0
        assert 50 < figures["memory_mib"] < 5000
    ours, plain = (found["contenders"][name] for name in (training.OURS, training.PLAIN))
    faster = ours["tokens_per_second"] / plain["tokens_per_second"]
    assert plain["molino_is_faster_by"] == pytest.approx(faster, abs=0.005)
    # By hand: forward and backward of two operations a weight of a matrix, the head included, and attention over half
    # a window on average.
    V = found["case"]["vocab_size"]
    weights = 16 * 48 + 16 * 16 + 2 * 16 * 64 + 16 * V
    each = 3 * (2 * weights + 4 * 16 * 4)
    assert ours["operations_per_second"] == pytest.approx(ours["tokens_per_second"] * each)
    assert "ratio: molino / this" in capsys.readouterr().out


def test_the_words_of_the_benchmark_are_all_there():
    text = training.words(500).split()
    assert len(set(text)) == 500 and len(text) > 10_000


def test_loops_without_molino_train_the_same_model(tmp_path):
    """The plain loop's model has nothing of ours that is there for speed, but computes the same."""
    case = {"family": "gpt", "vocab_size": 11, "block_size": 8, "model": {"n_layer": 1, "n_head": 2, "n_embd": 8}}
    torch.manual_seed(0)
    model, loss = loops.our_model(case)
    assert not any(isinstance(module, Dropout) for module in model.modules())
    tokens_BT = torch.randint(0, 11, (2, 8))
    torch.testing.assert_close(loss(tokens_BT, tokens_BT), model.loss(tokens_BT, tokens_BT))
    theirs, their_loss = loops.their_model(case)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in model.parameters())
    assert their_loss(tokens_BT, tokens_BT).isfinite()


def test_the_recipes_are_timed_to_their_losses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "STEPS", 2)
    monkeypatch.setattr(recipe, "TARGETS", (100.0, 0.1))
    monkeypatch.setattr(recipe, "FAST", "data=pydocs")
    monkeypatch.setattr(common, "prepare", lambda *_: tmp_path)
    (tmp_path / "tokens" / "key").mkdir(parents=True)
    tokens = np.random.default_rng(0).integers(3, 20, 5000).astype(np.uint16)
    for name, part in (("train", tokens[:4000]), ("val", tokens[4000:])):
        np.save(tmp_path / "tokens" / "key" / f"{name}.npy", part)
    run = tmp_path / "run"

    def train_run(*_):
        with SummaryWriter(run) as writer:
            writer.add_scalar("val/loss", 2.0, 10)
        return run

    monkeypatch.setattr(common, "train_run", train_run)
    found = recipe.recipe("train.py", tmp_path, 1)
    # After two steps on 17 tokens drawn evenly it is about that of guessing.
    assert len(found["plain"]["loss"]) == 1 and found["plain"]["loss"][0] == pytest.approx(math.log(17), abs=0.4)
    assert found["fast"]["100.0"][0] >= 0 and found["fast"]["0.1"] == [math.inf] and found["fast"]["loss"] == [2.0]
    assert "ratio: plain recipe / this" in capsys.readouterr().out


def test_the_plain_recipe_is_judged_by_the_whole_split(tmp_path):
    """Without a step it is a fresh model, whose loss is near that of guessing; every token but the first counts."""
    tokens = np.random.default_rng(0).integers(0, 20, 5000).astype(np.uint16)
    for name in ("train", "val"):
        np.save(tmp_path / f"{name}.npy", tokens)
    found = recipe.plain_recipe(str(tmp_path / "train.npy"), str(tmp_path / "val.npy"), 0)
    torch.manual_seed(0)
    model, _ = loops.our_model(
        {"family": "gpt", "vocab_size": 20, "block_size": 64,
         "model": {"n_layer": 4, "n_head": 4, "n_embd": 128, "bias": False}}
    )  # fmt: skip
    split = Split("val", tokens, np.array([0, len(tokens) - 1]), len(tokens), len(tokens), 0)
    windows = evaluation_windows(split, 64, 64, 20)
    totals = measure_all(LanguageModel().measure, model, windows, torch.device("cpu"))
    exact, count = totals["nll"] / totals["tokens"], totals["tokens"]
    assert count == len(tokens) - 1 and found == pytest.approx(exact, rel=1e-5)


def test_those_that_classify_are_asked_for_the_same(mirror, tmp_path, monkeypatch):
    """Both predict the same of each sentence, and each loop trains; the Trainer wants accelerate, which is not here."""
    pytest.importorskip("transformers")
    monkeypatch.setenv("MOLINO_MIRROR", str(mirror))
    monkeypatch.setattr(classification, "LAYERS", {"n_layer": 1, "n_head": 2, "n_embd": 16})
    monkeypatch.setattr(classification, "BATCH", 4)
    source = classification.prepare(str(ROOT / "scripts" / "train.py"), tmp_path)
    few = classification.sentences(source, "test")[:40]
    assert {label for _, label in few} == {0, 1}
    monkeypatch.setattr(classification, "sentences", lambda *_: few)
    ours, theirs = (
        classification.PREDICTING[name](source)() for name in (classification.OURS, classification.PIPELINE)
    )
    assert [each["label"] for each in ours] == [each["label"] for each in theirs]
    assert [each["score"] for each in ours] == pytest.approx([each["score"] for each in theirs], abs=1e-5)
    for name in (classification.OURS, classification.PLAIN):
        assert classification.TRAINING[name](source)(2) > 0


def test_those_that_translate_are_asked_for_the_same(mirror, tmp_path, monkeypatch):
    """All write the same, each loop trains, and shuffled batches hold the same sentences."""
    pytest.importorskip("transformers")
    monkeypatch.setenv("MOLINO_MIRROR", str(mirror))
    monkeypatch.setattr(translation, "SIZES", {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_inner": 16})
    for name, value in {"VOCABULARY": 2000, "TOKENS": 600, "BEFORE": 20, "STEPS": (1, 2)}.items():
        monkeypatch.setattr(translation, name, value)
    source = translation.prepare(str(ROOT / "scripts" / "train.py"), tmp_path)
    few = translation.sentences(source)[:20]
    monkeypatch.setattr(translation, "sentences", lambda *_: few)
    for beams in (1, 3):
        ours, theirs, by_length = (write(source, beams)() for write in translation.WRITING.values())
        assert ours == theirs == by_length
    for train in translation.TRAINING.values():
        (seconds, count), (_, more) = (train(source)(steps) for steps in translation.STEPS)
        assert seconds > 0 and 0 < count < more
    drawn = list(translation.batches(source, 2))
    mixed = translation.shuffled(drawn)
    assert sum(map(translation.tokens_in, mixed)) == sum(map(translation.tokens_in, drawn))

    def rows(found):
        return sorted(tuple(row[row >= 0].tolist()) for batch in found for row in batch["targets"])

    assert rows(mixed) == rows(drawn)
    with torch.no_grad():
        batch = drawn[0]
        logits_BTV = translation.plain_model(2004)(batch["source"], batch["tokens"], ~batch["seen"].bool())
    assert logits_BTV.shape == (*batch["tokens"].shape, 2004)


def test_counting_is_timed_way_by_way(capsys):
    figures = counting.counting(["grammar"])["grammar"]
    assert figures["tokens"] == 900_000 and all(figures[way] > 0 for way in ("order", "floors", "tables", "parts"))
    assert figures["order MiB"] <= figures["floors MiB"] <= figures["MiB"]
    assert "grammar" in capsys.readouterr().out


def pretend(command: list[str]) -> tuple[float, float]:
    """Leave what a command would, in a moment; it costs a second a run that was not there."""
    verb, outputs = Path(command[1]).stem, Path(next(word for word in command if word.startswith("paths.outputs"))[14:])
    if verb == "results":
        configs = [path.read_text() for path in outputs.rglob("config.yaml")]
        assert sorted(configs) == sorted(f"seed: {seed}\n  lr: {row}.0e-05\n" for row in (1, 2) for seed in range(10))
        assert len({path.read_text() for path in outputs.rglob("summary.json")}) == 20
        return 5.0, 100.0
    many = next((word for word in command if word.startswith("seed=range")), "seed=range(1)")
    paths = [outputs / str(number) for number in range(int(many[11:-1]))]
    new = [path for path in paths if not path.exists()]
    for path in new:
        path.mkdir(parents=True)
        for name in ("environment.json", "metrics.csv", "metrics.json", "overrides.yaml", "status.json"):
            (path / name).touch()
        (path / "config.yaml").write_text("seed: 0\n  lr: 0.003\n")
        (path / "summary.json").write_text('{"val/loss": 1.0}')
    return 3.0 + len(new), 100.0


def test_what_things_cost_is_measured_size_by_size(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth, "spend", pretend)
    sizes = {"sweep": [20, 10], "results": [20], "steps": [20]}
    costs = growth.growth("scripts/train.py", tmp_path, ["sweep", "results", "steps"], sizes, ["local"])["costs"]
    assert [(each["part"], each["size"], each["seconds"], each["each"]) for each in costs] == [
        ("sweep, local", "10 runs", 13.0, "1000 ms a run"),
        ("given again, local", "10 runs", 3.0, "300.0 ms a run"),
        ("one seed more, local", "10 runs", 4.0, "400.0 ms a run"),
        ("sweep, local", "20 runs", 23.0, "1000 ms a run"),
        ("given again, local", "20 runs", 3.0, "150.0 ms a run"),
        ("one seed more, local", "20 runs", 4.0, "200.0 ms a run"),
        ("results", "20 runs", 5.0, "250.0 ms a run"),
        ("results page", "20 runs", 5.0, "250.0 ms a run"),
        ("training", "20 steps", 4.0, "200000 us a step"),
    ]
    shown = capsys.readouterr().out
    assert all(each["part"] in shown for each in costs)


def test_commands_of_growth_are_measured(tmp_path, monkeypatch, capsys):
    """What is real of it: processes whose seconds and memory are taken."""
    kept = tmp_path / "figures.json"
    given = ("--parts", "rows", "unspaced", "--size", "rows", "100", "--size", "unspaced", "0.1", "--json", str(kept))
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "growth", *given])
    benchmark.main(str(ROOT / "scripts" / "benchmark.py"))
    found = json.loads(kept.read_text("utf-8"))["figures"]["costs"]
    named = [
        ("metrics.csv", "100 rows"),
        *((f"bpe, {what} without white space", "0.1 MB") for what in ("Chinese", "genome")),
    ]
    assert [(each["part"], each["size"]) for each in found] == named
    assert all(0.1 < each["seconds"] < 100 and 10 < each["memory"] < 2000 for each in found)
    assert "ms a checkpoint" in capsys.readouterr().out


def test_the_texts_without_white_space_have_none(tmp_path):
    for write in (growth.write_chinese, growth.write_genome):
        write(tmp_path / "text", 400_000)
        text = (tmp_path / "text").read_text("utf-8")
        assert not any(map(str.isspace, text)) and 400_000 <= len(text.encode()) < 2_000_000


@pytest.mark.parametrize(
    ("size", "reason"), [(("rows", "x"), "float"), (("x", "1"), "no part"), (("rows", "0"), "above 0")]
)
def test_sizes_that_are_none_are_refused(size, reason, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "growth", "--size", *size])
    with pytest.raises(SystemExit):
        benchmark.main(str(ROOT / "scripts" / "benchmark.py"))
    assert reason in capsys.readouterr().err
