"""What has to be known to read a table of results, a line each."""

from molino.base.messages import few
from molino.comparison.rows import Row
from molino.comparison.show import show_number, show_value
from molino.runs.measures import TEST, spoken

PAIRED = "Student's t-test of differences seed by seed where rows share seeds and batches"


def notes(rows: list[Row], metrics: list[str]) -> list[str]:
    """Return what has to be known to read the table, a line each."""
    lines = [*_notes_on_tests(rows)]
    if sum(row.best for row in rows) > 1:
        named = list(dict.fromkeys(row.metric for row in rows))
        verb = "compares" if len(named) == 1 else "compare"
        lines.append(
            f"{' and '.join(named)} {verb} only on the same text, task and tokens: each has a best row of its own"
        )
    lines += _notes_on_texts(rows, metrics)
    if any(row.pruned for row in rows):
        lines.append("pruned: stopped early by a search, so neither averaged nor compared with full runs")
    empty = [run.path.name for row in rows for run in row.runs if run.metric(row.metric) is None]
    if empty:
        lines.append(f"not averaged, because they have no {metrics[0]}: {few(empty)}")
    if repeats := [run for row in rows for run in row.repeats]:
        names = few(run.path.name for run in repeats)
        lines.append(f"left out, because they repeat a seed of their row: {names}")
    return lines


def _notes_on_tests(rows: list[Row]) -> list[str]:
    """Return how rows were compared, and what such a comparison can see."""
    tested = [row for row in rows if row.contrast is not None and row.contrast.p is not None]
    if not tested:
        return []
    kinds = [row.contrast.pairs is not None for row in tested]
    by = [*([PAIRED] if any(kinds) else []), *([] if all(kinds) else ["Welch's t-test"])]
    lines = [
        f"p: {', else '.join(by)}, against the best row of the same text, corrected for all pairs of rows (Holm); "
        "worse: significant at 5 %"
    ]
    unclear = [row for row in tested if not row.contrast.significant]
    nearest = min(unclear or tested, key=lambda row: abs(row.contrast.difference))
    best = next(row for row in rows if row.best and row.text == nearest.text)
    if told := nearest.contrast.power(nearest.samples[nearest.metric], best.samples[best.metric]):
        seeds, least, needed = told
        line = f"power: with {seeds} seeds a difference below {show_number(least)} is missed more than one time in five"
        if unclear and nearest.contrast.difference:
            name = ", ".join(map(show_value, nearest.labels.values()))
            more = f"{needed} seeds" if needed else "more than 1,000 seeds"
            apart = show_number(abs(nearest.contrast.difference))
            line += f"; the {apart} between {name} and the best would take {more}"
        lines.append(line)
    return lines


def _notes_on_texts(rows: list[Row], metrics: list[str]) -> list[str]:
    """Return what tokens make of a comparison, and how often test splits were looked at."""
    lines = []
    if any(row.metric == row.measures.across(row.measures.monitor) != row.measures.monitor for row in rows):
        lines.append(
            f"{metrics[0]}: texts or tokens differ, and their {spoken(rows[0].measures.monitor)} does not compare"
        )
    if any(row.lost for row in rows):
        lines.append(
            "its tokens lose: what a model of these tokens need not predict, so where tokens differ its row is never "
            "the best; lossy: beyond the best"
        )
    if any(metric.startswith(f"{TEST}/") for metric in metrics):
        runs = [run for row in rows for run in row.runs if run.looks]
        looks = sum(run.looks for run in runs)
        times, of = "time" if looks == 1 else "times", "run" if len(runs) == 1 else "runs"
        lines.append(
            f"test splits were looked at {looks} {times}, in {len(runs)} {of}: what is chosen by them has no test left"
        )
    return lines
