"""Pictures of a comparison: what decides, such as the held-out loss, in training, and what a setting did to a metric.

Figures of matplotlib, which is optional: it is imported when one is drawn, and never asked for a window.
"""

import io
import math
import statistics
import warnings
from typing import Any

from molino.base.errors import ResourceError
from molino.comparison.curves import Curve, average
from molino.comparison.rows import Row, text_of
from molino.comparison.show import show_number, show_value
from molino.runs.measures import HELDOUT, learnt_tag, metric_name, metric_tag, spoken

DPI = 130
WIDTH, HEIGHT = 11.0, 4.6  # of a panel with its legend, in inches
MOST_COLOURED = 10  # lines; the others are grey
MOST_TRAINING = 5  # rows of a panel whose training is drawn as well
LONGEST_LABEL = 44  # letters
GREY = "0.75"
MARK = "molino results.py"  # by which a picture is known as ours


def require_matplotlib() -> None:
    """Raises ResourceError where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ResourceError("pictures need matplotlib: pip install matplotlib") from error


def drawn_metric(row: Row) -> str:
    """Return what is drawn of a row in training: what it is ranked by, if that is measured then, else what decides."""
    ranked = metric_tag(row.metric)
    return ranked if row.measures.metric(ranked) and ranked.startswith(f"{HELDOUT}/") else row.measures.monitor


def draw_curves(rows: list[Row], monitor: str, axis: str) -> Any | None:
    """Draw a figure of some runs against `steps` or `seconds`, a panel for each text; None where no run knows it.

    A line is the mean over the seeds of a row, its band goes from the least to the largest. The best ten are coloured.
    Of the best rows a thin line shows the same figure in training, where it is one that is learnt by.
    """
    rows = [row for row in rows if drawn_metric(row) == monitor]
    curves = [(row, average(row.runs or row.unfinished, monitor, axis)) for row in rows]
    panels = _by_text([(row, curve) for row, curve in curves if curve], monitor)
    if not panels:
        return None
    figure, places = _figure(len(panels))
    named = [_names([row for row, _ in drawn]) for drawn in panels]
    for place, drawn, names, colours in zip(places, panels, named, _colours(named), strict=True):
        trainings = _trainings(drawn, monitor, axis)
        for number, (row, curve) in reversed(list(enumerate(drawn))):
            colour = colours[number]
            style = ":" if row.pruned else "-" if row.runs else "--"
            # A run with a single validation is a dot.
            dot = "o" if len(curve.x) == 1 else ""
            order = 3 - number / len(drawn)
            place.plot(curve.x, curve.mean, style, marker=dot, color=colour, lw=1.6, label=names[number], zorder=order)
            if number in trainings:
                thin = {"lw": 0.7, "alpha": 0.8, "color": colour, "zorder": order - 1e-3}
                place.plot(trainings[number].x, trainings[number].mean, **thin)
            if curve.runs > 1:
                place.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, lw=0, zorder=order)
        rows_here = [row for row, _ in drawn]
        maximized = rows_here[0].measures.maximized(monitor)
        hidden = _limit(place, [curve for _, curve in drawn], maximized, trainings)
        _floors(place, rows_here, monitor)
        unfinished, pruned = any(not row.runs for row in rows_here), any(row.pruned for row in rows_here)
        remarks = {"dashed: not finished": unfinished, "dotted: pruned": pruned}
        _remark(place, remarks | _out_of_sight(hidden, maximized))
        ends = [curve.x[-1] for _, curve in drawn]
        if min(ends) > 0 and max(ends) >= 20 * min(ends):
            _logarithmic(place)
        else:
            place.set_xlim(left=0)
        place.set_xlabel("training steps" if axis == "steps" else "seconds since the start of the run")
        metric = rows_here[0].measures.metric(monitor)
        what = ", ".join(filter(None, (spoken(monitor), metric.unit if metric else "")))
        place.set_ylabel(what + _say_trainings(trainings, len(drawn)))
        _finish(place, rows_here, len(drawn))
    return figure


def draw_setting(rows: list[Row], metric: str, key: str) -> Any | None:
    """Draw a metric against a numeric setting, a panel for each text; None where no two values can be compared.

    A line joins rows that differ in nothing else, but for those that were stopped early, which do not compare; bars are
    a standard deviation each way.
    """
    usable = [row for row in rows if _is_number(row.labels.get(key)) and _is_number(row.samples[metric].mean)]
    panels = _by_text([(row, row.labels[key]) for row in usable], metric)
    panels = [panel for panel in panels if len({x for _, x in panel}) > 1]
    if not panels:
        return None
    figure, places = _figure(len(panels))
    joined = [_lines([row for row, _ in panel], key) for panel in panels]
    named = [_names([line[0] for line in lines], without=key) for lines in joined]
    for place, lines, names, colours in zip(places, joined, named, _colours(named), strict=True):
        # Of a random search every row is a line of its own: dots, then, and no legend.
        scattered = len(lines) > MOST_COLOURED and all(len(line) == 1 for line in lines)
        for number, line in reversed(list(enumerate(lines))):
            pruned, spread = line[0].pruned, any(row.samples[metric].sd for row in line)
            place.errorbar(
                [row.labels[key] for row in line],
                [row.samples[metric].mean for row in line],
                yerr=[row.samples[metric].sd or 0 for row in line] if spread else None,
                fmt="x" if pruned else "o-", ms=5, lw=1.4, capsize=3,
                color="0.6" if pruned else "C0" if scattered else colours[number],
                label=names[number] + (" (pruned)" if pruned else ""), zorder=3 - number / len(lines),
            )  # fmt: skip
        every = [row for line in lines for row in line]
        _scale(place, sorted({row.labels[key] for row in every}))
        means = [row.samples[metric].mean for row in every]
        maximized = every[0].measures.maximized(metric)
        shown = _in_sight(means, maximized)
        if hidden := len(means) - len(shown):
            _span(place, min(shown), max(shown))
        _remark(place, {"x: pruned": any(row.pruned for row in every)} | _out_of_sight(hidden, maximized))
        _floors(place, every, metric)
        place.set_xlabel(key, parse_math=False)
        place.set_ylabel(f"{metric}, mean and sd" if any(row.samples[metric].sd for row in every) else metric)
        _finish(place, [line[0] for line in lines], 0 if scattered else len(lines), without=key)
    return figure


def numeric_settings(rows: list[Row]) -> list[str]:
    """Return the settings among the labels that take several numbers."""
    taken = {key: {row.labels[key] for row in rows if _is_number(row.labels[key])} for key in rows[0].labels}
    return [key for key, values in taken.items() if len(values) > 1 and key != "seed"]


def render(figure: Any) -> bytes:
    """Return a figure as PNG."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A character that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, metadata={"Software": MARK})
    return file.getvalue()


def _figure(panels: int) -> tuple[Any, list[Any]]:
    """Return an empty figure and its panels, one below the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((WIDTH, HEIGHT * panels), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(panels, 1, squeeze=False)[:, 0]
    for place in places:
        place.spines[["top", "right"]].set_visible(False)
        place.grid(alpha=0.25, lw=0.6)
    return figure, list(places)


def _by_text(items: list[tuple[Row, Any]], metric: str) -> list[list[tuple[Row, Any]]]:
    """Return rows, each with something, text by text: in a panel a metric compares."""
    panels: dict[tuple[str, ...], list[tuple[Row, Any]]] = {}
    for row, item in items:
        panels.setdefault(text_of(row.all_runs[0], metric), []).append((row, item))
    return list(panels.values())


def _lines(rows: list[Row], key: str) -> list[list[Row]]:
    """Return the rows that differ in nothing but `key`, in its order; those first whose best row comes first."""
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        rest = tuple(value for name, value in row.labels.items() if name != key)
        lines.setdefault((row.pruned, *rest), []).append(row)
    return [sorted(line, key=lambda row: row.labels[key]) for line in lines.values()]


def _names(rows: list[Row], without: str | None = None) -> list[str]:
    keys = _differing(rows, without)
    # What counts is told apart from what does not.
    inside = len({row.counts_inside for row in rows}) > 1
    names = [
        ", ".join(
            [*(_brief(row.labels[key]) for key in keys), *(["counts inside"] if inside and row.counts_inside else [])]
        )
        for row in rows
    ]
    # matplotlib keeps what begins with _ out of legends.
    return [f" {name}" if name.startswith("_") else _shorten(name) for name in names]


def _brief(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else show_value(value)


def _shorten(name: str) -> str:
    half = LONGEST_LABEL // 2
    return name if len(name) <= LONGEST_LABEL else f"{name[:half]}...{name[-half:]}"


def _differing(rows: list[Row], without: str | None = None) -> list[str]:
    return [key for key in rows[0].labels if key != without and len({row.labels[key] for row in rows}) > 1]


def _colours(panels: list[list[str]]) -> list[list[str]]:
    """Return the colour of each name in each panel: the same in all, where there are not too many names for that."""
    every = list(dict.fromkeys(name for names in panels for name in names))
    if len(every) <= MOST_COLOURED:
        return [[f"C{every.index(name)}" for name in names] for names in panels]
    return [[f"C{n}" if n < MOST_COLOURED else GREY for n in range(len(names))] for names in panels]


def _trainings(drawn: list[tuple[Row, Curve]], monitor: str, axis: str) -> dict[int, Curve]:
    """Return, by their numbers, the first rows' curves of the same figure in training, where there is such a figure."""
    found = {}
    for number, (row, _) in enumerate(drawn[:MOST_TRAINING]):
        if curve := average(row.runs or row.unfinished, learnt_tag(metric_name(monitor)), axis):
            found[number] = curve
    return found


def _say_trainings(trainings: dict[int, Curve], rows: int) -> str:
    if not trainings:
        return ""
    return "\nthin: in training" + (f", of the best {MOST_TRAINING}" if rows > MOST_TRAINING else "")


def _limit(place: Any, curves: list[Curve], maximized: bool, trainings: dict[int, Curve]) -> int:
    """Let a panel show all curves, save those that went astray; return how many those are.

    Of training it shows what comes after the first validation: it begins where nothing has been learnt.
    """
    ends = _in_sight([curve.mean[-1] for curve in curves], maximized)
    shown = {number: curve for number, curve in enumerate(curves) if curve.mean[-1] in ends}
    beside = [
        value
        for number, training in trainings.items()
        if number in shown
        for x, value in zip(training.x, training.mean, strict=True)
        if x >= shown[number].x[0]
    ]
    low, high = (min(curve.low) for curve in shown.values()), (max(curve.high) for curve in shown.values())
    _span(place, min([*low, *beside]), max([*high, *beside]))
    return len(curves) - len(shown)


def _in_sight(values: list[float], maximized: bool) -> list[float]:
    """Return the values that are to be seen: some are so bad that all others would look the same.

    Those are beyond Tukey's outer fence (1977), and ten times as far from the best as the worst within it.
    """
    sign = -1 if maximized else 1
    losses = [sign * value for value in values]
    if len(losses) < 5:
        return values
    first, _, third = statistics.quantiles(losses, n=4, method="inclusive")
    inner = max(loss for loss in losses if loss <= third + 3 * (third - first))
    far = max(losses) - min(losses) > 10 * (inner - min(losses)) > 0
    return [value for value in values if sign * value <= inner] if far else values


def _out_of_sight(count: int, maximized: bool) -> dict[str, bool]:
    return {f"{count} beyond the {'bottom' if maximized else 'top'}": count > 0}


def _span(place: Any, bottom: float, top: float) -> None:
    room = 0.05 * (top - bottom) or 0.1
    place.set_ylim(bottom - room, top + room)


def _remark(place: Any, remarks: dict[str, bool]) -> None:
    """Say beside the title what of `remarks` is so."""
    place.set_title("; ".join(text for text, so in remarks.items() if so), fontsize=8, color="0.35", loc="right")


def _floors(place: Any, rows: list[Row], metric: str) -> None:
    """Draw as level lines what counting achieves of a metric: the best, and what else is in sight."""
    floors, measures = next(((found, row.measures) for row in rows if (found := row.floors(metric))), ({}, None))
    if not floors:
        return
    (low, high), best = place.get_ylim(), (max if measures.maximized(metric) else min)(floors.values())
    room = 0.05 * (max(high, best) - min(low, best))
    low, high = min(low, best - room), max(high, best + room)
    place.set_ylim(low, high)
    for name, level in floors.items():
        if low <= level <= high:
            place.axhline(level, color="0.35", lw=0.8, ls=(0, (4, 3)), zorder=1)
            words = {"fontsize": 7, "color": "0.35", "bbox": {"facecolor": "white", "alpha": 0.7, "pad": 0.5, "lw": 0}}
            at = {"transform": place.get_yaxis_transform(), "va": "bottom", "zorder": 1.5}
            place.text(0.005, level, f"{name} floor {show_number(level)}", **words, **at)


def _scale(place: Any, values: list[float]) -> None:
    """Mark the values on the axis; a logarithmic one where they span a factor of ten or more."""
    from matplotlib.ticker import NullFormatter, NullLocator

    if values[0] > 0 and values[-1] >= 10 * values[0]:
        _logarithmic(place)
    if len(values) <= 8:
        place.set_xticks(values, [show_value(value) for value in values])
        place.xaxis.set_minor_locator(NullLocator())
        place.xaxis.set_minor_formatter(NullFormatter())


def _logarithmic(place: Any) -> None:
    place.set_xscale("log")
    place.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _finish(place: Any, rows: list[Row], lines: int, without: str | None = None) -> None:
    """Title a panel by its corpus, and put the legend beside it: the best ten, and how many are grey."""
    kinds = {row.all_runs[0].value("data/tokenizer") for row in rows}
    corpus, tokenizer = rows[0].corpus_name, kinds.pop() if len(kinds) == 1 else None
    place.set_title(f"{corpus}, {tokenizer} tokens" if tokenizer else corpus, fontsize=10, loc="left", parse_math=False)
    if lines < 2:
        return
    handles, names = place.get_legend_handles_labels()
    pairs = list(zip(reversed(handles), reversed(names), strict=True))[:MOST_COLOURED]
    if lines > MOST_COLOURED:
        from matplotlib.lines import Line2D

        pairs.append((Line2D([], [], color=GREY), f"{lines - MOST_COLOURED} more"))
    title = _shorten(", ".join(_differing(rows, without)))
    style = {"fontsize": 8, "title_fontsize": 8.5, "alignment": "left", "frameon": False}
    legend = place.legend(*zip(*pairs, strict=True), title=title, loc="upper left", bbox_to_anchor=(1.01, 1.0), **style)
    for text in (*legend.get_texts(), legend.get_title()):
        text.set_parse_math(False)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
