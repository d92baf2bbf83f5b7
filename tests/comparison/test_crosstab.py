"""A table of two settings: what is averaged with what, which is best, and how it is told."""

import csv
import io
import json
import statistics

import pytest
from comparison.tree import make_run
from scipy import stats

from molino.base.errors import ConfigError
from molino.comparison.collect import find_runs, read_runs
from molino.comparison.crosstab import as_csv, as_json, cross, draw_crosstab, markdown, notes, table
from molino.runs.measures import MAXIMIZE, Floor, Metric, measures_of, write_measures
from molino.tasks.earlier import measures

# Of each method and each set what three seeds come to.
FIGURES = {
    ("bigram", "quijote"): (0.50, 0.52, 0.51), ("bigram", "pydocs"): (0.10, 0.12, 0.14),
    ("gpt", "quijote"): (0.80, 0.82, 0.84), ("gpt", "pydocs"): (0.40, 0.41, 0.45),
}  # fmt: skip
METRICS = {"quijote": "accuracy", "pydocs": "matthews"}


@pytest.fixture
def runs(tmp_path):
    for (model, data), values in FIGURES.items():
        metric = Metric(METRICS[data], MAXIMIZE)
        for seed, value in enumerate(values):
            figures = {f"val/best_{metric.name}": value, f"val/{metric.name}": value - 0.01}
            run = make_run(tmp_path / f"{model}-{data}-{seed}", f"model={model}", f"data={data}", f"seed={seed}",
                           summary=figures)  # fmt: skip
            floors = [Floor("floor/majority", 0.3, "majority", "majority", {metric.name: 0.3})]
            write_measures(run, measures_of(f"val/{metric.name}", [metric], floors if data == "quijote" else []))
    return lambda: read_runs(find_runs([tmp_path]), measures)


def test_averages_are_taken_seed_by_seed(runs):
    tab = cross(runs(), "model", "data")
    assert tab.rows == ["gpt", "bigram"] and tab.columns == ["pydocs", "quijote"]
    assert tab.metrics == {data: f"val/{name}" for data, name in METRICS.items()}
    own = {
        model: [statistics.mean(pair) for pair in zip(FIGURES[model, "quijote"], FIGURES[model, "pydocs"], strict=True)]
        for model in tab.rows
    }
    for model, values in own.items():
        assert tab.averages[model].mean == pytest.approx(statistics.mean(values))
        assert tab.averages[model].sd == pytest.approx(statistics.stdev(values))
    assert tab.cells["gpt", "pydocs"].mean == pytest.approx(0.42)  # of the best step
    wanted = stats.ttest_ind(own["gpt"], own["bigram"], equal_var=False).pvalue
    assert tab.p == {"gpt": None, "bigram": pytest.approx(wanted)}
    assert tab.floors == {"majority": {"quijote": 0.3}}


def test_it_is_told_in_every_format(runs):
    tab = cross(runs(), "model", "data")
    header, lines = table(tab, "model")
    assert header == ["model", "average", "95 % interval", "p", "pydocs matthews", "quijote accuracy"]
    assert lines[0][0] == "gpt" and lines[0][4:] == ["42.0 (2.6)", "82.0 (2.0)"]
    assert lines[1][3].endswith(" *") and lines[2] == ["floor: majority", "-", "-", "-", "-", "30.0"]
    assert "over 3 seeds" in notes(tab)[0] and "| model | average |" in markdown(tab, "model")
    rows = list(csv.DictReader(io.StringIO(as_csv(tab, "model"))))
    assert len(rows) == 6 and float(rows[0]["mean"]) == pytest.approx(
        tab.cells[rows[0]["model"], rows[0]["column"]].mean
    )
    content = json.loads(as_json(tab, "model"))
    assert content["rows"][0]["columns"]["quijote"]["n"] == 3
    (place,) = draw_crosstab(tab).axes
    assert sorted(round(bar.get_height(), 6) for bar in place.patches) == pytest.approx(
        sorted(100 * s.mean for s in (*tab.averages.values(), *tab.cells.values())), abs=1e-4
    )


def test_seeds_that_lack_a_column_do_not_count(runs, tmp_path):
    (tmp_path / "gpt-pydocs-2" / "summary.json").unlink()
    tab = cross(runs(), "model", "data")
    assert tab.averages["gpt"].n == 2 and tab.cells["gpt", "quijote"].n == 3


def test_what_makes_no_table(runs, tmp_path, molino):
    with pytest.raises(ConfigError, match="is no setting of these runs"):
        cross(runs(), "modle", "data")
    with pytest.raises(ConfigError, match="a column has one"):
        cross(runs(), "data", "model")
    done = molino("results", str(tmp_path), "columns=data")
    assert done.status == 2 and "columns=data needs group_by=<one setting>" in done.err
    done = molino("results", str(tmp_path), "columns=data", "group_by=model")
    assert done.status == 0 and "82.0 (2.0)" in done.out
