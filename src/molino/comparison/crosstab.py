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
from molino.comparison.rows import check_settings, text_of, without_repeats
from molino.comparison.run import Run, is_indifferent
from molino.comparison.statistics import Sample, describe, holm, paired, welch
from molino.configuration.identity import canonical
from molino.runs.measures import metric_name

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
        left_out: how many runs are in none of these: those that failed, were pruned or have not ended.
    """

    rows: list[str]
    kinds: dict[str, Column]
    cells: dict[tuple[str, str], Sample]
    cell_p: dict[tuple[str, str], float]
    averages: dict[str, Sample]
    p: dict[str, float | None]
    floors: dict[str, dict[str, float]]
    costs: dict[tuple[str, str], tuple[float | None, float | None]]
    left_out: int

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
        ConfigError: no run has such a setting, none is done, a column holds what does not compare, or a cell several
            runs of one seed.
    """
    check_settings(runs, [row_key], "group_by")
    check_settings(runs, [column_key], "columns")
    cells: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        if run.done and not run.pruned:
            cells[str(run.value(row_key)), str(run.value(column_key))].append(run)
    held_by = {column: [run for key, held in cells.items() if key[1] == column for run in held] for _, column in cells}
    tags = {column: _tag_of(f"{column_key}={column}", held) for column, held in held_by.items()}
    cells = {key: _one_a_seed(held, tags[key[1]], (row_key, column_key), key) for key, held in cells.items()}
    values = {key: found for key, held in cells.items() if (found := _by_seed(held, tags[key[1]]))}
    if not values:
        raise ConfigError("none of these runs is done: there is nothing to put into a table")
    floors = _floors(held_by, tags)
    rows, names = (sorted({key[at] for key in values}) for at in (0, 1))
    columns = {name: _column(name, tags[name], held_by[name][0], values, floors) for name in names}
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
    left_out = sum(not run.done or run.pruned for run in runs)
    return CrossTab(rows, columns, samples, cell_p, averages, p, floors, costs, left_out)


def _tag_of(column: str, runs: list[Run]) -> str:
    """Return the metric that decides in all runs of a column; where tokens differ, what stands for one a token.

    Raises:
        ConfigError: there are several, or their figures do not compare.
    """
    tag = runs[0].measures.monitor
    if other := next((run.measures.monitor for run in runs if run.measures.monitor != tag), None):
        raise ConfigError(f"{column} is measured by {tag} and by {other}: a column has one")
    if len({text_of(run, tag) for run in runs}) > 1:
        tag = runs[0].measures.across(tag)
    if len({text_of(run, tag) for run in runs}) > 1:
        what = "texts" if len({run.corpus for run in runs}) > 1 else "tasks or tokens"
        raise ConfigError(f"{column} holds runs of several {what}, of which {metric_name(tag)} does not compare")
    return tag


def _one_a_seed(runs: list[Run], tag: str, keys: tuple[str, str], cell: tuple[str, str]) -> list[Run]:
    """Return the runs of a cell without repeats.

    Raises:
        ConfigError: they differ in more than their seeds.
    """
    kept, _ = without_repeats(runs, tag)
    seen: dict[str, Run] = {}
    for run in kept:
        if (other := seen.setdefault(canonical(run.seed), run)) is not run:
            differing = (key for key in run.settings if not is_indifferent(key) and run.value(key) != other.value(key))
            where = " and ".join(f"{key}={value}" for key, value in zip(keys, cell, strict=True))
            raise ConfigError(
                f"{where} hold several runs of seed {run.seed}, which differ in {next(differing, 'something else')} as "
                "well: name a sweep of these two settings, or group by that one"
            )
    return kept


def _by_seed(runs: list[Run], tag: str) -> dict[tuple[str, str], float]:
    """Return what each seed, with the batches that it draws, comes to at its best step, else at its last."""
    found = {}
    for run in runs:
        value = run.metric(tag.replace("/", "/best_", 1))
        value = run.metric(tag) if value is None else value
        if value is not None:
            found[canonical(run.seed), run.batches] = value
    return found


def _floors(held_by: dict[str, list[Run]], tags: dict[str, str]) -> dict[str, dict[str, float]]:
    """Return the floors of each column; none where tokens differ, of which each has its own."""
    floors: dict[str, dict[str, float]] = defaultdict(dict)
    for column, runs in held_by.items():
        for run in runs if tags[column] == runs[0].measures.monitor else ():
            for brief, level in run.measures.levels_of(tags[column]).values():
                if level is not None:
                    floors[brief][column] = level
    return dict(floors)


def _column(name: str, tag: str, run: Run, values: Values, floors: dict[str, Any]) -> Column:
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
