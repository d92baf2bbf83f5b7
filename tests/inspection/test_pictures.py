"""Pictures hold the numbers that they show."""

import sys

import numpy as np
import pytest
import torch
from families import FAMILIES, LOOKED_UP, make

from molino.base.errors import ResourceError
from molino.inspection.attention import read
from molino.inspection.pictures import (
    draw_alignment,
    draw_attention,
    draw_bigrams,
    draw_layers,
    draw_positions,
    draw_relative,
    position_tables,
    relative_biases,
    require_matplotlib,
)
from molino.models.relative import bucket_of
from molino.models.t5 import T5
from molino.models.transformer import Transformer

IDS = [3, 4, 5, 6, 7]
TABLES = {"learned": ["wpe.weight"], "sinusoidal": ["wpe.table"], "rotary": ["rotary.cos", "rotary.sin"], "none": []}


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


@pytest.mark.parametrize("name", ["gpt", "llama-window"])
def test_a_panel_a_head_with_its_weights(name):
    weights_HTS = read(make(name, 16), IDS)[1][0].weights()
    labels = [f"'{token}'" for token in IDS]
    figure = draw_attention(weights_HTS, labels, "layer 0")
    assert [panel.get_title() for panel in panels(figure)] == [f"head {head}" for head in range(4)]
    for panel, weights_TS in zip(panels(figure), weights_HTS.numpy(), strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array().filled(0), weights_TS)
        assert [text.get_text() for text in panel.get_xticklabels()] == labels


def test_a_long_text_is_numbered():
    figure = draw_attention(torch.full((6, 41, 41), 1 / 41), ["'x'"] * 41, "layer 0")
    assert len(panels(figure)) == 6
    assert all("'x'" not in text.get_text() for panel in panels(figure) for text in panel.get_xticklabels())


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_shows_its_positions(name):
    model = make(name, 12)
    positions = FAMILIES[name][1].get("positions", "learned")
    kind = "none" if name in LOOKED_UP else "rotary" if name.startswith("llama") else positions
    tables = position_tables(model)
    assert [title.partition("(")[2].rstrip(")") for title in tables] == TABLES[kind]
    if tables:
        shown = [panel.images[0].get_array() for panel in panels(draw_positions(tables))]
        for image, table_TC in zip(shown, tables.values(), strict=True):
            np.testing.assert_array_equal(image, table_TC.numpy())
            assert len(image) == 12


def test_bigrams_are_probabilities_and_a_large_table_is_cut():
    (panel,) = panels(draw_bigrams(torch.randn(5, 5), list("abcde")))
    np.testing.assert_allclose(panel.images[0].get_array().sum(1), 1, rtol=1e-6)
    (panel,) = panels(draw_bigrams(torch.zeros(600, 600), ["x"] * 600))
    assert panel.images[0].get_array().shape == (500, 500) and "the first 500 of 600" in panel.get_title()
    np.testing.assert_allclose(panel.images[0].get_array(), 1 / 600, rtol=1e-6)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ResourceError, match="pictures need matplotlib"):
        require_matplotlib()


def test_other_tokens_may_be_read_than_those_that_read():
    weights_HTS = torch.rand(2, 3, 5).softmax(-1)
    figure = draw_attention(weights_HTS, list("abc"), "cross, layer 0", list("vwxyz"))
    panel = panels(figure)[0]
    assert [text.get_text() for text in panel.get_xticklabels()] == list("vwxyz")
    assert [text.get_text() for text in panel.get_yticklabels()] == list("abc")
    (panel,) = panels(draw_alignment(weights_HTS.mean(0), list("abc"), list("vwxyz"), "mean"))
    np.testing.assert_array_equal(panel.images[0].get_array(), weights_HTS.mean(0).numpy())
    assert [text.get_text() for text in panel.get_xticklabels()] == list("vwxyz")
    assert [text.get_text() for text in panel.get_yticklabels()] == list("abc")


def test_layers_are_drawn_with_their_probabilities():
    p_LN = torch.tensor([[0.25, 0.125], [0.5, 0.03125], [0.75, 0.0625]])
    (panel,) = panels(draw_layers([("token 4", ["'e'", "'t'"], p_LN)]))
    np.testing.assert_array_equal(panel.images[0].get_array(), p_LN.numpy())
    assert [text.get_text() for text in panel.texts] == ["25.0%", "12.5%", "50.0%", "3.1%", "75.0%", "6.2%"]


def test_biases_by_distance_are_rows_of_the_tables():
    model = T5(23, 12, n_layer=1, n_head=4, n_embd=16, buckets=8, max_distance=10)
    biases = relative_biases(model)
    assert list(biases) == ["encoder", "decoder"] and not position_tables(model)
    figure = draw_relative(biases)
    for panel, (name, (distances_N, bias_HN)) in zip(figure.axes, biases.items(), strict=True):
        relative = model.get_submodule(name).relative
        # Where nothing ahead is seen there are no such distances.
        assert distances_N.tolist() == list(range(-11, 12 if name == "encoder" else 1))
        rows_N = bucket_of(distances_N, 8, 10, both_ways=name == "encoder")
        torch.testing.assert_close(bias_HN, relative.weight.detach()[rows_N].T)
        lines = [line.get_ydata() for line in panel.lines if line.get_label().startswith("head")]
        np.testing.assert_array_equal(np.stack(lines), bias_HN.numpy())


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_tables_of_positions_of_both_stacks_are_shown_where_they_differ(positions):
    model = Transformer(23, 12, n_layer=1, n_head=4, n_embd=16, positions=positions)
    tables = list(position_tables(model).values())
    wanted = (
        [model.encoder.wpe.weight, model.decoder.wpe.weight] if positions == "learned" else [model.decoder.wpe.table]
    )
    for table_TC, wanted_TC in zip(tables, wanted, strict=True):
        torch.testing.assert_close(table_TC, wanted_TC.detach())
