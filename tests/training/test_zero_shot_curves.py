"""A language model that is asked about labelled examples while it is trained."""

import math

import pytest
from conftest import CPU
from running import metrics

import molino as package
from molino.runs import directory

SETTINGS = (
    "model=gpt", "model.n_layer=1", "model.n_head=2", "model.n_embd=8", "data.block_size=16", "data.batch_size=4",
    "trainer.max_steps=20", "trainer.val_every=10", "trainer.checkpoint_every=10", "trainer.log_every=10",
    "trainer.sample_tokens=0",
)  # fmt: skip


@pytest.mark.xdist_group("conf")  # whose cache it shares
def test_curves_are_drawn_and_the_run_is_the_same_without(molino, mirror, tiny, tmp_path):
    places = (f"paths.mirror={mirror}", f"paths.cache={tmp_path}", "data=text", f"data.path={tiny.file}", *CPU)
    asked, plain = tmp_path / "asked", tmp_path / "plain"
    done = molino("train", *SETTINGS, *places, f"paths.outputs={asked}", "zero_shot=[sst2]")
    assert done.status == 0, done.err
    assert molino("train", *SETTINGS, *places, f"paths.outputs={plain}").status == 0
    (run,), (other,) = (directory.list_runs(each) for each in (asked, plain))
    summary = directory.read_summary(run)
    assert summary["val/loss"] == directory.read_summary(other)["val/loss"]
    value = summary["zero_shot/sst2"]
    assert summary["zero_shot/sst2_above_chance"] == pytest.approx((value - 0.5) / 0.5)
    steps, values = package.load(run).curve("zero_shot/sst2")
    assert steps.tolist() == [10, 20] and values[-1] == value and all(map(math.isfinite, values))
    assert "zero_shot/sst2" not in metrics(other)[0]
    # The same by the verb, which asks the best step, and from Python.
    told = package.load(run, "last").score("sst2", overrides=[f"paths.mirror={mirror}", f"paths.cache={tmp_path}"])
    assert told["accuracy"] == pytest.approx(value, abs=1e-9) and told["examples"] == 872
    verb = molino("score", f"run={run}", "checkpoint=last", "data=sst2", *places[:2], *CPU)
    assert verb.status == 0 and f" accuracy   {value:.4f}" in verb.out, verb.err + verb.out


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("[quijote]", "quijote is text alone, and has nothing to be told"),
        ("[stt2]", "did you mean data=sst2?"),
        ("[mrpc]", "what to ask of"),
        ("[stsb]", "neither classes nor choices"),
    ],
)
def test_what_cannot_be_asked_is_one_line(molino, mirror, tiny, tmp_path, names, says):
    places = (f"paths.mirror={mirror}", f"paths.cache={tmp_path}", "data=text", f"data.path={tiny.file}", *CPU)
    done = molino("train", *SETTINGS, *places, f"paths.outputs={tmp_path / 'outputs'}", f"zero_shot={names}")
    assert done.status in (2, 3) and says in done.err and done.err.count("\n") == 1, done.err
    assert not directory.list_runs(tmp_path / "outputs")
