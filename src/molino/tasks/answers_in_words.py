"""What a network writes about texts that somebody asks about."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from molino.base.errors import ConfigError, DataError
from molino.data.examples import Example
from molino.data.tokenizers import Tokenizer
from molino.generation.targets import Writing
from molino.generation.writing import write
from molino.tasks.holes import with_holes
from molino.tasks.pairs import vocabulary_of


def write_answers(
    network: nn.Module,
    tokenizer: Tokenizer,
    examples: Sequence[Example],
    block_size: int,
    writing: Writing,
    name: str,
) -> list[dict[str, Any]]:
    """Return what is written about each text, as the pipelines of transformers have it, with its score; of several
    targets the others stand behind it.

    Args:
        name: what an answer is called.

    Raises:
        ConfigError: an example has more than a text.
        DataError: a text is empty, or nothing but white space.
    """
    for each in examples:
        if each.pair is not None or each.choices:
            raise ConfigError("this run writes about a text alone: leave out pair (context) and choices")
    found = []
    for few in write(
        network,
        sources_of(tokenizer.source, examples, block_size),
        writing,
        vocabulary_of(tokenizer, network.vocab_size),
    ):
        told = [{name: tokenizer.decode(one.tokens).strip(), "score": one.score} for one in few]
        found.append(told[0] | ({"others": told[1:]} if len(told) > 1 else {}))
    return found


def sources_of(tokenizer: Tokenizer, examples: Sequence[Example], block_size: int) -> list[np.ndarray]:
    """Return the texts as a network reads them, cut where they are too long, their ends included.

    Args:
        tokenizer: of sources.

    Raises:
        DataError: one is empty, or nothing but white space.
    """
    found = []
    for number, ids in enumerate(_encoded(tokenizer, examples), start=1):
        if not len(ids) or not examples[number - 1].text.strip():
            raise DataError(f"source {number} is empty: there is nothing to write about")
        found.append(np.append(ids[: block_size - 1], tokenizer.end_of_text_id))
    return found


def count_cut(tokenizer: Tokenizer, examples: Sequence[Example], block_size: int) -> int:
    """Return of how many texts something is not read, as they are too long."""
    return sum(len(ids) >= block_size for ids in _encoded(tokenizer, examples))


def _encoded(tokenizer: Tokenizer, examples: Sequence[Example]) -> list[np.ndarray]:
    return [np.array(with_holes(tokenizer, each.text)[0], dtype=np.int64) for each in examples]
