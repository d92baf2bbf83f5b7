"""A run that tells something of examples."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch

from molino.base.errors import ConfigError, DataError
from molino.configuration.build import check_arguments, check_names
from molino.data.examples import Example
from molino.data.prompt import remark, remark_unknown, respelt
from molino.generation.targets import Writing
from molino.models.capabilities import capabilities_of
from molino.tasks.holes import without_holes
from molino.trained.load import LoadedRun

# What is asked about, by the names of an example's fields, and by those that questions about a text have.
ASKED = ("text", "pair", "choices")
QUESTION = {"question": "text", "context": "pair"}


@torch.inference_mode()
def answers_of(loaded: LoadedRun, examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Return what a run tells of examples, as its task shapes it.

    Raises:
        ConfigError: it tells nothing, or nothing of such examples.
    """
    check_predicts(loaded)
    if not examples:
        return []
    task, tokenizer, block_size = loaded.task, loaded.tokenizer, loaded.model.block_size
    examples = _respelt(loaded, examples)
    told = task.predict(loaded.model, tokenizer, examples, block_size)
    texts = (without_holes(tokenizer.source, text) for each in examples for text in each.texts)
    remark_unknown(texts, tokenizer.source)
    if hasattr(task, "cut") and (count := task.cut(tokenizer, examples, block_size)):
        remark(f"{count:,} of {len(examples):,} are longer than the context of {block_size} tokens: read in part")
    return told


def _respelt(loaded: LoadedRun, examples: Sequence[Example]) -> list[Example]:
    """Return examples as the vocabulary knows them. What an answer is to be found in stays as it was typed: its place
    is told."""
    found = "context" in getattr(loaded.task, "fields", ())
    typed = [[each.text, *each.choices, *([] if found or each.pair is None else [each.pair])] for each in examples]
    spelt = iter(respelt([text for texts in typed for text in texts], loaded.tokenizer.source, loaded.line_end))
    return [
        each._replace(
            text=next(spelt),
            choices=tuple(islice(spelt, len(each.choices))),
            pair=each.pair if found or each.pair is None else next(spelt),
        )
        for each in examples
    ]


def told_to_write(loaded: LoadedRun, writing: Mapping[str, Any]) -> LoadedRun:
    """Return a run that writes otherwise than its task says.

    Args:
        writing: settings of molino.generation.targets.Writing; those that are None stay as they are.

    Raises:
        ConfigError: it writes nothing, or a setting is out of range.
    """
    asked = {name: value for name, value in writing.items() if value is not None}
    if not asked:
        return loaded
    if not hasattr(loaded.task, "writing"):
        name = next(iter(asked))
        raise ConfigError(f"writing.{name}={asked[name]} is for runs that write a target, which this one does not")
    check_arguments(Writing, asked, "writing")
    task = copy.copy(loaded.task)
    task.writing = replace(task.writing, **asked)
    return replace(loaded, task=task)


def check_predicts(loaded: LoadedRun) -> None:
    """Refuse a run whose task tells nothing of examples.

    Raises:
        ConfigError: as above.
    """
    if not hasattr(loaded.task, "predict"):
        goes_on = capabilities_of(loaded.model).next_token
        raise ConfigError(
            f"predict needs a run that was trained to tell something of examples, and {loaded.path.name} was not: "
            "train one with task=classification or another that does"
            + (", or ask this one by molino generate" if goes_on else "")
        )


def as_example(asked: Any) -> Example:
    """Return an example of what somebody asks about: a text, a dict of text, pair and choices, or of question and
    context, or an Example.

    Raises:
        DataError, ConfigError: it is none.
    """
    if isinstance(asked, Example):
        return asked
    if isinstance(asked, str):
        return Example(asked)
    if not isinstance(asked, Mapping):
        raise DataError(f"an example must be a str or a dict with a text, and this is {asked!r}")
    for name, other in QUESTION.items():
        if name in asked and other in asked:
            raise ConfigError(f"{name} and {other} are two names of one thing: give one")
    named = {QUESTION.get(name, name): value for name, value in asked.items()}
    pair = named.get("pair")
    if not isinstance(named.get("text"), str) or not (pair is None or isinstance(pair, str)):
        raise DataError(
            f"an example must be a str or a dict with a text, and a pair that is one, and this is {asked!r}"
        )
    check_names(named, ASKED)
    return Example(named["text"], pair, tuple(named.get("choices") or ()))
