"""Pseudo-likelihood against a loop that hides one token at a time."""

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import CPU, small_text, train

import molino as package
from molino.data.tokens import prepare_tokens
from molino.models import IGNORE_INDEX
from molino.tasks.masked_language_model import MASK
from molino.tasks.pseudo_likelihood import EachHidden
from molino.trained.load import load_run
from molino.trained.measuring import corpus_of

BLOCK_SIZE = 16
KINDS = ["text", "documents"]


@pytest.fixture(scope="module", params=KINDS)
def run(request, molino, tmp_path_factory):
    """A run that fills in hidden characters, of one text or of documents of unequal lengths."""
    home = tmp_path_factory.mktemp(request.param)
    source = home / "texts"
    if request.param == "text":
        source.write_text(small_text(0, 120), "utf-8")
    else:
        source.mkdir()
        for number in range(20):
            (source / f"{number:02}.txt").write_text(small_text(number, 1 + number % 3), "utf-8")
    settings = (f"data.path={source}", "task=masked_language_model", "model=bert", "model.n_layer=1")
    return train(molino, home, *settings, "optimizer.lr=0.05")


def read(run):
    """A run, and the tokens of its held-out text, documents apart."""
    loaded = load_run(run, "best", torch.device("cpu"))
    paths = {"outputs": str(run.parent), "cache": str(run.parents[1] / "cache"), "mirror": None}
    text = prepare_tokens(corpus_of(loaded, None, paths), loaded.tokenizer, run.parents[1] / "cache")
    return loaded, text


@torch.no_grad()
def loss_by_hand(loaded, text):
    """Mean of -ln p(token | the others of its window), a forward pass for each token."""
    split, model = text.splits["val"], loaded.model
    mask, end = loaded.tokenizer.backend.token_to_id(MASK), loaded.tokenizer.end_of_text_id
    tokens, marks, losses = split.tokens.astype(np.int64), split.marks, []
    for begin, behind in itertools.pairwise(marks):
        document = tokens[begin : behind + (behind == marks[-1])]
        for at in range(0, len(document), BLOCK_SIZE):
            window = document[at : at + BLOCK_SIZE].tolist()
            for place, token in enumerate(window):
                if token != end:
                    asked = torch.tensor([[*window[:place], mask, *window[place + 1 :]]])
                    losses.append(-model(asked)[0, place].double().log_softmax(0)[token].item())
    return math.fsum(losses) / len(losses), len(losses)


def test_it_is_that_of_a_loop(run):
    loaded, text = read(run)
    loss, count = loss_by_hand(loaded, text)
    settings = [f"paths.cache={run.parents[1] / 'cache'}"]
    figures = package.load(run, device="cpu").evaluate(pseudo=True, floors=False, overrides=settings)
    assert figures["val/pseudo_loss"] == pytest.approx(loss, abs=1e-6)
    assert figures["val/pseudo_perplexity"] == pytest.approx(math.exp(loss), rel=1e-6)
    plain = package.load(run, device="cpu").evaluate(floors=False, overrides=settings)
    assert plain == {name: value for name, value in figures.items() if "pseudo" not in name}
    assert len(EachHidden(text, "val", BLOCK_SIZE, 0).window_R) == count


def test_each_token_is_hidden_once_and_batches_are_cut_to_what_is_read(run):
    _, text = read(run)
    batches = EachHidden(text, "val", BLOCK_SIZE, 99)
    batches.rows = 7
    found = list(batches)
    assert len(found) == len(batches) > 1
    told = []
    for batch in found:
        hidden = batch["targets"] != IGNORE_INDEX
        assert (hidden.sum(1) == 1).all() and ((batch["tokens"] == 99) == hidden).all()
        assert batch["seen"][hidden].all() and batch["seen"].any(0).all()
        told += batch["targets"][hidden].tolist()
    tokens = text.splits["val"].tokens
    assert told == tokens[tokens != text.tokenizer.end_of_text_id].tolist()


def test_the_command(molino, run, tiny):
    settings = (f"run={run}", f"paths.cache={run.parents[1] / 'cache'}", *CPU)
    done = molino("evaluate", *settings, "pseudo=true")
    assert (done.status, done.err) == (0, "")
    for name in (" pseudo loss", " pseudo perplexity", " hidden in turn", " accuracy", " perplexity"):
        assert name in done.out
    assert "pseudo" not in molino("evaluate", *settings).out
    refused = molino("evaluate", f"run={tiny.path}", *tiny.settings, "pseudo=true")
    assert refused.status == 2 and refused.err.startswith("molino: pseudo=true hides each token in turn, and ")
    assert len(refused.err.splitlines()) == 1
