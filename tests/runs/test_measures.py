"""What a run's directory says of its figures."""

import json
import math

import pytest

from molino.base.errors import CheckpointError
from molino.runs.measures import (
    MAXIMIZE,
    OF_EVERY_RUN,
    Floor,
    Metric,
    learnt_tag,
    measures_of,
    metric_tag,
    read_measures,
    spoken,
    write_measures,
)
from molino.tasks import earlier

METRICS = (Metric("accuracy", MAXIMIZE), Metric("loss", unit="nats a token", per_token=True, overflows=True))
FLOORS = (
    Floor("floor/majority", 0.6, "majority floor", "majority", {"accuracy": 0.6}),
    Floor("floor/source", 0.1, "entropy", "source", {"loss": 0.1}, beatable=False),
    Floor("floor/train", 0.1, "on train", "train"),
)


@pytest.fixture
def measures(tmp_path):
    write_measures(tmp_path, measures_of("val/accuracy", METRICS, FLOORS))
    return read_measures(tmp_path)


def test_what_is_recorded_is_read(measures):
    assert measures == measures_of("val/accuracy", METRICS, FLOORS)
    # What no model can beat for long, and what is of no metric of this split, is nothing to be beaten.
    assert measures.floors == {"floor/majority": ("majority", {"accuracy": 0.6})}
    assert (
        measures.levels_of("val/accuracy")
        == measures.levels_of("val/best_accuracy")
        == {"floor/majority": ("majority", 0.6)}
    )
    assert not measures.levels_of("train/accuracy") and not measures.levels_of("val/loss")


@pytest.mark.parametrize(
    ("tag", "maximized", "per_token"),
    [
        ("val/accuracy", True, False), ("val/best_accuracy", True, False), ("test/accuracy", True, False),
        ("val/loss", False, True), ("train/loss", False, True), ("train/task_loss", False, True),
        ("floor/majority", True, False), ("tokens_per_second", True, False), ("train/tokens_per_second", True, True),
        ("seconds", False, False), ("steps", False, False), ("unheard of", False, False),
    ],
)  # fmt: skip
def test_directions_and_what_compares(measures, tag, maximized, per_token):
    assert (measures.maximized(tag), measures.per_token(tag)) == (maximized, per_token)


def test_tags():
    assert METRICS[0].tag == "val/accuracy" and METRICS[0].best_tag == "val/best_accuracy"
    assert metric_tag("val/best_accuracy") == "val/accuracy" == metric_tag("val/accuracy")
    assert spoken("val/bits_per_byte") == "held-out bits per byte" and spoken(learnt_tag("loss")) == "train loss"
    assert set(OF_EVERY_RUN.values()) == {"minimize", "maximize", None}


def test_none_is_recorded_and_damage_is_told(tmp_path):
    assert read_measures(tmp_path) is None
    good = {"monitor": "val/x", "metrics": {"x": {"direction": "maximize"}}, "floors": {}}
    wrong = (
        {"monitor": 1},
        {"metrics": {"x": {"way": 1}}},
        {"metrics": {"x": {"direction": "up"}}},
        {"floors": {"f": 1}},
    )
    for damage in ("", "[", "[]", "3", "{}", "[" * 100_000, *(json.dumps(good | change) for change in wrong)):
        (tmp_path / "metrics.json").write_text(damage)
        with pytest.raises(CheckpointError, match=r"metrics\.json cannot be read"):
            read_measures(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps(good))
    assert read_measures(tmp_path).maximized("val/x")


def test_runs_of_before_there_were_tasks_are_language_models():
    old = earlier.measures({"floor/ngram_order": 5})
    assert old.monitor == "val/loss" and old.levels_of("val/loss")["floor/ngram"] == ("5-gram", None)
    assert earlier.measures({}).levels_of("val/best_loss")["floor/ngram"][0] == "n-gram"
    assert not old.per_token("val/bits_per_byte") and old.per_token("val/perplexity")
    assert earlier.best_of({"best_loss": 800.0}) == {"val/loss": 800.0, "val/perplexity": math.inf}
