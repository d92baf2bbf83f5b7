"""molino explain and run.attention of encoders, and of models that write about a source."""

import re
import shutil

import numpy as np
import pytest
import torch
from conftest import CPU, small_text, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import molino as package
from molino.data.examples import Example
from molino.trained.load import load_run

WORDS = {"a": "un", "man": "hombre", "dog": "perro", "sees": "ve", "big": "grande"}


@pytest.fixture(scope="module")
def masked(molino, tmp_path_factory):
    """A run that fills in hidden characters."""
    home = tmp_path_factory.mktemp("masked")
    (home / "mancha.txt").write_text(small_text(0, 400), "utf-8")
    return train(molino, home, f"data.path={home / 'mancha.txt'}", "task=masked_language_model", "model=bert")


@pytest.fixture(scope="module")
def translator(molino, tmp_path_factory):
    """Runs that write about sources, by the name of their model, each made once."""
    home = tmp_path_factory.mktemp("pairs")
    order = np.random.default_rng(0)
    texts = [" ".join(order.choice(list(WORDS), 4)) for _ in range(80)]
    (home / "source.txt").write_text("\n".join(texts) + "\n", "utf-8")
    told = (" ".join(WORDS[word] for word in text.split()) for text in texts)
    (home / "target.txt").write_text("\n".join(told) + "\n", "utf-8")
    made = {}

    def translator(model):
        if model not in made:
            files = (f"data.path={home / 'source.txt'}", f"data.target_path={home / 'target.txt'}")
            more = ("data=pairs", "data.tokenizer.size=300", "data.block_size=24", "task=sequence_to_sequence")
            # One that goes on with texts reads both sides.
            more += ("model.block_size=48",) if model == "gpt" else ()
            made[model] = train(molino, home / model, *files, *more, f"model={model}", "task.written=0")
        return made[model]

    return translator


@pytest.fixture
def explain(molino, tmp_path):
    def explain(run, *settings):
        copy = shutil.copytree(run, tmp_path / run.name)
        done = molino("explain", f"run={copy}", f"paths.outputs={tmp_path}", *settings, *CPU)
        return done, copy / "explain"

    return explain


def names(folder):
    return {path.name for path in folder.glob("*.png")}


def rows_of(out, title):
    """The rows of a table: numbers at their beginning, and what stands behind them."""
    lines = out.split(title)[1].splitlines()
    found = [re.match(r" *(\d+) +(\S.*)", line) for line in lines[1:]]
    return {int(each[1]): each[2] for each in found[: lines.index("", 3) if "" in lines[3:] else None] if each}


def test_an_encoder_tells_what_each_layer_puts_in(explain, masked):
    text = "en un <mask>ugar"
    done, folder = explain(masked, f"prompt={text}", "top=3")
    assert (done.status, done.err) == (0, "")
    assert names(folder) == {"attention-layer-0.png", "attention-layer-1.png", "layers.png", "positions.png"}
    images = set(EventAccumulator(str(folder)).Reload().Tags()["images"])
    assert images == {"attention/layer-0", "attention/layer-1", "layers", "positions"}
    loaded = load_run(masked, "best", torch.device("cpu"))
    (told,) = loaded.task.predict(loaded.model, loaded.tokenizer, [Example(text)], loaded.model.block_size)
    rows = rows_of(done.out, "what each layer puts in at token 6")
    assert list(rows) == [0, 1]
    best = [f"{token!r} {p:>6.1%}" for token, p in list(told["probabilities"].items())[:3]]
    assert re.sub(" +", " ", rows[1]).strip() == re.sub(" +", " ", " ".join(best))
    assert "what it expects" not in done.out


def test_without_anything_hidden_an_encoder_shows_its_attention(explain, masked):
    done, folder = explain(masked, "prompt=en un lugar")
    assert (done.status, done.err) == (0, "")
    assert names(folder) == {"attention-layer-0.png", "attention-layer-1.png", "positions.png"}
    assert "puts in" not in done.out and "what it expects" not in done.out


@pytest.mark.parametrize("model", ["transformer", "t5"])
def test_a_model_with_a_source_shows_all_three_kinds_of_attention(explain, translator, model):
    done, folder = explain(translator(model), "prompt=a man sees a dog", "target=un hombre ve", "top=2")
    assert (done.status, done.err) == (0, "")
    kinds = {f"{kind}-layer-{layer}.png" for kind in ("encoder", "decoder", "cross") for layer in range(2)}
    assert names(folder) == kinds | {"alignment.png", "positions.png" if model == "transformer" else "relative.png"}
    tags = {name.removesuffix(".png").replace("-layer", "/layer") for name in names(folder)}
    assert set(EventAccumulator(str(folder)).Reload().Tags()["images"]) == tags
    assert "what is written: un hombre ve" in done.out
    rows = rows_of(done.out, "what it expects after each token")
    loaded = load_run(translator(model), "best", torch.device("cpu"))
    assert "<start>" in rows[0] and len(rows) == 1 + len(loaded.tokenizer.encode("un hombre ve"))


def test_the_target_is_what_the_run_writes_where_none_is_given(explain, translator):
    run = translator("transformer")
    loaded = load_run(run, "best", torch.device("cpu"))
    (told,) = loaded.task.predict(loaded.model, loaded.tokenizer, [Example("a man")], loaded.model.block_size)
    done, _ = explain(run, "prompt=a man")
    assert done.status == 0, done.err
    assert f"what is written: {told[loaded.task.answer]}" in done.out


def test_a_model_that_reads_the_source_first_shows_both_as_one_text(explain, translator):
    run = translator("gpt")
    done, folder = explain(run, "prompt=a man sees", "target=un hombre")
    assert (done.status, done.err) == (0, "")
    assert names(folder) == {"attention-layer-0.png", "attention-layer-1.png", "positions.png"}
    assert done.out.startswith("GPT ") and "<start>" in rows_of(done.out, "what it expects after each token")[0]
    with torch.no_grad():
        loaded = package.load(run, device="cpu")
        count = len(loaded.tokens("a man sees")) + len(loaded.tokens("un hombre")) + 2
    assert loaded.attention("a man sees", "un hombre").shape == (2, 2, count, count)


def test_in_python(masked, translator):
    attention = package.load(masked, device="cpu").attention("en un lugar")
    assert attention.shape == (2, 2, 11, 11) and (attention > 0).all()
    run = package.load(translator("t5"), device="cpu")
    S, T = len(run.tokens("a man sees")) + 1, len(run.tokens("un hombre")) + 1
    kinds = run.attention("a man sees", "un hombre")
    assert [tuple(each.shape) for each in kinds] == [(2, 2, S, S), (2, 2, T, T), (2, 2, T, S)]
    for weights in (kinds.encoder, kinds.decoder, kinds.cross):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert run.attention("a man sees").cross.shape[-1] == S


def test_bad_input_ends_in_one_line(explain, masked, translator, molino, tmp_path):
    for run, settings, status, message in (
        (masked, ("prompt=en un", "target=lugar"), 2, "target='lugar' is for a model that writes about a source"),
        (masked, ("prompt=en un lugar de la Mancha",), 3, "the text has 24 tokens, and the model reads 1 to 16"),
        (translator("t5"), ("prompt=" + "a man " * 30,), 3, "the model reads 1 to 23"),
        (translator("t5"), ("prompt=a man", "target=" + "hombre " * 30), 3, "the target has "),
        (translator("t5"), ("prompt=a man", "target="), 3, "the target has 0 tokens, and the model reads 1 to 23"),
    ):
        done, folder = explain(run, *settings)
        assert done.status == status and message in done.err and len(done.err.splitlines()) == 1
        assert not folder.exists()
        shutil.rmtree(folder.parent)
