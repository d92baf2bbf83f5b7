"""Many texts together: each as it is alone, whatever stands beside it and however many are drawn at once."""

from itertools import chain

import pytest
import torch
from chatting import CHATML, write_folder

from molino.base.errors import ConfigError, ResourceError
from molino.generation.stopping import END, LENGTH, STOP
from molino.trained import writing
from molino.trained.load import load_run, load_source
from molino.trained.writing import Sampling, Writer

PROMPTS = ["en un", "de la Mancha, de cuyo nombre", "¡", "", "no quiero", "señor"]


@pytest.fixture
def loaded(tiny):
    """In float64 no rounding can flip a token."""
    found = load_run(tiny.path, "best", torch.device("cpu"))
    found.model.double()
    return found


def texts(loaded, prompts, **settings):
    writer = Writer(loaded, Sampling(**{"max_new_tokens": 30, "seed": 3, **settings}))
    return [[one.row.text for one in each] for each in writer.together([writer.opening(p) for p in prompts])]


@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 5, "cache": False}, {"repetition_penalty": 1.5, "stop": ["a", "."]}]
)
@pytest.mark.parametrize("rows", [1, 2, 5, 256])
def test_a_text_is_what_it_is_alone(loaded, monkeypatch, settings, rows):
    monkeypatch.setattr(writing, "MOST_ROWS", rows)
    alone = [texts(loaded, [prompt], samples=3, **settings)[0] for prompt in PROMPTS]
    assert texts(loaded, PROMPTS, samples=3, **settings) == alone
    assert texts(loaded, PROMPTS, samples=2, **settings) == [each[:2] for each in alone]
    writer = Writer(loaded, Sampling(max_new_tokens=30, seed=3, **settings))
    assert ["".join(writer.stream(writer.opening(prompt))) for prompt in PROMPTS] == [each[0] for each in alone]


def test_as_many_are_drawn_at_once_as_there_is_room_for(loaded, monkeypatch):
    drawn = []
    loaded.model.register_forward_pre_hook(lambda module, args: drawn.append(tuple(args[0].shape)))
    vocabulary, context = loaded.model.vocab_size, 16
    per_row = context * loaded.model.capabilities.cache.numbers_per_token + vocabulary
    monkeypatch.setattr(writing, "ROOM", 4 * per_row)
    texts(loaded, PROMPTS, samples=2, max_new_tokens=20)
    assert max(rows for rows, _ in drawn) == 4
    drawn.clear()
    texts(loaded, PROMPTS, samples=9, max_new_tokens=20)
    assert max(rows for rows, _ in drawn) == 4
    drawn.clear()
    texts(loaded, PROMPTS, samples=2, cache=False)
    assert max(rows * length for rows, length in drawn) * vocabulary <= 4 * per_row
    monkeypatch.setattr(writing, "ROOM", 1)
    assert len(texts(loaded, PROMPTS, samples=2, max_new_tokens=2)) == len(PROMPTS)


def test_probabilities_are_the_models_own(loaded):
    """Of each token as if nothing had been filtered: by reading the text, which fits into the context, as a whole."""
    settings = {"temperature": 0.5, "top_k": 3, "repetition_penalty": 1.3, "max_new_tokens": 8, "samples": 2}
    writer = Writer(loaded, Sampling(**settings), scored=True)
    for prompt, each in zip(PROMPTS, writer.together([writer.opening(p[:6]) for p in PROMPTS]), strict=True):
        before = loaded.tokenizer.encode(prompt[:6]).tolist() or [loaded.start_id]
        for one in each:
            ids = [*before, *one.row.tokens]
            with torch.no_grad():
                logp_TV = loaded.model(torch.tensor([ids]))[0].log_softmax(-1)
            wanted = [logp_TV[len(before) + n - 1, token].item() for n, token in enumerate(one.row.tokens)]
            assert one.row.logps == pytest.approx(wanted, abs=1e-9) and len(wanted) == 8


def test_a_stop_text_ends_its_own_row(loaded):
    free = texts(loaded, PROMPTS, samples=4)
    writer = Writer(loaded, Sampling(max_new_tokens=30, seed=3, samples=4, stop=["ar", "de"]))
    ended = list(writer.together([writer.opening(p) for p in PROMPTS]))
    for whole, each in zip(chain(*free), chain(*ended), strict=True):
        at = min((found for found in (whole.find("ar"), whole.find("de")) if found >= 0), default=None)
        assert each.row.text == whole[:at] and each.row.ended == (LENGTH if at is None else STOP)
    assert {one.row.ended for each in ended for one in each} == {STOP, LENGTH}
    assert writer.pace.tokens == sum(len(one.row.tokens) for each in ended for one in each)
    assert 0 < ended[0][0].seconds <= writer.pace.seconds


def test_progress_comes_to_the_whole(loaded):
    told = []
    writer = Writer(loaded, Sampling(max_new_tokens=30, samples=2, stop="a"))
    list(writer.together([writer.opening(p) for p in PROMPTS], told.append))
    assert sum(told) == len(PROMPTS) * 2 * 30 and min(told) >= 0


@pytest.mark.parametrize("ends", [2, [7, 40]])
def test_a_folder_says_which_tokens_end_a_text(tmp_path, ends):
    """One or several; they may come although no text of ours had them."""
    write_folder(tmp_path, CHATML, ends=ends)
    loaded = load_source(str(tmp_path), torch.device("cpu"))
    ends = [ends] if isinstance(ends, int) else ends
    assert loaded.ends == tuple(ends)
    writer = Writer(loaded, Sampling(max_new_tokens=200, samples=40, temperature=3.0))
    rows = [one.row for one in next(writer.together([writer.opening("en")]))]
    ended = [row for row in rows if row.ended == END]
    # And the tokenizer's own, which is 2.
    assert set(ends) <= {row.tokens[-1] for row in ended} <= {2, *ends}
    assert not any(token in row.tokens[:-1] for token in ends for row in rows)
    name = loaded.tokenizer.token(ends[0])
    assert not any(row.text.endswith(name) for row in ended)


def test_what_cannot_be_sampled(loaded):
    with pytest.raises(ConfigError, match='stop="" would end'):
        Sampling(stop=["a", ""])
    with pytest.raises(ConfigError, match="seed=-1"):
        Sampling(seed=-1)
    with pytest.raises(ResourceError, match="out of memory: samples=1000000000"):
        Sampling(samples=10**9)
