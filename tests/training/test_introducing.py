"""What a run says of itself before its first step."""

import pytest
from conftest import CPU


@pytest.fixture
def begin(molino, tiny, tmp_path):
    """Train a few steps and return what the first table says: name -> value."""

    def begin(*settings):
        places = (f"data.path={tiny.file}", f"paths.cache={tiny.cache}", f"paths.outputs={tmp_path}")
        done = molino("train", "data=text", *CPU, "debug=fast", *places, *settings)
        assert done.status == 0 and done.err == "", done.err
        facts = done.out.partition("\nresult")[0].splitlines()
        return {name: value for name, _, value in (line.strip().partition("   ") for line in facts)}

    return begin


def test_a_rate_that_does_not_arrive_is_said(begin):
    facts = begin("model=bigram", "scheduler.warmup_steps=100", "trainer.max_steps=6")
    assert facts["warm-up"].strip() == "100 steps, longer than the run: the rate stays below optimizer.lr"
    assert "warm-up" not in begin("model=bigram", "scheduler.warmup_steps=6", "trainer.max_steps=6")


def test_a_run_that_is_named_without_its_time_is_said(begin, molino, tmp_path):
    facts = begin("model=bigram", "name=mine")
    assert "begins from" not in facts and "typed twice" not in facts
    (run,) = tmp_path.glob("mine_*")
    assert begin("weights=mine")["begins from"].strip() == str(run)
    assert begin("weights=latest", "name=other")["begins from"].strip() != str(run)
    places = [*CPU, f"paths.outputs={tmp_path}"]
    asked = ("prompt=a", "max_new_tokens=1")
    for verb, arguments in (("generate", asked), ("explain", asked[:1]), ("evaluate", ["floors=false"])):
        assert f"run=mine: the latest of this name is {run.name}\n" in molino(verb, "run=mine", *arguments, *places).err
        assert "run=" not in molino(verb, f"run={run.name}", *arguments, *places).err
