"""The architecture as a tree: nothing is left out, nothing counted twice."""

import io
import re

import pytest
from families import FAMILIES, make
from rich.console import Console

from molino.inspection.tree import describe, draw


def printed(model):
    console = Console(file=io.StringIO(), width=300)
    console.print(draw(describe(model)))
    return console.file.getvalue()


def own_count(node):
    total = 0
    for name, shape in node.shapes.items():
        size = 1
        for length in shape:
            size *= length
        total += 0 if name in node.tied else size
    return total


def nodes(node):
    return [node, *(below for child in node.children for below in nodes(child))]


@pytest.mark.parametrize("name", FAMILIES)
def test_counts_add_up(name):
    model = make(name, 12)
    root = describe(model)
    assert root.count == sum(parameter.numel() for parameter in model.parameters())
    assert len(nodes(root)) == len(list(model.modules()))
    for node in nodes(root):
        assert node.count == own_count(node) + sum(child.count for child in node.children)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "kneser-ney"])  # it has none
def test_the_printed_counts_add_up(name):
    """Each line ends with its count; those one level down sum to the root's."""
    model = make(name, 12)
    lines = printed(model).rstrip().splitlines()
    counts = [int(found[1].replace(",", "")) for line in lines if (found := re.match(r"[├└]── .*  ([\d,]+)\s*$", line))]
    assert sum(counts) == int(lines[0].rsplit(None, 1)[-1].replace(",", ""))


def test_tied_weights_are_named_and_counted_once():
    text = printed(make("gpt", 12))
    assert "lm_head  Linear  weight 23 × 16 (tied: it is wte.weight, counted there)" in text
    assert "tied" not in printed(make("gpt-sinusoidal", 12))


def test_blocks_that_are_alike_are_shown_once():
    text = printed(make("llama", 12))
    assert text.count("qkv_proj  Linear  weight 48 × 16  768") == 1
    assert re.search(r"1  LlamaBlock, like 0  [\d,]+", text)
