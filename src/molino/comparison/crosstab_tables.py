"""A table of two settings as it is read: on the screen, as Markdown, CSV, JSON, and a picture."""

import csv
import io
import json
from html import escape
from typing import Any

from molino.base.console import say, show_rows
from molino.comparison.crosstab import AVERAGE, AVERAGED, COSTS, WHOLE, Column, CrossTab
from molino.comparison.page import html_page, html_picture, html_table
from molino.comparison.pictures import render
from molino.comparison.show import NOTHING, show_number
from molino.comparison.statistics import SIGNIFICANT, Sample
from molino.comparison.tables import pipes
from molino.runs.measures import metric_name


def table(tab: CrossTab, row_key: str) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: figures as they are told, each with its standard deviation."""
    averaged = bool(tab.averages)
    header = [row_key, *([AVERAGE, "95 % interval", "p"] if averaged else [])]
    header += [f"{name} {metric_name(column.tag)}" for name, column in tab.kinds.items()]
    lines = []
    for row in tab.rows:
        cells = [
            _cell(tab.cells.get((row, name)), each, tab.cell_p.get((row, name))) for name, each in tab.kinds.items()
        ]
        lines.append([row, *(_average(tab, row) if averaged else []), *cells])
    for floor, levels in tab.floors.items():
        whole = len(levels) == len(tab.columns)
        mean = sum(each.scale * levels.get(name, 0.0) for name, each in tab.kinds.items()) / len(tab.columns)
        cells = [_number(levels[name], each) if name in levels else NOTHING for name, each in tab.kinds.items()]
        mean = [f"{mean:.1f}" if whole else NOTHING, NOTHING, NOTHING] if averaged else []
        lines.append([f"floor: {floor}", *mean, *cells])
    return header, lines


def _average(tab: CrossTab, row: str) -> list[str]:
    sample, p = tab.averages[row], tab.p[row]
    interval = NOTHING if sample.sd is None else f"{WHOLE * sample.low:.1f} .. {WHOLE * sample.high:.1f}"
    told = NOTHING if p is None else f"{p:.4f}{' *' if p < SIGNIFICANT else ''}"
    return [_cell(sample, AVERAGED, None), interval, told]


def _number(value: float, column: Column) -> str:
    """Return a figure: of shares and of what is perfect at 100 a digit behind the point, of losses four."""
    return f"{column.scale * value:.1f}" if column.maximized else show_number(value)


def _cell(sample: Sample | None, column: Column, p: float | None) -> str:
    if sample is None or sample.mean is None:
        return NOTHING
    sd = "" if sample.sd is None else f" ({_number(sample.sd, column)})"
    return f"{_number(sample.mean, column)}{sd}{' *' if p is not None and p < SIGNIFICANT else ''}"


def costs(tab: CrossTab, row_key: str) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: seconds of a run, and in brackets its parameters."""
    lines = []
    for row in tab.rows:
        found = [tab.costs.get((row, name), (None, None)) for name in tab.columns]
        told = [NOTHING if seconds is None else f"{seconds:,.{0 if seconds >= 10 else 1}f}" for seconds, _ in found]
        sizes = ["" if size is None else f" ({_brief(size)})" for _, size in found]
        lines.append([row, *(a + b for a, b in zip(told, sizes, strict=True))])
    return [row_key, *(f"{name} seconds" for name in tab.columns)], lines


def _brief(count: float) -> str:
    """Return a count in thousands or millions, where it is so large."""
    unit, name = next(((unit, name) for unit, name in ((1e6, " M"), (1e3, " k")) if count >= unit), (1, ""))
    return f"{count / unit:.1f}{name}" if name else f"{count:.0f}"


def notes(tab: CrossTab) -> list[str]:
    """Return how the table is to be read."""
    seeds = sorted({sample.n for sample in tab.cells.values()})
    counted = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    shares = [name for name, column in tab.kinds.items() if column.scale != 1]
    some = "" if len(shares) == len(tab.columns) else f" of {', '.join(shares)}"
    times = f",{some} times 100" if shares else ""
    several = seeds[-1] > 1
    spread = ", with their standard deviation" if several else ""
    told = [f"held-out figures of the best step{times}, over {counted} seed{'s' if several else ''}{spread}"]
    if tab.cell_p:
        told.append(
            "* is significantly worse than the best of its column (Student's t-test seed by seed where seeds and "
            "batches are the same, else Welch's; corrected for all pairs of rows by Holm)"
        )
    if any(p is not None for p in tab.p.values()):
        told.append(
            f"p: Welch's t-test of the averages against {tab.rows[0]!r}, corrected for all rows; * is significant"
        )
    if few := [f"{row} {sample.n}" for row, sample in tab.averages.items() if 0 < sample.n < seeds[-1]]:
        told.append(f"averages are of the seeds that have all columns: {', '.join(few)}")
    if tab.left_out:
        count = "1 run is" if tab.left_out == 1 else f"{tab.left_out} runs are"
        told.append(f"{count} left out (failed, pruned or not ended): without columns= the table names them")
    down = [name for name, column in tab.kinds.items() if not column.maximized]
    if down:
        told.append(f"less is better of {', '.join(down)}: so there is no average over the columns")
    return told


def print_crosstab(tab: CrossTab, row_key: str) -> None:
    """Print the table, and how it is to be read."""
    header, lines = table(tab, row_key)
    show_rows(f"{len(tab.rows)} x {len(tab.columns)}", header, lines, words={row_key})
    for note in notes(tab):
        say(note)
    header, lines = costs(tab, row_key)
    show_rows("what a run costs", header, lines, words={row_key})


def as_csv(tab: CrossTab, row_key: str) -> str:
    """Return a line a cell, figures in full."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([row_key, "column", "metric", "n", "mean", "sd", "low", "high", "p", *COSTS])
    for (row, name), s in tab.cells.items():
        told = [s.n, s.mean, s.sd, s.low, s.high, tab.cell_p.get((row, name)), *tab.costs[row, name]]
        writer.writerow([row, name, tab.metrics[name], *told])
    for row, s in tab.averages.items():
        writer.writerow([row, AVERAGE, "", s.n, s.mean, s.sd, s.low, s.high, tab.p[row], None, None])
    return text.getvalue().rstrip("\n")


def as_json(tab: CrossTab, row_key: str) -> str:
    """Return all there is to know."""

    def told(s: Sample) -> dict[str, Any]:
        return {"n": s.n, "mean": s.mean, "sd": s.sd, "low": s.low, "high": s.high}

    rows = [
        {
            row_key: row,
            **({AVERAGE: told(tab.averages[row]), "p": tab.p[row]} if tab.averages else {}),
            "columns": {
                name: told(tab.cells[row, name])
                | {"p": tab.cell_p.get((row, name)), **dict(zip(COSTS, tab.costs[row, name], strict=True))}
                for name in tab.columns
                if (row, name) in tab.cells
            },
        }
        for row in tab.rows
    ]
    return json.dumps({"metrics": tab.metrics, "rows": rows, "floors": tab.floors}, indent=2)


def draw_crosstab(tab: CrossTab) -> Any:
    """Draw a figure: a group of bars for each column and the average, the best floor as a line across its group; where
    columns have no common scale, each in a panel of its own."""
    from matplotlib.figure import Figure

    columns = list(tab.kinds.items())
    panels = [[(AVERAGE, AVERAGED), *columns]] if tab.averages else [[each] for each in columns]
    figure = Figure(figsize=(1.5 * sum(map(len, panels)) + len(panels) + 1.5, 4.4), layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for place, groups in zip(places, panels, strict=True):
        _draw_groups(place, tab, groups)
    for number, row in enumerate(tab.rows):
        place.plot([], [], color=f"C{number}", marker="s", ls="", label=row)
    place.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def make_page(tab: CrossTab, row_key: str, command: str) -> tuple[str, dict[str, bytes]]:
    """Return the table as a page, and the picture on it by its title."""
    drawn = {f"{row_key}, {len(tab.rows)} x {len(tab.columns)}": render(draw_crosstab(tab))}
    parts = [html_table(*table(tab, row_key), 1), *(f"<p>{escape(note)}</p>" for note in notes(tab))]
    parts += ["<h2>what a run costs</h2>", html_table(*costs(tab, row_key), 1)]
    parts += [html_picture(title, png) for title, png in drawn.items()]
    return html_page(f"{len(tab.rows)} rows, {len(tab.columns)} columns", parts, command), drawn


def _draw_groups(place: Any, tab: CrossTab, groups: list[tuple[str, Column]]) -> None:
    width = 0.8 / len(tab.rows)
    for number, row in enumerate(tab.rows):
        for at, (name, column) in enumerate(groups):
            sample = tab.averages[row] if column is AVERAGED else tab.cells.get((row, name))
            if sample is not None and sample.mean is not None:
                x, spread = at + (number - (len(tab.rows) - 1) / 2) * width, column.scale * (sample.sd or 0)
                bar = {"color": f"C{number}", "yerr": spread, "error_kw": {"lw": 0.8}}
                place.bar(x, column.scale * sample.mean, width * 0.92, **bar)
    for at, (name, column) in enumerate(groups):
        levels = {floor: column.scale * each[name] for floor, each in tab.floors.items() if name in each}
        if levels:
            best = (max if column.maximized else min)(levels, key=levels.__getitem__)
            place.hlines(levels[best], at - 0.45, at + 0.45, color="0.2", lw=0.9, ls="--")
            place.text(at - 0.45, levels[best], best, fontsize=7, va="bottom", parse_math=False)
    place.set_xlim(-0.5, len(groups) - 0.5)
    labels = [name if column is AVERAGED else f"{name}\n{metric_name(column.tag)}" for name, column in groups]
    place.set_xticks(range(len(groups)), labels, fontsize=8, parse_math=False)
    place.axhline(0, color="0.6", lw=0.6)


def markdown(tab: CrossTab, row_key: str) -> str:
    """Return the table as Markdown, how it is to be read, and what the runs cost."""
    header, lines = table(tab, row_key)
    return "\n\n".join([pipes(header, lines, right=1), *notes(tab), pipes(*costs(tab, row_key), right=1)])
