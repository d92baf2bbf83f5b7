"""From runs to the rows of a table: what is averaged with what, and what the rows are called.

A loss is never averaged, nor compared, with that on another text; a loss a token not with that of another tokenizer.
"""

import difflib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from molino.base.errors import ConfigError
from molino.comparison.contrasts import Contrast, contrasts
from molino.comparison.run import Run, is_indifferent
from molino.comparison.statistics import Sample, describe
from molino.configuration.identity import canonical
from molino.runs.directory import SUMMARY
from molino.runs.measures import TEST, Measures, metric_name

# Two measurements of these differ although nothing was drawn anew.
MEASURED = ("seconds", "tokens_per_second")
# How the setting of a corpus or a tokenizer tells rows apart that nothing else does.
FIRST_COLUMNS = ("data", "data/tokenizer")


@dataclass
class Row:
    """Runs that are averaged.

    Attributes:
        key: what its runs have in common; also with the row of those that were stopped early.
        metric: by which it is ranked.
        text: equal of rows in which that compares.
        runs: those that are done; all of them, or none, were stopped early by a search.
        unfinished: those that belong here but are not done.
        repeats: done runs that another one here repeats, seed and all. They count once.
        labels: what tells this row from the others: setting -> value.
        samples: metric -> what the runs say of it.
        best: it has the best mean of its text.
        contrast: how it differs from the best; None where there is none.
    """

    key: tuple[Any, ...]
    metric: str
    text: tuple[str, ...]
    runs: list[Run] = field(default_factory=list)
    unfinished: list[Run] = field(default_factory=list)
    repeats: list[Run] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Sample] = field(default_factory=dict)
    best: bool = False
    contrast: Contrast | None = None

    @property
    def all_runs(self) -> list[Run]:
        return [*self.runs, *self.unfinished]

    @property
    def pruned(self) -> bool:
        return bool(self.runs) and self.runs[0].pruned

    @property
    def corpus_name(self) -> str:
        return self.all_runs[0].corpus_name

    @property
    def measures(self) -> Measures:
        return self.all_runs[0].measures

    @property
    def lost(self) -> dict[str, float]:
        """What its tokens have lost of the text, and how much of it: 'case' -> a share."""
        return self.runs[0].lost if self.runs else {}

    @property
    def counts_inside(self) -> bool:
        """Whether its runs are counts, or stand on them."""
        return self.all_runs[0].counts_inside

    def floors(self, metric: str) -> dict[str, float]:
        """Return what counting achieves of a metric: 'bigram' or '5-gram' -> its value."""
        summary = self.runs[0].status.summary if self.runs else {}
        levels = self.measures.levels_of(metric)
        found = {brief: summary.get(tag) if level is None else level for tag, (brief, level) in levels.items()}
        return {brief: level for brief, level in found.items() if isinstance(level, int | float)}

    @property
    def floor(self) -> tuple[str, float] | None:
        """The best that counting achieves of what the row is ranked by, and how."""
        floors = self.floors(self.metric)
        if not floors:
            return None
        best = (max if self.measures.maximized(self.metric) else min)(floors, key=floors.__getitem__)
        return best, floors[best]

    @property
    def verdict(self) -> str:
        """What the test says of it: best, worse (significantly), unclear; lossy, if it is beyond the best because its
        tokens lose something; pruned; nothing where there is no test."""
        if self.pruned or self.best:
            return "pruned" if self.pruned else "best"
        if self.contrast is None or self.contrast.p is None:
            return ""
        if not self.contrast.significant:
            return "unclear"
        return "worse" if (self.contrast.difference > 0) != self.measures.maximized(self.metric) else "lossy"


def default_metrics(runs: list[Run]) -> list[str]:
    """Return what these runs are ranked by, one metric, or one for each of several tasks; and what is known of it on
    test splits."""
    ranking = list(dict.fromkeys(ranking_of_tasks(runs).values()))
    tested = [f"{TEST}/{metric_name(tag)}" for tag in ranking]
    return [*ranking, *(tag for tag in tested if any(run.metric(tag) is not None for run in runs))]


def ranking_of_tasks(runs: list[Run]) -> dict[str, str]:
    """Return what the runs of each task are ranked by: what decides in them; of several such things, the first.

    Where that is a figure a token, and tokens are not the same everywhere, it is one that compares.
    """
    found: dict[str, str] = {}
    for run in [run for run in runs if run.done] or runs:
        found.setdefault(run.task, run.measures.monitor)
    for task, monitor in found.items():
        those = [run for run in runs if run.task == task]
        if len({(run.corpus, run.tokenizer) for run in those}) > 1:
            found[task] = those[0].measures.across(monitor)
    return found


def make_rows(runs: list[Run], metrics: list[str] | None, group_by: list[str] | None) -> list[Row]:
    """Return the rows of a table in its order: text by text, the best first, by the first metric.

    Args:
        metrics: None for `default_metrics`.
        group_by: settings whose combinations are the rows; None for a row for each configuration, seeds aside.

    Raises:
        ConfigError: a setting or a metric is unknown.
    """
    deciding = ranking_of_tasks(runs)
    shown = default_metrics(runs) if metrics is None else metrics
    check_metrics(runs, shown)
    check_settings(runs, group_by or [], "group_by")
    rows: dict[Any, Row] = {}
    for run in sorted(runs, key=lambda run: not run.done):
        own = tuple(map(run.value, group_by)) if group_by is not None else (run.identity,)
        # What is pooled compares in every metric.
        key = (*own, *(text_of(run, metric) for metric in shown))
        by = deciding.get(run.task, shown[0]) if metrics is None else shown[0]
        row = rows.setdefault((key, run.pruned), Row(key, by, text_of(run, by)))
        (row.runs if run.done else row.unfinished).append(run)
    for row in rows.values():
        if not row.metric.endswith(MEASURED):
            row.runs, row.repeats = without_repeats(row.runs, row.metric)
        row.samples = {metric: describe(_values(row.runs, metric)) for metric in shown}
    label(list(rows.values()), group_by)
    return _ranked(list(rows.values()))


def text_of(run: Run, metric: str) -> tuple[str, ...]:
    """Return what runs have in common whose `metric` compares: corpus, task and, of a figure a token, the tokenizer."""
    return (run.corpus, run.task, *([run.tokenizer] if run.measures.per_token(metric) else []))


def check_metrics(runs: list[Run], metrics: list[str]) -> None:
    """Raise ConfigError of a metric that no summary holds. Where nothing is done, none is known."""
    figures = [(name, value) for run in runs if run.done for name, value in run.status.summary.items()]
    known = dict.fromkeys(name for name, value in figures if not isinstance(value, str | bool | list | dict))
    for metric in metrics:
        if known and metric not in known:
            near = difflib.get_close_matches(metric, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise ConfigError(f"metric={metric} is in no summary{hint} Known here: {', '.join(known)}")


def check_settings(runs: list[Run], keys: list[str], asked: str) -> None:
    """Raise ConfigError of a setting that no run has; `asked` is the setting that names it."""
    known = dict.fromkeys(key for run in runs for key in (*run.choices, *run.settings, *run.typed))
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            differing = [k for k in known if not is_indifferent(k) and len({run.value(k) for run in runs}) > 1]
            hint = f"did you mean {near[0]}?" if near else f"these differ: {', '.join(differing[:20]) or 'none'}"
            raise ConfigError(f"{asked}={key} is no setting of these runs; {hint}")


def label(rows: list[Row], group_by: list[str] | None) -> None:
    """Give each row its labels: the settings asked for, or those that were typed and differ.

    Where two rows would be called the same, the choices of groups that differ are added, then single settings, as many
    as tell them apart.
    """
    every = [run for row in rows for run in row.all_runs]
    typed = dict.fromkeys(key for run in every for key in run.typed if not is_indifferent(key))
    choices = dict.fromkeys(key for run in every for key in run.choices)
    leaves = dict.fromkeys(key for run in every for key in run.settings if not is_indifferent(key))
    found = {key: [_common(row, key) for row in rows] for key in [*FIRST_COLUMNS, *typed, *choices, *leaves]}
    differing = {key: values for key, values in found.items() if len(set(values)) > 1}
    if group_by is None:
        columns = {key: differing[key] for key in typed if key in differing}
    else:
        columns = {key: [_common(row, key) for row in rows] for key in group_by}
    # The same settings may have met two texts, as the Python manual is in two versions of Python.
    differing["corpus_sha256"] = [row.text[0][:8] for row in rows]
    differing["run"] = [row.all_runs[0].path.name for row in rows]
    for key, values in differing.items():
        if _distinct(columns, rows) == len({row.key for row in rows}):
            break
        if _distinct(columns | {key: values}, rows) > _distinct(columns, rows):
            columns[key] = values
    if not columns:
        columns["name"] = [row.all_runs[0].settings.get("name", row.all_runs[0].path.name) for row in rows]
    for number, row in enumerate(rows):
        row.labels = {key: values[number] for key, values in columns.items()}


def _distinct(columns: dict[str, list[Any]], rows: list[Row]) -> int:
    return len({tuple(values[number] for values in columns.values()) for number in range(len(rows))})


def _common(row: Row, key: str) -> Any:
    """Return the value of a setting in a row; of several, as where settings are pooled, all of them."""
    values = list(dict.fromkeys(run.value(key) for run in row.all_runs))
    return values[0] if len(values) == 1 else " / ".join("-" if value is None else str(value) for value in values)


def _values(runs: list[Run], metric: str) -> list[float]:
    found = [run.metric(metric) for run in runs]
    return [value for value in found if value is not None]


def without_repeats(runs: list[Run], metric: str) -> tuple[list[Run], list[Run]]:
    """Return the latest run of each configuration and seed, one with a value if there is one, and the others, which say
    the same once more."""
    latest: dict[tuple[Any, ...], Run] = {}
    for run in sorted(runs, key=lambda run: (run.metric(metric) is not None, (run.path / SUMMARY).stat().st_mtime_ns)):
        latest[run.identity, run.corpus, canonical(run.seed)] = run
    kept = {run.path for run in latest.values()}
    return [run for run in runs if run.path in kept], [run for run in runs if run.path not in kept]


def _ranked(rows: list[Row]) -> list[Row]:
    """Return the rows text by text, best first, then what was stopped early, then what has no value; compare each with
    the best of its text. Where tokenizers differ that is none whose tokens have lost something."""
    known = {row.text for row in rows if row.samples[row.metric].mean is not None}

    def rank(row: Row) -> tuple[Any, ...]:
        mean, sign = row.samples[row.metric].mean, -1 if row.measures.maximized(row.metric) else 1
        return row.text not in known, row.corpus_name, row.text, mean is None, row.pruned, sign * (mean or 0)

    ranked, best, tokenizers = sorted(rows, key=rank), {}, defaultdict(set)
    for row in rows:
        tokenizers[row.text].add(row.all_runs[0].tokenizer)
    for row in ranked:
        spoilt = row.lost and len(tokenizers[row.text]) > 1
        if not (row.pruned or spoilt or row.samples[row.metric].mean is None):
            row.best = best.setdefault(row.text, row) is row
    for place, contrast in contrasts(ranked).items():
        ranked[place].contrast = contrast
    return ranked
