"""Rows against the best: pairs, corrections, tables without any difference, tokens that lose something."""

import itertools

import numpy as np
import pytest
from comparison.tree import make_run
from scipy import stats

from molino.comparison.collect import find_runs, read_runs
from molino.comparison.contrasts import contrasts
from molino.comparison.notes import notes
from molino.comparison.rows import Row, default_metrics, make_rows
from molino.comparison.statistics import describe
from molino.comparison.tables import table
from molino.runs.measures import Floor, measures_of, write_measures
from molino.tasks.earlier import measures
from molino.tasks.figures import METRICS


@pytest.fixture
def rows(tmp_path):
    def rows(metrics=None):
        return make_rows(read_runs(find_runs([tmp_path]), measures), metrics, None)

    return rows


class Seeded:
    """As much of a run as a test of its seeds needs."""

    def __init__(self, seed: int, value: float):
        self.seed, self.value, self.batches, self.pruned = seed, value, "", False

    def metric(self, name: str) -> float:
        return self.value


def a_table(values_RN: np.ndarray, shared: bool) -> list[Row]:
    """A row for each of R settings with N seeds, the same ones or not."""
    found = []
    for number, values in enumerate(values_RN):
        runs = [Seeded(seed + (0 if shared else 100 * number), float(value)) for seed, value in enumerate(values)]
        row = Row((number,), "val/loss", ("text",), runs)
        row.samples = {"val/loss": describe([run.value for run in runs])}
        found.append(row)
    found.sort(key=lambda row: row.samples["val/loss"].mean)
    found[0].best = True
    return found


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("count", "seeds"), [(2, 3), (5, 3), (8, 5)])
def test_of_a_thousand_tables_without_a_difference_few_call_one_significant(count, seeds, shared):
    draw = np.random.default_rng(count)
    false = 0
    for _ in range(1000):
        # What a seed draws is good or bad for all rows.
        values = draw.normal(1.5, 0.01, (count, seeds)) + (draw.normal(0, 0.02, seeds) if shared else 0)
        false += any(contrast.significant for contrast in contrasts(a_table(values, shared)).values())
    assert false <= 60


def test_pairs_see_what_means_do_not():
    """A difference of 0.01 under seeds that differ by 0.1: certain seed by seed, and nothing otherwise."""
    seeds = np.array([1.3, 1.4, 1.5])
    values = np.stack([seeds, seeds + np.array([0.010, 0.011, 0.009])])
    (pairs,), (means,) = (contrasts(a_table(values, shared)).values() for shared in (True, False))
    assert pairs.p == pytest.approx(stats.ttest_rel(*values).pvalue) and pairs.significant
    assert means.p == pytest.approx(stats.ttest_ind(*values, equal_var=False).pvalue) and not means.significant
    assert pairs.difference == pytest.approx(0.01) and pairs.pairs.sd == pytest.approx(0.001) and means.pairs is None


def test_values_of_p_are_corrected_for_all_pairs():
    """Four rows make six pairs: the least p counts six times, the next five, the last four."""
    values = np.random.default_rng(1).normal([[1.0], [1.1], [1.2], [1.3]], 0.05, (4, 4))
    found = a_table(values, shared=False)
    best = found[0].samples["val/loss"].values
    alone = [stats.ttest_ind(best, row.samples["val/loss"].values, equal_var=False).pvalue for row in found[1:]]
    wanted = list(itertools.accumulate((min(p * n, 1) for p, n in zip(sorted(alone), (6, 5, 4), strict=True)), max))
    assert sorted(contrast.p for contrast in contrasts(found).values()) == pytest.approx(wanted)


def test_rows_of_other_batches_or_seeds_are_no_pairs(tmp_path, rows):
    for seed in range(3):
        make_run(tmp_path / f"a{seed}", f"seed={seed}", loss=1.0 + 0.1 * seed)
        make_run(tmp_path / f"b{seed}", f"seed={seed}", "data.batch_size=8", loss=2.0 + 0.1 * seed)
        make_run(tmp_path / f"c{seed}", f"seed={seed + 1}", "optimizer.lr=1", loss=3.0 + 0.1 * seed)
        make_run(tmp_path / f"d{seed}", f"seed={seed}", "optimizer.lr=2", loss=4.0 + 0.1 * seed)
    _, batches, seeds, same = rows()
    assert batches.contrast.pairs is seeds.contrast.pairs is None and same.contrast.pairs.mean == pytest.approx(3.0)
    (tests,) = [line for line in notes(rows(), ["val/loss"]) if line.startswith("p: ")]
    assert "seed by seed" in tests and "else Welch's t-test" in tests and "corrected for all pairs of rows" in tests


def test_what_could_not_be_seen_is_said(tmp_path, rows):
    for seed, loss in enumerate((1.00, 1.02, 1.04)):
        make_run(tmp_path / f"a{seed}", f"seed={seed}", loss=loss)
        make_run(tmp_path / f"b{seed}", f"seed={seed + 5}", "optimizer.lr=1", loss=loss + 0.01)
    (line,) = [line for line in notes(rows(), ["val/loss"]) if line.startswith("power: ")]
    # An sd of 0.02 each: 3.07 of it with 3 seeds; half of it with 64 (Cohen 1988).
    assert line == (
        "power: with 3 seeds a difference below 0.0614 is missed more than one time in five; the 0.0100 between 1 and "
        "the best would take 64 seeds"
    )


def test_where_tokens_differ_bits_per_byte_rank_and_what_loses_is_never_the_best(tmp_path, rows):
    lost = {"lost/case": 0.07, "lost/white_space": 0.04, "lost/unknown": 0.047}
    for kind, loss, bits, more in (("char", 1.4, 2.0, {}), ("bpe", 4.0, 1.9, {}), ("word", 5.0, 1.2, lost)):
        for seed in range(2):
            typed = f"data/tokenizer={kind}" if kind != "word" else "data.tokenizer._target_=word"
            summary = {"val/bits_per_byte": bits, **more}
            make_run(tmp_path / f"{kind}{seed}", typed, f"seed={seed}", loss=loss, summary=summary)
    found = rows()
    assert [row.metric for row in found] == ["val/bits_per_byte"] * 3
    assert [row.samples["val/bits_per_byte"].mean for row in found] == [1.2, 1.9, 2.0]
    assert [row.best for row in found] == [False, True, False]
    assert found[0].contrast.difference == pytest.approx(-0.7)
    header, cells = table(found, ["val/bits_per_byte"])
    assert header[-1] == "its tokens lose" and cells[0][-1] == "case 7.0%, white space 4.0%, unknown 4.7%"
    said = notes(found, ["val/bits_per_byte"])
    assert "val/bits_per_byte: texts or tokens differ, and their held-out loss does not compare" in said
    assert any("never the best" in line for line in said)
    # Among equals it may be.
    alone = make_rows(found[0].runs, None, None)
    assert alone[0].metric == "val/loss" and alone[0].best


def test_what_is_beyond_the_best_because_it_loses_is_not_called_worse(tmp_path, rows):
    for kind, bits, more in (("char", 2.0, {}), ("bpe", 2.5, {}), ("word", 1.2, {"lost/case": 0.07})):
        for seed in range(3):
            summary = {"val/bits_per_byte": bits + 0.001 * seed**2 * bits, **more}
            typed = f"data/tokenizer={kind}" if kind != "word" else "data.tokenizer._target_=word"
            make_run(tmp_path / f"{kind}{seed}", typed, f"seed={seed}", loss=1.0, summary=summary)
    assert [row.verdict for row in rows()] == ["lossy", "best", "worse"]


def test_test_splits_have_a_column_and_their_looks_are_counted(tmp_path, rows):
    make_run(tmp_path / "a", loss=1.0, summary={"test/loss": 1.1, "test/looks": 2})
    make_run(tmp_path / "b", "optimizer.lr=1", loss=2.0)
    metrics = default_metrics(read_runs(find_runs([tmp_path]), measures))
    assert metrics == ["val/loss", "test/loss"]
    header, cells = table(rows(), metrics)
    place = header.index("test/loss")
    assert [line[place] for line in cells] == ["1.1000", "-"] and header[-1] == "best floor"
    said = "test splits were looked at 2 times, in 1 run: what is chosen by them has no test left"
    assert said in notes(rows(), metrics)


def test_what_counts_inside_is_told_apart(tmp_path, rows):
    make_run(tmp_path / "a", loss=1.0)
    (make_run(tmp_path / "b", "optimizer.lr=1", loss=0.5) / "counts.safetensors").write_bytes(b"")
    header, cells = table(rows(), ["val/loss"])
    assert header[1] == "counts inside" and [line[1] for line in cells] == ["yes", "no"]


def test_floors_are_levels_of_what_is_ranked(tmp_path, rows):
    floor = Floor("floor/kneser_ney", 1.5, "", "7-gram", {"loss": 1.5, "bits_per_byte": 2.2})
    run = make_run(tmp_path / "a", loss=1.4, summary={"val/bits_per_byte": 2.0, "floor/kneser_ney": 1.5})
    write_measures(run, measures_of("val/loss", METRICS, [floor]))
    (row,) = rows(["val/bits_per_byte"])
    assert row.floor == ("7-gram", 2.2) and row.floors("val/loss") == {"7-gram": 1.5}


def test_nan_is_counted_and_named_and_not_averaged(tmp_path, rows):
    for seed, loss in enumerate((1.0, 1.2)):
        make_run(tmp_path / f"a{seed}", f"seed={seed}", loss=loss)
    run = make_run(tmp_path / "bad", "seed=2", loss=1.0)
    (run / "summary.json").write_text((run / "summary.json").read_text().replace('"val/loss": 1.0', '"val/loss": NaN'))
    (row,) = rows()
    assert row.samples["val/loss"].mean == pytest.approx(1.1) and row.samples["val/loss"].n == 2
    _, cells = table([row], ["val/loss"])
    assert "2 (1 without value)" in cells[0]
    assert "not averaged, because they have no val/loss: bad" in notes([row], ["val/loss"])
    for seed in range(12):
        make_run(tmp_path / f"again{seed:02}", "seed=0", loss=1.0)
    (line,) = [line for line in notes(rows(), ["val/loss"]) if line.startswith("left out")]
    assert line.endswith(" and 2 more") and line.count(", ") == 10
