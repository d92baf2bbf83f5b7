"""The rows of a comparison as a table on a terminal, as Markdown, as CSV and as JSON."""

import csv
import io
import json
import math
from collections import Counter
from typing import Any

from molino.base.console import say, show_rows
from molino.comparison.notes import notes
from molino.comparison.rows import Row
from molino.comparison.run import Run
from molino.comparison.show import NOTHING, plain, show_number, show_value
from molino.comparison.statistics import Sample
from molino.runs.measures import TEST
from molino.runs.status import CANCELLED, CUT_OFF, FAILED, NOT_BEGUN, PENDING, RUNNING

ORDER = (FAILED, CUT_OFF, CANCELLED, RUNNING, PENDING, NOT_BEGUN)
MOST_LISTED = 20  # of each state one by one; the others are counted
UNFINISHED = ("run", "state", "step", "error")


def print_table(rows: list[Row], metrics: list[str]) -> None:
    """Print the table, below it what is not finished, and how it is to be read."""
    header, cells = table(rows, metrics)
    show_rows(headline(rows), header, cells, words={*rows[0].labels, ""})
    if waiting := unfinished(rows):
        show_rows("not finished", (), waiting)
    for note in notes(rows, metrics):
        say(note)


def table(rows: list[Row], metrics: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return header and cells: settings, number of runs, the first metric with its statistics, the other metrics.

    Columns that would be empty are left out: statistics where every row is one run.
    """
    first, others = metrics[0], metrics[1:]
    spread = any(row.samples[first].sd is not None for row in rows)
    floors = all(metric.startswith(f"{TEST}/") for metric in others) and any(row.floor for row in rows)
    inside = len({row.counts_inside for row in rows}) > 1
    lost = any(row.lost for row in rows)
    header = [*rows[0].labels, *(["counts inside"] if inside else []), "n", first]
    header += ["sd", "95 % interval", "to the best", "p", ""] if spread else [""]
    header += [*others, *(["best floor"] if floors else []), *(["its tokens lose"] if lost else [])]
    cells = []
    for row in rows:
        sample = row.samples[first]
        line = [*map(show_value, row.labels.values()), *([_yes(row.counts_inside)] if inside else [])]
        line += [_count(row, row.metric), show_number(sample.mean)]
        if spread:
            interval = NOTHING if sample.sd is None else f"{show_number(sample.low)} .. {show_number(sample.high)}"
            against = (_to_the_best(row), show_p(row)) if row.metric == first else (NOTHING, NOTHING)
            line += [show_number(sample.sd), interval, *against]
        line += [row.verdict or NOTHING, *(_mean_and_sd(row.samples[metric]) for metric in others)]
        if floors:
            line.append(f"{row.floor[1]:.4f} ({row.floor[0]})" if row.floor else NOTHING)
        if lost:
            line.append(", ".join(f"{what} {share:.1%}" for what, share in row.lost.items()) or NOTHING)
        cells.append(line)
    return header, cells


def unfinished(rows: list[Row]) -> list[list[str]]:
    """Return the cells of the runs that are not done: those that failed first."""
    runs = sorted((run for row in rows for run in row.unfinished), key=_urgency)
    by_state: dict[str, list[Run]] = {}
    for run in runs:
        by_state.setdefault(run.status.state or "unknown", []).append(run)
    cells = []
    for state, those in by_state.items():
        cells += [[run.path.name, state, _progress(run), _because(run)] for run in those[:MOST_LISTED]]
        if len(those) > MOST_LISTED:
            cells.append([f"... and {len(those) - MOST_LISTED:,} more", state, NOTHING, NOTHING])
    return cells


def headline(rows: list[Row]) -> str:
    """Return how many runs there are, and in which states."""
    states = Counter("pruned" if run.pruned else run.status.state or "unknown" for row in rows for run in row.all_runs)
    total = sum(states.values())
    return f"{total:,} run{'s' * (total != 1)}: " + ", ".join(f"{number:,} {state}" for state, number in states.items())


def markdown(rows: list[Row], metrics: list[str]) -> str:
    """Return the table, and below it what is not finished, as Markdown."""
    header, cells = table(rows, metrics)
    waiting = unfinished(rows)
    parts = [
        pipes(header, cells, right=len(rows[0].labels)),
        *([pipes(UNFINISHED, waiting, right=4)] if waiting else []),
    ]
    return "\n\n".join([*parts, *notes(rows, metrics)])


def as_csv(rows: list[Row], metrics: list[str]) -> str:
    """Return a line a row that has values (state done or pruned), and one a run that is not done, figures in full."""
    statistics = [name for m in metrics for name in (m, f"{m} sd", f"{m} low", f"{m} high")]
    tail = ("floor", "difference", "effect", "p", "verdict", "run", "step", "max_steps", "error")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*rows[0].labels, "corpus", "state", "n", *statistics, *tail])
    for row in rows:
        start = [*map(plain, row.labels.values()), row.corpus_name]
        if row.runs:
            samples = [row.samples[metric] for metric in metrics]
            values = [x for sample in samples for x in (sample.mean, sample.sd, sample.low, sample.high)]
            state = "pruned" if row.pruned else "done"
            floor = row.floor[1] if row.floor else None
            against = (row.contrast.difference, row.contrast.effect, row.contrast.p) if row.contrast else [None] * 3
            n = row.samples[row.metric].n
            writer.writerow([*start, state, n, *values, floor, *against, row.verdict, *[None] * 4])
        for run in row.unfinished:
            empty = [None] * (len(statistics) + 5)
            writer.writerow([*start, run.status.state, None, *empty, run.path.name, *run.steps, run.status.error])
    return text.getvalue().rstrip("\n")


def as_json(rows: list[Row], metrics: list[str]) -> str:
    """Return all there is to know, with the figures of every run. What is infinite or unknown is null."""
    content = {
        "metrics": metrics,
        "groups": [_group(row, metrics) for row in rows],
        "unfinished": [_run(run, metrics) | {"labels": row.labels} for row in rows for run in row.unfinished],
        "repeats": [str(run.path) for row in rows for run in row.repeats],
    }
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False, default=str)


def show_p(row: Row) -> str:
    """Return the p of a row, as small as is worth reading."""
    p = row.contrast.p if row.contrast else None
    return NOTHING if p is None else "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _to_the_best(row: Row) -> str:
    """Return how far a row is from the best, also in standard deviations."""
    if row.contrast is None:
        return NOTHING
    difference, effect = row.contrast.difference, row.contrast.effect
    sign = "+" if difference > 0 else "-" if difference < 0 else ""
    return f"{sign}{show_number(abs(difference))}" + ("" if effect is None else f" ({abs(effect):.1f} sd)")


def _yes(so: bool) -> str:
    return "yes" if so else "no"


def _count(row: Row, metric: str) -> str:
    states = Counter(run.status.state or "unknown" for run in row.unfinished)
    parts = [f"{states[state]} {state}" for state in (*ORDER, "unknown") if states[state]]
    if missing := len(row.runs) - row.samples[metric].n:
        parts.append(f"{missing} without value")
    return f"{row.samples[metric].n}" + (f" ({', '.join(parts)})" if parts else "")


def _mean_and_sd(sample: Sample) -> str:
    return show_number(sample.mean) + ("" if sample.sd is None else f" ± {show_number(sample.sd)}")


def _urgency(run: Run) -> int:
    return ORDER.index(run.status.state) if run.status.state in ORDER else 0


def _progress(run: Run) -> str:
    step, last = run.steps
    return NOTHING if step is None else f"{step}/{'?' if last is None else last}"


def _because(run: Run) -> str:
    """Return why a run is not done, as far as anybody knows: of a job also what its scheduler calls it."""
    status = run.status
    job = f"job {status.job}" if status.job and status.state in (PENDING, RUNNING, CANCELLED) else ""
    told = " ".join((status.error or status.reason).split())
    return ": ".join(part for part in (job, told) if part) or NOTHING


def pipes(header: Any, rows: list[list[str]], right: int) -> str:
    """Return a Markdown table whose columns from number `right` on are aligned to the right."""
    lines = [header, ["---:" if number >= right else "---" for number in range(len(header))], *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _group(row: Row, metrics: list[str]) -> dict[str, Any]:
    samples = {metric: row.samples[metric] for metric in metrics}
    keys = ("n", "mean", "sd", "low", "high")
    return {
        "labels": row.labels,
        "corpus": row.corpus_name,
        "pruned": row.pruned,
        "metrics": {metric: {key: getattr(sample, key) for key in keys} for metric, sample in samples.items()},
        "floor": row.floor[1] if row.floor else None,
        "best": row.best,
        "counts_inside": row.counts_inside,
        "lost": row.lost,
        "difference": row.contrast.difference if row.contrast else None,
        "effect": row.contrast.effect if row.contrast else None,
        "p": row.contrast.p if row.contrast else None,
        "significant": row.contrast.significant if row.contrast else None,
        "runs": [_run(run, metrics) for run in row.all_runs],
    }


def _run(run: Run, metrics: list[str]) -> dict[str, Any]:
    step, last = run.steps
    return {
        "name": run.path.name,
        "path": str(run.path),
        "seed": run.seed,
        "state": "pruned" if run.pruned else run.status.state,
        "metrics": {metric: run.metric(metric) for metric in metrics},
        "step": (run.status.summary or {}).get("steps", step),
        "max_steps": last,
        "error": run.status.error,
        "job": run.status.job,
        "reason": run.status.reason or None,
    }


def _finite(value: Any) -> Any:
    """Return nested values with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
