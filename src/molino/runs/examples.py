"""What became of the held-out examples of a run at its last validation: `examples.json` in its directory.

Needs no torch: the page of a comparison draws it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from molino.base.files import read_text, write_text

EXAMPLES = "examples.json"
MOST_CLASSES = 50  # that a picture has room for
LONGEST = 300  # characters of a text that is shown


@dataclass(frozen=True)
class Wrong:
    """An example that was told wrongly.

    Attributes:
        text: all its texts.
        told, wanted: what was said of it, and what should have been.
        sure: the probability with which it was said; of a score how far it is off.
    """

    text: str
    told: str
    wanted: str
    sure: float


@dataclass(frozen=True)
class Outcomes:
    """What became of the examples of a split.

    Attributes:
        step: after which.
        classes: their names; empty where there are none.
        confusion: how often each (rows) was taken for each (columns).
        calibration: of equal ranges of the probability: examples, sum of the probabilities, how many were right.
        scores: of some examples the score that was wanted, and the one that was told.
        wrong: those that it was most wrong about, the worst first.
    """

    step: int
    classes: list[str]
    confusion: list[list[int]]
    calibration: list[list[float]]
    scores: list[list[float]]
    wrong: list[Wrong]


def write_outcomes(run: Path, outcomes: Outcomes) -> None:
    """Record what became of the examples in a run's directory."""
    write_text(Path(run) / EXAMPLES, json.dumps(asdict(outcomes), ensure_ascii=False, indent=1) + "\n")


def read_outcomes(run: Path) -> Outcomes | None:
    """Return what became of the examples of a run; None of one that has not recorded it, or whose record is damaged."""
    try:
        return _parse(json.loads(read_text(Path(run) / EXAMPLES)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _parse(content: Mapping[str, Any]) -> Outcomes:
    classes = [str(name) for name in content["classes"]][:MOST_CLASSES]
    confusion = [[int(n) for n in row] for row in content["confusion"]]
    if confusion and not (len(confusion) == len(classes) == len(confusion[0])):
        raise ValueError("a table of other classes")
    calibration, scores = ([[float(n) for n in row] for row in content[name]] for name in ("calibration", "scores"))
    if any(len(row) != 3 for row in calibration) or any(len(row) != 2 for row in scores):
        raise ValueError("rows of other lengths")
    wrong = [
        Wrong(*(str(each[k]) for k in ("text", "told", "wanted")), float(each["sure"])) for each in content["wrong"]
    ]
    return Outcomes(int(content["step"]), classes, confusion, calibration, scores, wrong)
