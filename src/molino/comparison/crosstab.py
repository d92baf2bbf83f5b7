"""Runs in a table of two settings, as GPT-1's ablation: rows are what is compared, columns what it is compared on.

Each column has a metric of its own, what decides in its runs, so that tasks of many kinds stand side by side. The
average is taken over the columns seed by seed; each row is compared with the first by these averages.
"""

import csv
import io
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from molino.base.console import say, show_rows
from molino.base.errors import ConfigError
from molino.comparison.rows import check_settings
from molino.comparison.run import Run
from molino.comparison.show import NOTHING
from molino.comparison.statistics import SIGNIFICANT, Sample, describe, holm, welch
from molino.comparison.tables import pipes
from molino.configuration.identity import canonical
from molino.runs.measures import metric_name

AVERAGE = "average"


@dataclass(frozen=True)
class CrossTab:
    """The table.

    Attributes:
        rows, columns: names; rows with the best average first.
        metrics: of each column, what it measures.
        cells: (row, column) -> what its seeds say.
        averages: of each row over the columns, seed by seed; only seeds that have all of them.
        p: of each row but the first, whether its average is that of the first, corrected for how many there are.
        floors: name -> its value in each column that has one.
    """

    rows: list[str]
    columns: list[str]
    metrics: dict[str, str]
    cells: dict[tuple[str, str], Sample]
    averages: dict[str, Sample]
    p: dict[str, float | None]
    floors: dict[str, dict[str, float]]


def cross(runs: list[Run], row_key: str, column_key: str) -> CrossTab:
    """Return the table of the runs that are done.

    Raises:
        ConfigError: no run has such a setting, none is done, or a column holds several metrics.
    """
    check_settings(runs, [row_key], "group_by")
    check_settings(runs, [column_key], "columns")
    done = [run for run in runs if run.done and not run.pruned]
    values: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    metrics: dict[str, str] = {}
    floors: dict[str, dict[str, float]] = defaultdict(dict)
    for run in done:
        row, column = (str(run.value(key)) for key in (row_key, column_key))
        tag = run.measures.monitor
        if metrics.setdefault(column, tag) != tag:
            raise ConfigError(f"{column_key}={column} is measured by {metrics[column]} and by {tag}: a column has one")
        if (value := run.metric(tag.replace("/", "/best_", 1))) is None:
            value = run.metric(tag)
        if value is not None:
            values[row, column][canonical(run.seed)] = value
        for brief, level in run.measures.levels_of(tag).values():
            if level is not None:
                floors[brief][column] = level
    if not values:
        raise ConfigError("none of these runs is done: there is nothing to put into a table")
    rows, columns = (sorted({key[at] for key in values}) for at in (0, 1))
    averages = {}
    for row in rows:
        seeds = set.intersection(*(set(values[row, column]) for column in columns)) if columns else set()
        averages[row] = describe([sum(values[row, c][seed] for c in columns) / len(columns) for seed in sorted(seeds)])
    rows.sort(key=lambda row: -math.inf if averages[row].mean is None else averages[row].mean, reverse=True)
    others = [row for row in rows[1:] if welch(averages[row], averages[rows[0]]) is not None]
    corrected = holm([welch(averages[row], averages[rows[0]]) for row in others])
    p = dict.fromkeys(rows) | dict(zip(others, corrected, strict=True))
    cells = {key: describe(list(found.values())) for key, found in values.items()}
    return CrossTab(rows, columns, metrics, cells, averages, p, dict(floors))


def table(tab: CrossTab, row_key: str) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: figures times 100, each with its standard deviation."""
    header = [row_key, AVERAGE, "95 % interval", "p", *(f"{c} {metric_name(tab.metrics[c])}" for c in tab.columns)]
    lines = []
    for row in tab.rows:
        sample, p = tab.averages[row], tab.p[row]
        interval = NOTHING if sample.sd is None else f"{100 * sample.low:.1f} .. {100 * sample.high:.1f}"
        told = NOTHING if p is None else f"{p:.4f}{' *' if p < SIGNIFICANT else ''}"
        cells = [_cell(tab.cells.get((row, column))) for column in tab.columns]
        lines.append([row, _cell(sample), interval, told, *cells])
    for name, levels in tab.floors.items():
        whole = len(levels) == len(tab.columns)
        mean = f"{100 * sum(levels.values()) / len(levels):.1f}" if whole else NOTHING
        cells = [f"{100 * levels[column]:.1f}" if column in levels else NOTHING for column in tab.columns]
        lines.append([f"floor: {name}", mean, NOTHING, NOTHING, *cells])
    return header, lines


def notes(tab: CrossTab) -> list[str]:
    """Return how the table is to be read."""
    seeds = sorted({sample.n for sample in tab.cells.values()})
    counted = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return [
        f"held-out figures of the best step, times 100, over {counted} seeds, with their standard deviation",
        f"p: Welch's t-test of the averages against {tab.rows[0]!r}, corrected for all rows (Holm); * is significant",
    ]


def print_crosstab(tab: CrossTab, row_key: str) -> None:
    """Print the table, and how it is to be read."""
    header, lines = table(tab, row_key)
    show_rows(f"{len(tab.rows)} x {len(tab.columns)}", header, lines, words={row_key})
    for note in notes(tab):
        say(note)


def as_csv(tab: CrossTab, row_key: str) -> str:
    """Return a line a cell, figures in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([row_key, "column", "metric", "n", "mean", "sd", "low", "high"])
    for (row, column), s in tab.cells.items():
        writer.writerow([row, column, tab.metrics[column], s.n, s.mean, s.sd, s.low, s.high])
    for row, s in tab.averages.items():
        writer.writerow([row, AVERAGE, "", s.n, s.mean, s.sd, s.low, s.high])
    return text.getvalue().rstrip("\n")


def as_json(tab: CrossTab, row_key: str) -> str:
    """Return all there is to know."""

    def told(s: Sample) -> dict[str, Any]:
        return {"n": s.n, "mean": s.mean, "sd": s.sd, "low": s.low, "high": s.high}

    rows = [
        {
            row_key: row,
            AVERAGE: told(tab.averages[row]),
            "p": tab.p[row],
            "columns": {c: told(tab.cells[row, c]) for c in tab.columns if (row, c) in tab.cells},
        }
        for row in tab.rows
    ]
    return json.dumps({"metrics": tab.metrics, "rows": rows, "floors": tab.floors}, indent=2)


def draw_crosstab(tab: CrossTab) -> Any:
    """Draw a figure: a group of bars for each column and the average, floors as lines across its group."""
    from matplotlib.figure import Figure

    groups = [AVERAGE, *tab.columns]
    figure = Figure(figsize=(1.5 * len(groups) + 2.5, 4.4), layout="constrained")
    place, width = figure.add_subplot(), 0.8 / len(tab.rows)
    for number, row in enumerate(tab.rows):
        samples = [tab.averages[row], *(tab.cells.get((row, column)) for column in tab.columns)]
        found = [(at, s) for at, s in enumerate(samples) if s is not None and s.mean is not None]
        at = [place_ + (number - (len(tab.rows) - 1) / 2) * width for place_, _ in found]
        means, spread = [100 * s.mean for _, s in found], [100 * (s.sd or 0) for _, s in found]
        place.bar(at, means, width * 0.92, yerr=spread, error_kw={"lw": 0.8}, label=row)
    for style, (name, levels) in zip(("--", ":", "-."), tab.floors.items(), strict=False):
        for number, column in enumerate(groups):
            if column in levels:
                place.hlines(100 * levels[column], number - 0.45, number + 0.45, color="0.2", lw=0.9, ls=style)
        place.plot([], [], color="0.2", lw=0.9, ls=style, label=f"floor: {name}")
    labels = [AVERAGE, *(f"{c}\n{metric_name(tab.metrics[c])}" for c in tab.columns)]
    place.set_xticks(range(len(groups)), labels, fontsize=8, parse_math=False)
    place.axhline(0, color="0.6", lw=0.6)
    place.set_ylabel("x 100")
    place.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _cell(sample: Sample | None) -> str:
    if sample is None or sample.mean is None:
        return NOTHING
    return f"{100 * sample.mean:.1f}" + ("" if sample.sd is None else f" ({100 * sample.sd:.1f})")


def markdown(tab: CrossTab, row_key: str) -> str:
    """Return the table as Markdown, and how it is to be read."""
    header, lines = table(tab, row_key)
    return "\n\n".join([pipes(header, lines, right=1), *notes(tab)])
