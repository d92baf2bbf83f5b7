"""A figure while runs were trained, held out or of training, from their metrics.csv, averaged over seeds."""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from molino.base.files import whole_lines
from molino.comparison.run import Run
from molino.runs.measures import partial_tag

METRICS = "metrics.csv"


@dataclass(frozen=True)
class Curve:
    """A figure of some runs at each step they have in common.

    Attributes:
        x: steps, or seconds since the start of the run, their mean over the runs.
        mean, low, high: of the figure: mean, least and largest of the runs.
        runs: how many there are.
    """

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    runs: int


def read_validations(run: Path, metric: str) -> dict[int, tuple[float, float | None]]:
    """Return step -> (the metric, seconds since the start; None in older runs) of each validation of a run; of a metric
    of training also of what lies between them, whose seconds are not known."""
    found = {}
    try:
        for row in csv.DictReader(whole_lines(run / METRICS)):
            # Where looks in between took a share of the split, theirs are all there are.
            value = _number(row.get(metric) or row.get(partial_tag(metric)))
            seconds = _number(row.get("seconds"))
            step = _number(row.get("step"))
            if value is not None and step is not None:
                found[int(step)] = value, seconds
    except (OSError, ValueError, csv.Error):
        return {}  # nothing was logged, or nothing that can be read
    return found


def average(runs: Iterable[Run], metric: str, axis: str) -> Curve | None:
    """Return the curve of a metric of `runs` against `steps` or `seconds`; None where none of them knows it.

    A run that stopped early ends the curve: a mean over fewer runs would jump.
    """
    points = []
    for run in runs:
        validations = read_validations(run.path, metric)
        own = {step: (step if axis == "steps" else seconds, value) for step, (value, seconds) in validations.items()}
        own = {step: point for step, point in own.items() if point[0] is not None}
        if own:
            points.append(own)
    if not points:
        return None
    # Runs that were validated at different steps have no mean: the first is shown.
    common = sorted(set.intersection(*map(set, points)))
    points, common = (points, common) if common else (points[:1], sorted(points[0]))
    figures = [[own[step][1] for own in points] for step in common]
    return Curve(
        x=[math.fsum(own[step][0] for own in points) / len(points) for step in common],
        mean=[math.fsum(values) / len(values) for values in figures],
        low=[min(values) for values in figures],
        high=[max(values) for values in figures],
        runs=len(points),
    )


def _number(text: str | None) -> float | None:
    """Return a cell as a number; None of an empty one, and of what is not finite and cannot be drawn."""
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
