"""Pictures hold the numbers that they show."""

import sys

import numpy as np
import pytest
import torch
from families import FAMILIES, LOOKED_UP, make

from molino.base.errors import ResourceError
from molino.inspection.attention import read
from molino.inspection.pictures import draw_attention, draw_bigrams, draw_positions, position_tables, require_matplotlib

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
