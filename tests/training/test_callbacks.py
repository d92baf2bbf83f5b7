"""Callbacks of the configuration: built, or refused with the reason."""

import pytest
from lightning.pytorch import Callback

from molino.base.errors import ConfigError
from molino.configuration.build import build
from molino.runs.directory import read_summary
from molino.runs.measures import MAXIMIZE, Metric
from molino.tasks.language_model import LanguageModel
from molino.training.callbacks import check_callbacks

LIGHTNING = "lightning.pytorch.callbacks"


def stop(**settings):
    return {"_target_": f"{LIGHTNING}.EarlyStopping", "monitor": "val/loss", **settings}


def test_those_of_lightning_are_taken():
    nodes = {"stop": stop(patience=7), "timer": {"_target_": f"{LIGHTNING}.Timer"}}
    check_callbacks({name: build(node, name, Callback) for name, node in nodes.items()}, LanguageModel.metrics)
    check_callbacks({}, ())


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (stop(monitor="val_partial/loss"), r"callbacks\.x\.monitor=val_partial/loss is val/loss until the end"),
        (stop(monitor="val/acc"), r"callbacks\.x\.monitor=val/acc is not measured: choose val/loss, val/perplexity"),
        (stop(patients=7), r"callbacks\.x\.patients is not a setting; did you mean callbacks\.x\.patience\?"),
        (stop(mode="up"), "callbacks.x: `mode` can be"),
        (stop(mode="max"), "takes the worse val/loss for the better: set callbacks.x.mode=min"),
        ({"_target_": f"{LIGHTNING}.ModelCheckpoint"}, "the last and the best, are kept already"),
        ({"_target_": "molino.training.plan.Plan", "max_steps": 1, "log_every": 1, "val_every": 1,
          "checkpoint_every": 1}, "molino.training.plan.Plan is no Callback: it is not derived from lightning."),
        (1, "callbacks.x=1 says nothing that can be built"),
    ],
)  # fmt: skip
def test_others_are_refused(node, message):
    with pytest.raises(ConfigError, match=message):
        check_callbacks({"x": build(node, "callbacks.x", Callback)}, LanguageModel.metrics)


def test_more_may_be_better():
    accuracy = (Metric("accuracy", MAXIMIZE),)
    watching = {mode: build(stop(monitor="val/accuracy", mode=mode), "x", Callback) for mode in ("min", "max")}
    check_callbacks({"x": watching["max"]}, accuracy)
    with pytest.raises(ConfigError, match=r"set callbacks\.x\.mode=max"):
        check_callbacks({"x": watching["min"]}, accuracy)


def test_what_can_be_watched_is_measured(tiny):
    measured = {tag for tag in read_summary(tiny.path) if tag.startswith("val/")}
    assert {metric.tag for metric in LanguageModel.metrics} == measured - {"val/best_loss", "val/best_perplexity"}
