"""Embeddings of n-grams: which row each takes, and what a model makes of them."""

import pytest
import torch
from torch import nn

from molino.base.errors import ConfigError
from molino.models.llama import Llama
from molino.models.ngrams import NgramEmbedding

V = 7


def filled(order: int, rows: int) -> NgramEmbedding:
    module = NgramEmbedding(order, rows, V, n_embd=2)
    for table in module.tables:
        table.weight.data = torch.randn_like(table.weight)
    return module


def test_where_there_is_room_every_ngram_has_a_row_of_its_own():
    torch.manual_seed(0)
    module = filled(3, V**3)
    tokens_BT = torch.randint(0, V, (4, 50))
    found_BTC = module(tokens_BT)
    bigrams, trigrams = (table.weight for table in module.tables)
    for b in range(4):
        for t in range(50):
            before, last = (int(tokens_BT[b, t - back]) if t >= back else 0 for back in (1, 2))
            now = int(tokens_BT[b, t])
            expected = bigrams[before * V + now] + trigrams[(last * V + before) * V + now]
            torch.testing.assert_close(found_BTC[b, t], expected)


def test_where_there_is_none_they_are_spread_evenly():
    rows, order = 64, 5  # 16,807 n-grams
    module = NgramEmbedding(order, rows, V, n_embd=1)
    for table in module.tables:
        nn.init.zeros_(table.weight)
    module.tables[-1].weight.data = torch.arange(rows, dtype=torch.float32)[:, None]
    every = torch.cartesian_prod(*[torch.arange(V)] * order)
    chosen = module(every)[:, -1, 0].long()
    counts = torch.bincount(chosen, minlength=rows).double()
    expected = V**order / rows
    # As even as chance would have it: chi-squared of 63 degrees of freedom.
    assert len(counts) == rows and (counts - expected).square().sum() / expected < 120


def test_numbers_beyond_64_bits_wrap_around():
    module = filled(6, 50)
    module.vocab_size = 50_000
    assert module(torch.randint(0, 50_000, (2, 9))).isfinite().all()


def test_a_new_model_is_as_if_there_were_none():
    plain, more = (Llama(V, 8, n_layer=1, n_head=1, n_embd=4, ngrams=order, ngram_rows=20) for order in (1, 3))
    more.load_state_dict(plain.state_dict(), strict=False)
    tokens_BT = torch.randint(0, V, (2, 8))
    assert torch.equal(plain(tokens_BT), more(tokens_BT))
    more.loss(tokens_BT, tokens_BT).backward()
    assert all((table.weight.grad != 0).any() for table in more.ngrams.tables)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ngrams": 0}, "model.ngrams=0 is too small"),
        ({"ngrams": 2, "ngram_rows": 0}, "model.ngram_rows=0 is too small"),
        ({"ngrams": 17}, "model.ngrams=17 is too large: choose 16 or less"),
    ],
)
def test_sizes_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Llama(V, 8, n_layer=1, n_head=1, n_embd=4, **settings)
