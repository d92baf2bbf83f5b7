"""Figures and floors as rows of a table of facts."""

from collections.abc import Iterable, Mapping

from molino.runs.measures import Floor, Metric


def describe_figures(metrics: Iterable[Metric], figures: Mapping[str, float]) -> dict[str, str]:
    """Return the figures (by name) as rows, each with its unit."""
    return {m.name.replace("_", " "): f"{figures[m.name]:.4f} {m.unit}".rstrip() for m in metrics}


def describe_floors(floors: Iterable[Floor], figures: Mapping[str, float] | None = None) -> dict[str, str]:
    """Return the floors as rows, each with how far the figures (by name), of the same split, are from it."""
    rows = {}
    for floor in floors:
        metric = next(iter(floor.levels), None)
        away = f" ({figures[metric] - floor.value:+.4f})" if figures and metric in figures else ""
        rows[floor.title] = f"{floor.value:.4f}{away}{floor.remark}"
    return rows
