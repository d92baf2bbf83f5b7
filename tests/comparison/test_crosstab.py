"""A table of two settings: what is averaged with what, which is best, and how it is told."""

import csv
import dataclasses
import io
import json
import shutil
import statistics

import pytest
from comparison.tree import make_run
from scipy import stats

from molino.base.errors import ConfigError
from molino.comparison.collect import find_runs, read_runs
from molino.comparison.crosstab import cross
from molino.comparison.crosstab_tables import as_csv, as_json, costs, draw_crosstab, markdown, notes, table
from molino.runs.measures import MAXIMIZE, OF_100, Floor, Metric, measures_of, write_measures
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
    assert "averages are of the seeds that have all columns: gpt 2" in notes(tab)
    assert notes(tab)[-1].startswith("1 run is left out (failed, pruned or not ended)")


def test_one_seed_has_no_spread_and_nothing_to_compare(runs):
    tab = cross([run for run in runs() if run.seed == 0], "model", "data")
    assert notes(tab) == ["held-out figures of the best step, times 100, over 1 seed"]
    assert table(tab, "model")[1][0] == ["gpt", "60.0", "-", "-", "40.0", "80.0"]


def test_runs_that_differ_in_more_are_not_taken_for_seeds(runs, tmp_path):
    figures = {"val/best_accuracy": 0.1}
    other = make_run(tmp_path / "other", "model=gpt", "data=quijote", "seed=1", "optimizer.lr=0.5", summary=figures)
    write_measures(other, measures_of("val/accuracy", [Metric("accuracy", MAXIMIZE)], []))
    with pytest.raises(
        ConfigError, match=r"model=gpt and data=quijote hold several runs of seed 1, .* in optimizer.lr"
    ):
        cross(runs(), "model", "data")
    with pytest.raises(ConfigError, match=r"seed=0 and data=\w+ hold several runs of seed 0, .* in model"):
        cross([run for run in runs() if run.path.name != "other"], "seed", "data")
    # The same once more is no seed more.
    shutil.rmtree(other)
    again = make_run(other, "model=gpt", "data=quijote", "seed=1", summary=figures)
    write_measures(again, measures_of("val/accuracy", [Metric("accuracy", MAXIMIZE)], []))
    assert cross(runs(), "model", "data").cells["gpt", "quijote"].n == 3


def test_a_column_of_what_does_not_compare(tmp_path):
    metrics = [Metric("loss", per_token=True), Metric("bits_per_byte", across=True)]
    for tokenizer, loss, bits in (("char", 2.0, 3.0), ("bpe", 4.0, 2.5)):
        figures = {"val/best_loss": loss, "val/best_bits_per_byte": bits}
        run = make_run(tmp_path / tokenizer, "data=quijote", f"data/tokenizer={tokenizer}", summary=figures)
        write_measures(run, measures_of("val/loss", metrics, [Floor("floor/x", 1.0, "x", "x", {"bits_per_byte": 1.0})]))
    tab = cross(read_runs(find_runs([tmp_path]), measures), "data/tokenizer", "data")
    assert tab.metrics == {"quijote": "val/bits_per_byte"} and tab.rows == ["bpe", "char"] and tab.floors == {}
    for run in tmp_path.iterdir():
        write_measures(run, measures_of("val/loss", metrics[:1], []))
    with pytest.raises(ConfigError, match="data=quijote holds runs of several tasks or tokens, of which loss does not"):
        cross(read_runs(find_runs([tmp_path]), measures), "data/tokenizer", "data")
    other = make_run(tmp_path / "other", "data=pydocs", "data/tokenizer=char", summary={"val/best_loss": 1.0})
    write_measures(other, measures_of("val/loss", metrics, []))
    with pytest.raises(ConfigError, match="data/tokenizer=char holds runs of several texts, of which loss does not"):
        cross(read_runs(find_runs([tmp_path]), measures), "data", "data/tokenizer")


def test_small_models_and_short_runs_have_a_cost(tmp_path, runs):
    tab = cross(runs(), "model", "data")
    told = {("gpt", "quijote"): (0.69, 5_600), ("gpt", "pydocs"): (1234.5, 812), ("bigram", "quijote"): (None, 2.6e6)}
    lines = costs(dataclasses.replace(tab, costs=told), "model")[1]
    assert lines == [["gpt", "1,234 (812)", "0.7 (5.6 k)"], ["bigram", "-", "- (2.6 M)"]]


def test_what_makes_no_table(runs, tmp_path, molino):
    with pytest.raises(ConfigError, match="is no setting of these runs"):
        cross(runs(), "modle", "data")
    with pytest.raises(ConfigError, match="a column has one"):
        cross(runs(), "data", "model")
    done = molino("results", str(tmp_path), "columns=data")
    assert done.status == 2 and "columns=data needs group_by=<one setting>" in done.err
    done = molino("results", str(tmp_path), "columns=data", "group_by=model")
    assert done.status == 0 and "82.0 (2.0)" in done.out


def test_a_page_holds_the_table_its_picture_and_what_runs_cost(runs, tmp_path, molino):
    runs()
    page = tmp_path / "page"
    for _ in range(2):  # an earlier one is replaced
        done = molino("results", str(tmp_path), "columns=data", "group_by=model", f"to={page}")
        assert done.status == 0 and f"page: {page / 'index.html'}" in done.out, done.err
    text = (page / "index.html").read_text("utf-8")
    assert "<td>82.0 (2.0)</td>" in text and "what a run costs" in text and "data:image/png;base64," in text
    assert "columns=data" in text and sorted(each.suffix for each in page.iterdir()) == [".html", ".png"]


# Of each method and each set, in three units: a share, nats, and what is perfect at 100.
MIXED = {
    ("bigram", "quijote"): (0.50, 0.52, 0.51), ("bigram", "pydocs"): (3.10, 3.12, 3.14),
    ("gpt", "quijote"): (0.80, 0.82, 0.84), ("gpt", "pydocs"): (1.40, 1.41, 1.45),
    ("gpt", "shakespeare"): (31.0, 32.0, 30.5),
}  # fmt: skip
KINDS = {
    "quijote": Metric("accuracy", MAXIMIZE),
    "pydocs": Metric("loss"),
    "shakespeare": Metric("bleu", MAXIMIZE, OF_100),
}


@pytest.fixture
def mixed(tmp_path):
    for (model, data), values in MIXED.items():
        metric = KINDS[data]
        for seed, value in enumerate(values):
            figures = {f"val/best_{metric.name}": value, "seconds": 10.0 + seed, "parameters": 2_600_000}
            run = make_run(tmp_path / f"{model}-{data}-{seed}", f"model={model}", f"data={data}", f"seed={seed}",
                           summary=figures)  # fmt: skip
            floors = [Floor("floor/copy", 0.4, "copy", "copied", {metric.name: 0.4})]
            write_measures(run, measures_of(f"val/{metric.name}", [metric], floors if data == "shakespeare" else []))
    return read_runs(find_runs([tmp_path]), measures)


def test_unlike_metrics_have_no_average_and_each_column_its_best_row(mixed):
    tab = cross(mixed, "model", "data")
    assert tab.rows == ["gpt", "bigram"] and tab.averages == {} and tab.p == dict.fromkeys(tab.rows)
    found = {
        column: stats.ttest_rel(MIXED["bigram", column], MIXED["gpt", column]).pvalue
        for column in ("pydocs", "quijote")
    }
    smaller, larger = sorted(found, key=found.__getitem__)
    assert tab.cell_p == {
        ("bigram", smaller): pytest.approx(2 * found[smaller]),
        ("bigram", larger): pytest.approx(max(2 * found[smaller], found[larger])),
    }
    header, lines = table(tab, "model")
    assert header == ["model", "pydocs loss", "quijote accuracy", "shakespeare bleu"]
    assert lines == [
        ["gpt", "1.4200 (0.0265)", "82.0 (2.0)", "31.2 (0.8)"],
        ["bigram", "3.1200 (0.0200) *", "51.0 (1.0) *", "-"],
        ["floor: copied", "-", "-", "0.4"],
    ]
    told = notes(tab)
    assert "of quijote times 100, over 3 seeds, with" in told[0] and told[1].startswith("* is significantly worse")
    assert told[2:] == ["less is better of pydocs: so there is no average over the columns"]
    assert costs(tab, "model") == (
        ["model", "pydocs seconds", "quijote seconds", "shakespeare seconds"],
        [["gpt", *["11 (2.6 M)"] * 3], ["bigram", *["11 (2.6 M)"] * 2, "-"]],
    )
    assert "| bigram | 11 (2.6 M) | 11 (2.6 M) | - |" in markdown(tab, "model")
    rows = {(row["model"], row["column"]): row for row in csv.DictReader(io.StringIO(as_csv(tab, "model")))}
    assert len(rows) == 5 and float(rows["bigram", "pydocs"]["p"]) == pytest.approx(tab.cell_p["bigram", "pydocs"])
    assert float(rows["gpt", "shakespeare"]["seconds"]) == 11
    (best, _) = json.loads(as_json(tab, "model"))["rows"]
    assert "average" not in best and best["columns"]["shakespeare"]["p"] is None
    heights = [[bar.get_height() for bar in place.patches] for place in draw_crosstab(tab).axes]
    assert heights == [pytest.approx([1.42, 3.12]), pytest.approx([82, 51]), pytest.approx([31 + 1 / 6])]


def test_shares_and_what_is_perfect_at_100_are_averaged_as_they_are_told(mixed):
    tab = cross([run for run in mixed if run.value("data") != "pydocs"], "model", "data")
    wanted = [
        (100 * share + of_100) / 200
        for share, of_100 in zip(MIXED["gpt", "quijote"], MIXED["gpt", "shakespeare"], strict=True)
    ]
    assert tab.averages["gpt"].mean == pytest.approx(statistics.mean(wanted)) and tab.averages["bigram"].n == 0
    lines = table(tab, "model")[1]
    assert lines[0][1].startswith(f"{100 * statistics.mean(wanted):.1f} (") and lines[1][1:4] == ["-", "-", "-"]
