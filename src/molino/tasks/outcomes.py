"""What is to be told of an example: its class, its score, or which of its choices is right.

Each knows its loss, its metrics, and what an answer looks like. Rows of a measured split are (number of the example,
what was wanted, logits): all figures follow from them, whatever batches and processes they came from.

Shapes: B and N examples, K logits of each.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from molino.base.errors import ConfigError, DataError
from molino.base.messages import few
from molino.data.examples import Example
from molino.runs.examples import LONGEST, MOST_CLASSES, Outcomes, Wrong
from molino.runs.measures import MAXIMIZE, Metric
from molino.tasks import scores

AUTO = "auto"  # of a setting that the corpus tells
NATS = "nats an example"
MOST_WRONG = 20  # examples that are shown
MOST_DOTS = 1000  # scores that are drawn
OF_CLASSES = (
    Metric("accuracy", MAXIMIZE),
    Metric("loss", unit=NATS),
    Metric("macro_f1", MAXIMIZE, shown=False),
    Metric("matthews", MAXIMIZE),
    Metric("calibration_error", shown=False),
)
OF_TWO = (Metric("f1", MAXIMIZE),)
OF_CHOICES = (Metric("accuracy", MAXIMIZE), Metric("loss", unit=NATS), Metric("calibration_error", shown=False))
OF_SCORES = (
    Metric("pearson", MAXIMIZE),
    Metric("spearman", MAXIMIZE),
    Metric("loss", unit="of the variance of the training scores"),
)


class Rows(NamedTuple):
    """What a network made of a split, in the order of the examples: numbers (N,), wanted (N,), logits (N, K)."""

    numbers: np.ndarray
    wanted: np.ndarray
    logits: np.ndarray


def rows_of(array_NR: np.ndarray) -> Rows:
    """Return the rows of a measured split in the order of the examples."""
    ordered = array_NR[np.argsort(array_NR[:, 0], kind="stable")]
    return Rows(ordered[:, 0].astype(np.int64), ordered[:, 1], ordered[:, 2:])


def cross_entropy(logits_BK: Tensor, wanted_B: Tensor) -> Tensor:
    """Mean negative log-probability of the right one."""
    return F.cross_entropy(logits_BK, wanted_B)


def squared_error(logits_B1: Tensor, wanted_B: Tensor) -> Tensor:
    """Mean squared difference."""
    return F.mse_loss(logits_B1[:, 0], wanted_B)


@dataclass(frozen=True)
class Classes:
    """One of some classes.

    Attributes:
        names: of the classes; None before the corpus has told them.
    """

    names: tuple[str, ...] | None
    each = False
    criterion = staticmethod(cross_entropy)

    @property
    def settled(self) -> dict[str, Any]:
        """As the settings of a task."""
        return {"classes": list(self.names)}

    @property
    def outputs(self) -> int:
        return len(self.names)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return OF_CLASSES + (OF_TWO if self.names is None or len(self.names) == 2 else ())

    def settle(self, splits: dict[str, list[Example]], name: str, order: Sequence[str] = ()) -> "Classes":
        """Return what a corpus tells: which classes there are, in an order that it has for some, then sorted.

        Raises:
            ConfigError: they are not those that were named before.
            DataError: there is one class alone to train on.
        """
        found = sorted({each.label for examples in splits.values() for each in examples if each.label is not None})
        if self.names is not None:
            _check_known(found, self.names, name)
            return self
        train = {each.label for each in splits["train"] if each.label is not None}
        if len(train) < 2:
            what = f"{next(iter(train))!r} alone" if train else "no label (name its column with data.columns.label)"
            raise DataError(f"the train split of {name} has {what}: there is nothing to tell apart")
        return Classes(tuple(dict.fromkeys([*(each for each in order if each in found), *found])))

    def wanted(self, examples: Sequence[Example]) -> np.ndarray:
        """Return the number of each example's class, -1 where nobody has said it.

        Raises:
            ConfigError: it is none of the classes.
        """
        numbers = {name: number for number, name in enumerate(self.names)}
        _check_known({each.label for each in examples if each.label is not None}, self.names, "the data")
        return np.array([-1 if each.label is None else numbers[each.label] for each in examples])

    def figures(self, rows: Rows) -> dict[str, float]:
        wanted = rows.wanted.astype(np.int64)
        table = scores.confusion(wanted, rows.logits.argmax(axis=1), self.outputs)
        found = {
            "accuracy": scores.accuracy(table),
            "loss": scores.cross_entropy(rows.logits, wanted),
            "macro_f1": scores.macro_f1(table),
            "matthews": scores.matthews(table),
            "calibration_error": _calibration_error(rows),
        }
        # That of the second of two, as `positive` behind `negative`.
        return found | ({"f1": float(scores.f1(table)[1])} if self.outputs == 2 else {})

    def answer(self, logits_K: np.ndarray, example: Example) -> dict[str, Any]:
        """Return what is told of an example: the likeliest class, its probability, and those of all."""
        p_K = np.exp(scores.log_softmax(logits_K[None])[0])
        told = {"label": self.names[int(p_K.argmax())], "score": float(p_K.max())}
        return told | {"probabilities": dict(zip(self.names, p_K.tolist(), strict=True))}

    def right(self, example: Example) -> str | None:
        """Return what should have been told, in words."""
        return example.label


@dataclass(frozen=True)
class Choices:
    """One of several answers.

    Attributes:
        count: how many each example has; None before the corpus has told it.
    """

    count: int | None
    each = True
    outputs = 1
    criterion = staticmethod(cross_entropy)
    metrics = OF_CHOICES

    @property
    def settled(self) -> dict[str, Any]:
        return {"choices": self.count}

    def settle(self, splits: dict[str, list[Example]], name: str, order: Sequence[str] = ()) -> "Choices":
        """Return how many choices the examples of a corpus have."""
        count = len(next(iter(splits.values()))[0].choices)
        if self.count not in (None, count):
            raise ConfigError(f"{name} has {count} choices an example, and the run was trained on {self.count}")
        return Choices(count)

    def wanted(self, examples: Sequence[Example]) -> np.ndarray:
        """Return the number of the right choice, -1 where nobody has said it."""
        return np.array([-1 if each.answer is None else each.answer for each in examples])

    def figures(self, rows: Rows) -> dict[str, float]:
        wanted = rows.wanted.astype(np.int64)
        return {
            "accuracy": float((rows.logits.argmax(axis=1) == wanted).mean()),
            "loss": scores.cross_entropy(rows.logits, wanted),
            "calibration_error": _calibration_error(rows),
        }

    def answer(self, logits_K: np.ndarray, example: Example) -> dict[str, Any]:
        p_K = np.exp(scores.log_softmax(logits_K[None])[0])
        shares: dict[str, float] = defaultdict(float)
        for choice, p in zip(example.choices, p_K.tolist(), strict=True):
            shares[choice] += p  # of choices that are the same
        told = {"label": example.choices[int(p_K.argmax())], "score": float(p_K.max())}
        return told | {"probabilities": dict(shares)}

    def right(self, example: Example) -> str | None:
        return None if example.answer is None else example.choices[example.answer]


@dataclass(frozen=True)
class Scores:
    """A number. The network tells it in standard deviations of the training scores from their mean.

    Attributes:
        mean, deviation: of the training scores; None before the corpus has told them.
    """

    mean: float | None
    deviation: float | None
    each = False
    outputs = 1
    criterion = staticmethod(squared_error)
    metrics = OF_SCORES

    @property
    def settled(self) -> dict[str, Any]:
        return {"scale": [self.mean, self.deviation]}

    def settle(self, splits: dict[str, list[Example]], name: str, order: Sequence[str] = ()) -> "Scores":
        """Return the scale of a corpus.

        Raises:
            DataError: there are no scores to train on, or all are one number.
        """
        if self.mean is not None:
            return self
        found = np.array([each.score for each in splits["train"] if each.score is not None])
        if len(found) == 0 or np.ptp(found) == 0:
            what = f"{found[0]:g} as every score" if len(found) else "no scores (name them with data.columns.score)"
            raise DataError(f"the train split of {name} has {what}: there is nothing to tell apart")
        return Scores(float(found.mean()), float(found.std()))

    def wanted(self, examples: Sequence[Example]) -> np.ndarray:
        """Return the scaled score of each example, nan where nobody has said it."""
        found = np.array([np.nan if each.score is None else each.score for each in examples])
        return (found - self.mean) / self.deviation

    def figures(self, rows: Rows) -> dict[str, float]:
        told = rows.logits[:, 0]
        return {
            "pearson": scores.pearson(told, rows.wanted),
            "spearman": scores.spearman(told, rows.wanted),
            "loss": float(((told - rows.wanted) ** 2).mean()),
        }

    def answer(self, logits_K: np.ndarray, example: Example) -> dict[str, Any]:
        return {"score": float(logits_K[0]) * self.deviation + self.mean}

    def right(self, example: Example) -> str | None:
        return None if example.score is None else f"{example.score:g}"


Outcome = Classes | Choices | Scores


def outcome_of(kind: str, classes: str | list[str], choices: str | int, scale: str | list[float]) -> Outcome:
    """Return what a kind of task tells, from its settings.

    Raises:
        ConfigError: a setting is one of another kind, or says nothing.
    """
    given = {"classes": classes, "choices": choices, "scale": scale}
    own = {"similarity": "scale", "multiple_choice": "choices"}.get(kind, "classes")
    for name, value in given.items():
        if isinstance(value, str) and value != AUTO:
            raise ConfigError(f"task.{name}={value} is unknown: give {AUTO}, or leave it out")
        if value != AUTO and name != own:
            raise ConfigError(f"task.{name}={value} has no use for task={kind}: leave it out")
    if own == "scale":
        return Scores(*(scale if scale != AUTO else (None, None)))
    if own == "choices":
        return Choices(None if choices == AUTO else choices)
    return Classes(None if classes == AUTO else tuple(map(str, classes)))


def line_of(outcome: Outcome, example: Example, answer: dict[str, Any]) -> str:
    """Return an example with what was told of it, and whether that is right."""
    told, wanted, text = answer.get("label"), outcome.right(example), " | ".join(example.texts)
    if told is None:
        return f"{answer['score']:.2f} (given {wanted})  {text}"
    return f"{told} {answer['score']:.2f} ({'right' if told == wanted else f'wrong, it is {wanted}'})  {text}"


def outcomes_of(rows: Rows, examples: Sequence[Example], outcome: Outcome, step: int) -> Outcomes:
    """Return what became of examples, with those that the network is most wrong about."""
    chosen = [examples[number] for number in rows.numbers]
    if isinstance(outcome, Scores):
        told, wanted = (each * outcome.deviation + outcome.mean for each in (rows.logits[:, 0], rows.wanted))
        off = np.abs(told - wanted)
        worst = np.argsort(-off, kind="stable")[:MOST_WRONG]
        wrong = [Wrong(_shown(chosen[n]), f"{told[n]:.2f}", f"{wanted[n]:.2f}", float(off[n])) for n in worst]
        few = np.linspace(0, len(told) - 1, min(MOST_DOTS, len(told))).astype(int)
        return Outcomes(step, [], [], [], np.stack([wanted, told], axis=1)[few].tolist(), wrong)
    wanted, p_NK = rows.wanted.astype(np.int64), np.exp(scores.log_softmax(rows.logits))
    guessed = p_NK.argmax(axis=1)
    sure = np.where(guessed == wanted, -1.0, p_NK.max(axis=1))
    worst = [n for n in np.argsort(-sure, kind="stable")[:MOST_WRONG] if sure[n] > 0]
    answers = [outcome.answer(rows.logits[n], chosen[n])["label"] for n in worst]
    wrong = [
        Wrong(_shown(chosen[n]), answer, str(outcome.right(chosen[n])), float(sure[n]))
        for n, answer in zip(worst, answers, strict=True)
    ]
    names = list(outcome.names) if isinstance(outcome, Classes) else []
    table = scores.confusion(wanted, guessed, len(names)).tolist() if 0 < len(names) <= MOST_CLASSES else []
    return Outcomes(step, names if table else [], table, scores.calibration(p_NK, wanted).tolist(), [], wrong)


def _shown(example: Example) -> str:
    text = " | ".join((example.text, *(() if example.pair is None else (example.pair,))))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _calibration_error(rows: Rows) -> float:
    p_NK = np.exp(scores.log_softmax(rows.logits))
    return scores.calibration_error(scores.calibration(p_NK, rows.wanted.astype(np.int64)))


def _check_known(found: Sequence[str] | set[str], names: Sequence[str], name: str) -> None:
    if unknown := [each for each in sorted(found) if each not in names]:
        raise ConfigError(
            f"{name} has the class {unknown[0]!r}, and the head is for {few(names)}: rename it with "
            f"data.corpus.classes (data.classes of data=labelled), or train a head of its own"
        )
