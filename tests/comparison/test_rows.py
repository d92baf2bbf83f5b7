"""What is averaged with what, what the rows are called, which is best."""

import math

import pytest
import yaml
from comparison.tree import age, make_run
from scipy import stats

from molino.base.errors import ConfigError
from molino.comparison.collect import find_runs, read_runs
from molino.comparison.rows import default_metrics, make_rows
from molino.runs.measures import MAXIMIZE, Floor, Metric, measures_of, write_measures
from molino.tasks.earlier import measures


@pytest.fixture
def rows(tmp_path):
    def rows(*metrics, group_by=None):
        return make_rows(read_runs(find_runs([tmp_path]), measures), list(metrics) or ["val/loss"], group_by)

    return rows


def labels(rows):
    return [tuple(row.labels.values()) for row in rows]


def means(rows, metric="val/loss"):
    return [row.samples[metric].mean for row in rows]


def test_seeds_are_one_row(tmp_path, rows):
    losses = {"gpt": (1.30, 1.32, 1.37), "bigram": (2.20, 2.21, 2.25)}
    for model, values in losses.items():
        for seed, loss in enumerate(values):
            make_run(tmp_path / f"{model}-{seed}", f"model={model}", "data=quijote", f"seed={seed}", loss=loss)
    best, other = rows()
    # What is the same everywhere (data) is no column, and the ten settings that a model brings are none.
    assert (best.labels, other.labels) == ({"model": "gpt"}, {"model": "bigram"})
    sample = best.samples["val/loss"]
    assert (sample.n, sample.mean, sample.sd) == (3, pytest.approx(1.33), pytest.approx(math.sqrt(0.0013)))
    assert best.best and not other.best and (best.contrast, other.verdict) == (None, "worse")
    assert other.contrast.p == pytest.approx(stats.ttest_rel(*losses.values()).pvalue)


def test_what_was_not_typed_is_shown_from_the_settings(tmp_path, rows):
    make_run(tmp_path / "a", "optimizer.lr=1e-3", loss=1.0)
    make_run(tmp_path / "b", loss=2.0)
    make_run(tmp_path / "c", "model=bigram", "model.n_layer=null", loss=3.0)
    make_run(tmp_path / "d", "model.n_layer=2", loss=4.0)
    assert [row.labels for row in rows()] == [
        {"optimizer.lr": 0.001, "model": "gpt", "model.n_layer": 4},
        {"optimizer.lr": 0.003, "model": "gpt", "model.n_layer": 4},
        {"optimizer.lr": 0.003, "model": "bigram", "model.n_layer": "null"},
        {"optimizer.lr": 0.003, "model": "gpt", "model.n_layer": 2},
    ]


def test_runs_are_grouped_by_all_settings_not_by_labels(tmp_path, rows):
    """The defaults have changed between two sweeps for which the same was typed."""
    for seed in (0, 1):
        make_run(tmp_path / f"old-{seed}", "model=gpt", f"seed={seed}", loss=1.0)
        new = make_run(tmp_path / f"new-{seed}", "model=gpt", f"seed={seed}", loss=2.0)
        config = (new / "config.yaml").read_text()
        (new / "config.yaml").write_text(config.replace("warmup_steps: 100", "warmup_steps: 7"))
    assert [row.labels for row in rows()] == [{"scheduler.warmup_steps": 100}, {"scheduler.warmup_steps": 7}]
    assert means(rows()) == [1.0, 2.0]


def test_settings_are_added_only_until_rows_are_distinct(tmp_path, rows):
    make_run(tmp_path / "a", "model=gpt", loss=1.0)
    make_run(tmp_path / "b", "model=bigram", loss=2.0)
    run = make_run(tmp_path / "c", "model=gpt", loss=3.0)
    text = (run / "config.yaml").read_text().replace("dropout: 0.0", "dropout: 0.5").replace("norm: pre", "norm: post")
    (run / "config.yaml").write_text(text)
    assert [list(row.labels) for row in rows()] == [["model", "model.dropout"]] * 3


def test_the_same_settings_on_two_texts(tmp_path, rows):
    """The Python manual differs between versions of Python, which no setting tells."""
    for number, text in enumerate(("0123456789", "abcdefghij")):
        make_run(tmp_path / str(number), f"seed={number}", loss=1.0, summary={"corpus_sha256": text})
    assert [row.labels for row in rows()] == [{"corpus_sha256": "01234567"}, {"corpus_sha256": "abcdefgh"}]
    assert [row.best for row in rows()] == [True, True]
    assert labels(rows("val/loss", group_by=["model"])) == [("gpt", "01234567"), ("gpt", "abcdefgh")]


def test_a_row_of_its_own_needs_no_label(tmp_path, rows):
    make_run(tmp_path / "a", "seed=0", loss=1.0)
    make_run(tmp_path / "b", "seed=1", loss=3.0)
    (row,) = rows()
    assert (row.labels, row.samples["val/loss"].mean) == ({"name": "pydocs-gpt"}, 2.0)


def test_each_corpus_has_its_best(tmp_path, rows):
    for data, base in (("quijote", 1.0), ("pydocs", 5.0)):
        for lr in ("1e-3", "1e-2"):
            for seed in (0, 1):
                loss = base + 100 * float(lr) + 0.01 * seed
                make_run(
                    tmp_path / f"{data}{lr}{seed}", f"data={data}", f"optimizer.lr={lr}", f"seed={seed}", loss=loss
                )
    found = rows()
    assert labels(found) == [("pydocs", 0.001), ("pydocs", 0.01), ("quijote", 0.001), ("quijote", 0.01)]
    assert [row.best for row in found] == [True, False, True, False]
    assert [row.contrast is None for row in found] == [True, False, True, False]


def test_a_loss_a_token_compares_only_with_the_same_tokens(tmp_path, rows):
    for kind, loss in (("char", 1.4), ("bpe", 4.0)):
        for seed in (0, 1):
            make_run(tmp_path / f"{kind}{seed}", f"data/tokenizer={kind}", f"seed={seed}", loss=loss + seed / 100)
    assert [row.best for row in rows("val/loss")] == [True, True]
    # Bits a byte compare across tokenizers.
    assert [row.best for row in rows("val/bits_per_byte")] == [True, False]
    # And no mean is taken over different tokens, whatever is asked for: also not of the second metric.
    for metrics in (["val/loss"], ["val/bits_per_byte", "val/loss"]):
        assert labels(rows(*metrics, group_by=["model"])) in (
            [("gpt", k) for k in o] for o in (("char", "bpe"), ("bpe", "char"))
        )
    (pooled,) = rows("val/bits_per_byte", group_by=["model"])
    assert pooled.samples["val/bits_per_byte"].n == 4


def test_group_by_pools_the_rest(tmp_path, rows):
    for model, base in (("gpt", 1.0), ("bigram", 2.0)):
        for lr in ("1e-3", "1e-2"):
            for seed in (0, 1):
                loss = base + 10 * float(lr) + seed
                make_run(
                    tmp_path / f"{model}{lr}{seed}", f"model={model}", f"optimizer.lr={lr}", f"seed={seed}", loss=loss
                )
    assert [row.labels for row in rows(group_by=["model"])] == [{"model": "gpt"}, {"model": "bigram"}]
    assert means(rows(group_by=["model"])) == pytest.approx([1.555, 2.555])
    assert [row.samples["val/loss"].n for row in rows(group_by=["model"])] == [4, 4]
    assert labels(rows(group_by=["seed", "optimizer.lr"])) == [(0, 0.001), (0, 0.01), (1, 0.001), (1, 0.01)]
    # Also by what is the same everywhere, and by a setting that not all have.
    assert labels(rows(group_by=["data"])) == [("pydocs",)]
    assert labels(rows(group_by=["model.n_layer"])) == [(4,), (None,)]
    with pytest.raises(ConfigError, match=r"group_by=optimiser.lr is no setting.*did you mean optimizer.lr\?"):
        rows(group_by=["optimiser.lr"])
    with pytest.raises(
        ConfigError, match=r"group_by=zzz is no setting of these runs; these differ: model, .*optimizer.lr"
    ):
        rows(group_by=["zzz"])


def test_pruned_runs_are_kept_apart(tmp_path, rows):
    for seed in range(4):
        make_run(tmp_path / str(seed), f"seed={seed}", loss=1.0 + seed, summary={"pruned": True} if seed < 2 else None)
    full, pruned = rows()
    assert means((full, pruned)) == [3.5, 1.5]
    assert (full.verdict, pruned.verdict, pruned.contrast) == ("best", "pruned", None)


def test_what_is_not_done_waits_in_its_row(tmp_path, rows):
    make_run(tmp_path / "a", "model=gpt", "seed=0", loss=1.0)
    make_run(tmp_path / "b", "model=gpt", "seed=1", status={"state": "failed", "error": "no memory"})
    make_run(tmp_path / "c", "model=gpt", "seed=2", config=False, status={"state": "not begun"})
    make_run(tmp_path / "d", "model=bigram", "seed=0", config=False, status={"state": "not begun"})
    gpt, bigram = rows()
    assert [run.status.state for run in gpt.unfinished] == ["failed", "not begun"]
    assert (gpt.labels, bigram.labels) == ({"model": "gpt"}, {"model": "bigram"})
    assert (bigram.runs, bigram.samples["val/loss"].mean, bigram.verdict) == ([], None, "")


def test_a_seed_counts_once(tmp_path, rows):
    for name, seconds in (("a", 100), ("b", 200), ("c", 0)):
        age(make_run(tmp_path / name, "seed=0", loss=1.0, summary={"tokens_per_second": seconds}), seconds)
    make_run(tmp_path / "d", "seed=1", loss=2.0)
    (row,) = rows()
    assert [run.path.name for run in row.runs] == ["c", "d"] and [r.path.name for r in row.repeats] == ["a", "b"]
    assert row.samples["val/loss"].values == (1.0, 2.0)
    # How long something takes can be measured again.
    (row,) = rows("tokens_per_second")
    assert row.samples["tokens_per_second"].n == 4


def test_the_best_is_the_largest_of_speeds_and_the_smallest_of_the_rest(tmp_path, rows):
    make_run(tmp_path / "a", "model=gpt", loss=1.0, summary={"tokens_per_second": 10, "seconds": 5})
    make_run(tmp_path / "b", "model=bigram", loss=2.0, summary={"tokens_per_second": 99, "seconds": 1})
    assert [labels(rows(metric))[0] for metric in ("val/loss", "tokens_per_second", "seconds")] == [
        ("gpt",), ("bigram",), ("bigram",),
    ]  # fmt: skip


def test_metrics_that_are_missing(tmp_path, rows):
    make_run(tmp_path / "a", "model=gpt", loss=1000.0)
    make_run(tmp_path / "b", "model=bigram", loss=2.0)
    make_run(tmp_path / "c", "model=custom_gpt", loss=3.0, summary={"extra": 1})
    assert means(rows("val/perplexity"), "val/perplexity") == [
        pytest.approx(math.e**2),
        pytest.approx(math.e**3),
        math.inf,
    ]
    assert means(rows("extra"), "extra") == [1, None, None]
    with pytest.raises(
        ConfigError, match=r"metric=val/los is in no summary; did you mean val/loss\? Known here: val/loss, "
    ):
        rows("val/los")


def test_the_floor_is_the_best_that_counting_achieves(tmp_path, rows):
    make_run(tmp_path / "a", "model=gpt", loss=1.0)
    assert rows()[0].floor == ("5-gram", 1.43)
    make_run(tmp_path / "a2", "model=bigram", loss=0.9, summary={"floor/ngram": 2.5})
    assert rows()[0].floor == ("bigram", 2.24)


def test_where_more_is_better_the_largest_is_best(tmp_path, rows):
    """As its directory says; runs of two tasks have a best row each."""
    told = (Metric("accuracy", MAXIMIZE), Metric("loss"))
    bag = Floor("floor/bag", 0.7, "", "bag of words", {"accuracy": 0.7})
    floors = (bag, Floor("floor/m", 0.5, "", "m", {"accuracy": 0.5}))
    for number, accuracy in enumerate((0.8, 0.9, 0.6)):
        summary = {"val/accuracy": accuracy, "val/best_accuracy": accuracy, "floor/bag": 0.7, "floor/m": 0.5}
        run = make_run(tmp_path / str(number), f"optimizer.lr={number}", loss=1 - accuracy, summary=summary)
        write_measures(run, measures_of("val/accuracy", told, floors))
    for metric in ("val/accuracy", "val/best_accuracy"):
        assert labels(rows(metric)) == [(1,), (0,), (2,)] and [row.best for row in rows(metric)] == [True, False, False]
        assert rows(metric)[0].floor == ("bag of words", 0.7)
    assert labels(rows("val/loss"))[0] == (1,) and rows("val/loss")[0].floor is None
    waiting = {"state": "not begun"}
    make_run(tmp_path / "waits", "optimizer.lr=5", config=False, status=waiting)
    found = read_runs(find_runs([tmp_path]), measures)
    assert default_metrics(found) == ["val/accuracy"] and {run.measures.monitor for run in found} == {"val/accuracy"}
    make_run(tmp_path / "lm", "optimizer.lr=0", "task=language_model", loss=2.0)
    found = read_runs(find_runs([tmp_path]), measures)
    assert sorted(default_metrics(found)) == ["val/accuracy", "val/loss"]
    both = make_rows(found, None, None)
    best = {row.metric: row.samples[row.metric].mean for row in both if row.best}
    assert best == {"val/accuracy": 0.9, "val/loss": 2.0}


def test_a_damaged_record_of_metrics_is_a_failure_that_is_told(tmp_path, rows):
    run = make_run(tmp_path / "run", loss=1.0)
    make_run(tmp_path / "good", "model=bigram", loss=2.0)
    (run / "metrics.json").write_text("{")
    good, bad = rows()
    assert good.best and bad.unfinished[0].status.state == "failed" and "metrics.json" in bad.unfinished[0].status.error


def test_runs_of_one_task_are_ranked_by_one_metric_whatever_decided_in_each(tmp_path):
    told = (Metric("loss"), Metric("bits"))
    for number, (monitor, loss) in enumerate((("val/loss", 2.0), ("val/bits", 1.0))):
        run = make_run(tmp_path / str(number), f"optimizer.lr={number}", loss=loss, summary={"val/bits": loss / 2})
        write_measures(run, measures_of(monitor, told, ()))
    found = make_rows(read_runs(find_runs([tmp_path]), measures), None, None)
    assert [row.metric for row in found] == ["val/loss"] * 2 and [row.best for row in found] == [True, False]
    assert found[0].labels == {"optimizer.lr": 1}


def test_a_run_that_has_lost_its_record_is_read_by_its_settings(tmp_path, rows):
    for number, accuracy in enumerate((0.5, 0.9)):
        run = make_run(tmp_path / str(number), f"optimizer.lr={number}", loss=1.0, summary={"val/accuracy": accuracy})
        task = {"_target_": "mylab.tasks.Order", "monitor": "val/accuracy", "direction": "maximize"}
        config = yaml.safe_load((run / "config.yaml").read_text()) | {"task": task}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    found = make_rows(read_runs(find_runs([tmp_path]), measures), None, None)
    assert found[0].best and found[0].labels == {"optimizer.lr": 1} and found[0].metric == "val/accuracy"
