"""Runs in a table of two settings, as GPT-1's ablation: rows are what is compared, columns what it is compared on.

Each column has a metric of its own, what decides in its runs, so that tasks of many kinds stand side by side; in each a
row is compared with the best one. Where all of them improve upwards, there is an average over the columns, taken seed
by seed, and rows are compared by it too: losses have no average with shares. Beside it stands what the runs cost.
"""

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from molino.base.errors import ConfigError
from molino.comparison.contrasts import differences
from molino.comparison.rows import check_settings
from molino.comparison.run import Run
from molino.comparison.statistics import Sample, describe, holm, paired, welch
from molino.configuration.identity import canonical

AVERAGE = "average"
WHOLE = 100.0  # what a share is told times
COSTS = ("seconds", "parameters")  # of a run


@dataclass(frozen=True)
class Column:
    """What is measured.

    Attributes:
        tag: of the metric that decides.
        maximized: whether it improves upwards.
        scale: what its figures are told times: 100 of shares.
    """

    tag: str
    maximized: bool
    scale: float


# (row, column) -> (seed, batches) -> the metric that decides.
Values = dict[tuple[str, str], dict[tuple[str, str], float]]
AVERAGED = Column("", True, WHOLE)


@dataclass(frozen=True)
class CrossTab:
    """The table.

    Attributes:
        rows: names; those with the best average first, or where there is none those that lead in most columns.
        kinds: of each column.
        cells: (row, column) -> what its seeds say.
        cell_p: (row, column) -> of each cell but the best of its column, whether it is as good: by differences seed by
            seed where they have the same seeds and batches, as in the table of one setting, and corrected for all pairs
            of rows in all columns.
        averages: of each row over the columns, as shares, seed by seed; only seeds that have all of them. Empty where
            a column is minimized.
        p: of each row but the first, whether its average is that of the first, corrected for how many there are.
        floors: name -> its value in each column that has one.
        costs: (row, column) -> seconds of a run, and its parameters; means over the seeds, None where unknown.
    """

    rows: list[str]
    kinds: dict[str, Column]
    cells: dict[tuple[str, str], Sample]
    cell_p: dict[tuple[str, str], float]
    averages: dict[str, Sample]
    p: dict[str, float | None]
    floors: dict[str, dict[str, float]]
    costs: dict[tuple[str, str], tuple[float | None, float | None]]

    @property
    def columns(self) -> list[str]:
        return list(self.kinds)

    @property
    def metrics(self) -> dict[str, str]:
        """The tag of each column."""
        return {name: column.tag for name, column in self.kinds.items()}


def cross(runs: list[Run], row_key: str, column_key: str) -> CrossTab:
    """Return the table of the runs that are done.

    Raises:
        ConfigError: no run has such a setting, none is done, or a column holds several metrics.
    """
    check_settings(runs, [row_key], "group_by")
    check_settings(runs, [column_key], "columns")
    cells: dict[tuple[str, str], list[Run]] = defaultdict(list)
    deciding: dict[str, Run] = {}
    for run in runs:
        if run.done and not run.pruned:
            row, column = (str(run.value(key)) for key in (row_key, column_key))
            cells[row, column].append(run)
            tag, other = run.measures.monitor, deciding.setdefault(column, run).measures.monitor
            if tag != other:
                raise ConfigError(f"{column_key}={column} is measured by {other} and by {tag}: a column has one")
    values = {key: found for key, runs_of in cells.items() if (found := _by_seed(runs_of))}
    if not values:
        raise ConfigError("none of these runs is done: there is nothing to put into a table")
    floors = _floors(cells)
    rows, names = (sorted({key[at] for key in values}) for at in (0, 1))
    columns = {name: _column(name, deciding[name], values, floors) for name in names}
    samples = {key: describe(list(found.values())) for key, found in values.items()}
    leaders = {name: _leader(name, column, samples) for name, column in columns.items()}
    averages = _averages(rows, columns, values)
    led = Counter(leaders.values())
    rows.sort(key=lambda row: (-_mean(averages.get(row)), -led[row], row))
    p = dict.fromkeys(rows) | _corrected({row: welch(averages[row], averages[rows[0]]) for row in rows[1:] if averages})
    compared = {}
    for row, name in values:
        if row != leaders[name]:
            key, best = (row, name), (leaders[name], name)
            pairs = differences(values[key], values[best])
            compared[key] = paired(pairs) if pairs else welch(samples[key], samples[best])
    testable = Counter(name for (_, name), sample in samples.items() if sample.sd is not None)
    cell_p = _corrected(compared, sum(count * (count - 1) // 2 for count in testable.values()))
    costs = {key: tuple(_mean_of(cells[key], name) for name in COSTS) for key in values}
    return CrossTab(rows, columns, samples, cell_p, averages, p, floors, costs)


def _by_seed(runs: list[Run]) -> dict[tuple[str, str], float]:
    """Return what each seed, with the batches that it draws, comes to at its best step, else at its last."""
    found = {}
    for run in runs:
        tag = run.measures.monitor
        value = run.metric(tag.replace("/", "/best_", 1))
        value = run.metric(tag) if value is None else value
        if value is not None:
            found[canonical(run.seed), run.batches] = value
    return found


def _floors(cells: dict[tuple[str, str], list[Run]]) -> dict[str, dict[str, float]]:
    floors: dict[str, dict[str, float]] = defaultdict(dict)
    for (_, column), runs in cells.items():
        for run in runs:
            for brief, level in run.measures.levels_of(run.measures.monitor).values():
                if level is not None:
                    floors[brief][column] = level
    return dict(floors)


def _column(name: str, run: Run, values: Values, floors: dict[str, Any]) -> Column:
    tag = run.measures.monitor
    metric, maximized = run.measures.metric(tag), run.measures.maximized(tag)
    found = [value for (_, column), seeds in values.items() if column == name for value in seeds.values()]
    found += [levels[name] for levels in floors.values() if name in levels]
    is_share = maximized and not (metric and metric.unit) and all(abs(value) <= 1 for value in found)
    return Column(tag, maximized, WHOLE if is_share else 1.0)


def _leader(name: str, column: Column, samples: dict[tuple[str, str], Sample]) -> str:
    """Return the row with the best mean of a column."""
    means = {row: sample.mean for (row, each), sample in samples.items() if each == name}
    return (max if column.maximized else min)(sorted(means), key=means.__getitem__)


def _averages(rows: list[str], columns: dict[str, Column], values: Values) -> dict[str, Sample]:
    if not all(column.maximized for column in columns.values()):
        return {}
    averages = {}
    for row in rows:
        found = {c: {seed: value for (seed, _), value in values.get((row, c), {}).items()} for c in columns}
        seeds = sorted(set.intersection(*map(set, found.values())))
        sums = (sum(columns[c].scale * found[c][seed] for c in columns) for seed in seeds)
        averages[row] = describe([each / len(columns) / WHOLE for each in sums])
    return averages


def _corrected(ps: dict[Any, float | None], tests: int | None = None) -> dict[Any, float]:
    """Return what is known of these, corrected for so many tests, or as many as there are."""
    known = {key: p for key, p in ps.items() if p is not None}
    return dict(zip(known, holm(list(known.values()), tests), strict=True))


def _mean(sample: Sample | None) -> float:
    return -math.inf if sample is None or sample.mean is None else sample.mean


def _mean_of(runs: list[Run], name: str) -> float | None:
    found = [value for run in runs if (value := run.metric(name)) is not None]
    return sum(found) / len(found) if found else None
