"""What a language model tells of examples without having been trained to (Radford et al. 2018, section 5).

- words: the class whose name is the likeliest to come next, as `positive` or `negative` after "<text> very"
- choices: the answer with the largest mean log-probability given the question; where the text has a gap, each is put
  there, and what follows it is weighed
- acceptable: sentences are taken for acceptable whose mean log-probability is above a threshold, which is chosen on
  examples of the training split

Shapes: N examples, K classes or choices of each.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from molino.base.errors import ConfigError, DataError
from molino.base.messages import few
from molino.data.batches import EVALUATION_LOGITS, EVALUATION_TOKENS
from molino.data.examples import Example
from molino.data.tokenizers import Tokenizer
from molino.models.capabilities import device_of
from molino.tasks import scores

GAP = re.compile("_+")  # in a text: a place for each choice
ACCEPTABLE = ("unacceptable", "acceptable")
# What is asked of classes where nobody says what to ask.
TEMPLATES = {frozenset(("negative", "positive")): "{text} very {label}"}
FEW = 2000  # training examples by which a threshold is chosen


class Reader(NamedTuple):
    """A language model that weighs texts.

    Attributes:
        start: what stands before every text.
    """

    model: nn.Module
    tokenizer: Tokenizer
    start: tuple[int, ...]


class Probe(NamedTuple):
    """What a corpus is asked.

    Attributes:
        how: `words`, `choices` or `acceptable`.
        classes: their names; of choices none.
        template: with {text}, perhaps {pair}, and {label} at its end; of `words` alone.
    """

    how: str
    classes: tuple[str, ...] = ()
    template: str = ""


def probe_of(examples: Sequence[Example], template: str | None, words: dict[str, str] | None = None) -> Probe:
    """Return what is asked of examples.

    Args:
        template: for classes; None for what is usual of theirs.
        words: in place of the names of classes.

    Raises:
        ConfigError: it is not known what to ask, or the template has no place for the text or the class.
        DataError: the examples have neither classes nor choices.
    """
    if examples[0].choices:
        if template is not None:
            raise ConfigError(f"template={template!r} is for classes, and these examples have choices: leave it out")
        return Probe("choices")
    classes = tuple(sorted({each.label for each in examples if each.label is not None}))
    if len(classes) < 2:
        raise DataError("these examples have neither classes nor choices: there is nothing to ask")
    if template is None and set(classes) == set(ACCEPTABLE):
        if words:
            raise ConfigError("words are for a template, and acceptability is asked without one: leave them out")
        return Probe("acceptable", ACCEPTABLE)
    template = TEMPLATES.get(frozenset(classes)) if template is None else template
    if template is None:
        named = few(classes)
        raise ConfigError(f"what to ask of {named} is not known: add template, such as '{{text}} very {{label}}'")
    if not re.fullmatch(r".*\{text\}.*\{label\}\s*", template, re.DOTALL):
        raise ConfigError(f"template={template!r} must hold {{text}} and end with {{label}}")
    if other := set(re.findall(r"\{(\w*)\}", template)) - {"text", "pair", "label"}:
        raise ConfigError(f"template={template!r}: {{{min(other)}}} is none of {{text}}, {{pair}} and {{label}}")
    if len({(words or {}).get(name, name) for name in classes}) < len(classes):
        raise ConfigError(f"words={words} say the same of two classes: they cannot be told apart")
    if words and (unknown := [name for name in words if name not in classes]):
        raise ConfigError(f"words.{unknown[0]} is none of the classes {few(classes)}")
    return Probe("words", classes, template)


def measure_probe(
    reader: Reader, probe: Probe, examples: Sequence[Example], train: Sequence[Example], words: dict[str, str]
) -> dict[str, float]:
    """Return what a model comes to on examples: `accuracy`, of acceptability `matthews` beside it, and `chance`.

    Args:
        train: examples by which a threshold may be chosen.
        words: in place of the names of classes.
    """
    if probe.how == "acceptable":
        return _acceptable(reader, probe, examples, train)
    if probe.how == "choices":
        known = [each for each in examples if each.answer is not None]
        right_N = np.array([each.answer for each in known])
        told_NK = weigh(reader, [question(each, choice) for each in known for choice in each.choices])
        K = len(known[0].choices)
    else:
        known = [each for each in examples if each.label is not None]
        right_N = np.array([probe.classes.index(each.label) for each in known])
        named = [words.get(name, name) for name in probe.classes]
        told_NK = weigh(reader, [_filled(probe.template, each, word) for each in known for word in named])
        K = len(named)
    guessed_N = told_NK.reshape(-1, K).argmax(axis=1)
    return {"accuracy": float((guessed_N == right_N).mean()), "chance": 1 / K, "examples": len(known)}


def question(example: Example, choice: str) -> tuple[str, str]:
    """Return what stands before a choice, and what is weighed: the choice, or what follows the gap that it fills.

    Nothing follows a gap at the end: there it is the choice.
    """
    before, *after = GAP.split(example.text, maxsplit=1)
    if after and after[0].strip():
        return before + choice, after[0]
    return before.rstrip(), f" {choice}"


def weigh(reader: Reader, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Return the mean log-probability of the tokens of each second text, given the first: (M,), float64.

    Of what is longer than the context the first text loses its beginning.
    """
    block_size, rows = reader.model.block_size, []
    for before, after in pairs:
        weighed = reader.tokenizer.encode(after).tolist()[: block_size - 1]
        given = [*reader.start, *reader.tokenizer.encode(before).tolist()] if before else list(reader.start)
        room = block_size - len(weighed) + 1  # the last token is only foretold
        rows.append((given[-room:] if len(given) > room else given, weighed))
    return _mean_log_probabilities(reader.model, rows)


@torch.inference_mode()
def _mean_log_probabilities(model: nn.Module, rows: list[tuple[list[int], list[int]]]) -> np.ndarray:
    device, found = device_of(model), np.zeros(len(rows))
    lengths = np.array([len(given) + len(weighed) - 1 for given, weighed in rows])
    order = np.argsort(lengths, kind="stable")
    room = min(EVALUATION_LOGITS // model.vocab_size, EVALUATION_TOKENS)
    begin = 0
    for end in range(1, len(order) + 1):
        if end < len(order) and (end + 1 - begin) * lengths[order[end]] <= room:
            continue
        chosen = order[begin:end]
        T = max(int(lengths[chosen].max()), 1)
        tokens = torch.zeros(len(chosen), T, dtype=torch.long)
        targets = torch.full((len(chosen), T), -100)
        for row, number in enumerate(chosen):
            given, weighed = rows[number]
            ids = torch.tensor([*given, *weighed])
            tokens[row, : len(ids) - 1] = ids[:-1]
            targets[row, len(given) - 1 : len(ids) - 1] = ids[len(given) :]
        logits_BTV, targets = model(tokens.to(device)), targets.to(device)
        nll_BT = F.cross_entropy(logits_BTV.float().transpose(1, 2), targets, ignore_index=-100, reduction="none")
        counts_B = (targets != -100).sum(1).clamp(min=1)
        found[chosen] = -(nll_BT.double().sum(1) / counts_B).cpu().numpy()
        begin = end
    return found


def _filled(template: str, example: Example, word: str) -> tuple[str, str]:
    """Return a template with everything but the class, and the class with the white space before it."""
    before, _, _ = template.partition("{label}")
    stripped = before.rstrip()
    filled = stripped.replace("{text}", example.text).replace("{pair}", example.pair or "")
    return filled, before[len(stripped) :] + word


def _acceptable(
    reader: Reader, probe: Probe, examples: Sequence[Example], train: Sequence[Example]
) -> dict[str, float]:
    known, few = ([each for each in part if each.label is not None] for part in (examples, train))
    if not few:
        raise DataError("a threshold is chosen on training examples, and there are none: choose a corpus that has some")
    few = few[:: max(len(few) // FEW, 1)]
    told, told_few = (weigh(reader, [("", each.text) for each in part]) for part in (known, few))
    right, right_few = (np.array([probe.classes.index(each.label) for each in part]) for part in (known, few))
    table = scores.confusion(right, (told > best_threshold(told_few, right_few)).astype(np.int64), 2)
    majority = np.bincount(right, minlength=2).max() / len(right)
    return {
        "matthews": scores.matthews(table),
        "accuracy": scores.accuracy(table),
        "chance": 0.0,
        "majority": float(majority),
        "examples": len(known),
    }


def best_threshold(told_N: np.ndarray, right_N: np.ndarray) -> float:
    """Return above which value to say 1, so that the Matthews correlation is the largest."""
    order = np.argsort(told_N, kind="stable")
    told, right = told_N[order], right_N[order].astype(np.float64)
    N, ones = len(right), right.sum()
    # With the first n below the threshold: ones among those above it, and zeros below.
    below = np.arange(N + 1)
    ones_above = ones - np.concatenate([[0.0], np.cumsum(right)])
    above = N - below
    spread = np.sqrt(above * below * ones * (N - ones))
    value = np.divide(ones_above * N - above * ones, spread, out=np.zeros(N + 1), where=spread > 0)
    value[1:N][told[1:] == told[:-1]] = -np.inf  # no threshold tells apart what is equal
    n = int(value.argmax())
    return float(-np.inf if n == 0 else told[n - 1] if n == N else (told[n - 1] + told[n]) / 2)


def reader_of(model: nn.Module, tokenizer: Tokenizer, start_id: int, prefix: tuple[int, ...]) -> Reader:
    """Return a language model with what its texts begin with."""
    return Reader(model, tokenizer, prefix or (start_id,))


def told(figures: dict[str, float]) -> dict[str, Any]:
    """Return figures as rows of a table."""
    rows = {name: f"{value:.4f}" for name, value in figures.items() if name not in ("chance", "examples")}
    return {"examples": f"{figures['examples']:,}"} | rows | {"chance": f"{figures['chance']:.4f}"}
