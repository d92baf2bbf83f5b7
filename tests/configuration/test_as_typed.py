"""Overrides as a person would type them: without the quotes that Hydra wants."""

import pytest

from molino.configuration.overrides import as_typed, quote


@pytest.mark.parametrize(
    "typed",
    [
        "name=mine",
        "data.path=my texts/*.txt",
        "prompt=it's, [so]",
        "to=a\\b",
        "weights=${x}",
        "optimizer.lr=1e-3",
        "name=",
    ],
)
def test_what_was_quoted_is_typed_again(typed):
    assert as_typed(quote(typed)) == typed


@pytest.mark.parametrize("own", ["name='quoted, by hand'", "data.tokenizer='a'"])
def test_what_needs_its_quotes_keeps_them(own):
    assert quote(as_typed(own)) == quote(own)
