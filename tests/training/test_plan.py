"""The plan of a run: counts that make sense, and how many steps go in one block."""

import dataclasses

import pytest

from molino.base.errors import ConfigError
from molino.training.plan import Plan

PLAN = Plan(max_steps=100, log_every=10, val_every=20, checkpoint_every=50)


@pytest.mark.parametrize(
    ("intervals", "steps"), [((10, 20, 50), 10), ((7, 20, 50), 1), ((50, 250, 1000), 50), ((12, 18, 30), 6)]
)
def test_a_block_is_the_longest_that_ends_at_every_interval(intervals, steps):
    plan = Plan(1000, *intervals)
    assert plan.steps_per_block == steps
    assert max(n for n in range(1, 1001) if all(interval % n == 0 for interval in intervals)) == steps


@pytest.mark.parametrize("name", ["log_every", "val_every", "checkpoint_every", "accumulate"])
@pytest.mark.parametrize("value", [0, -5])
def test_counts_are_at_least_one(name, value):
    assert getattr(dataclasses.replace(PLAN, **{name: 1}), name) == 1
    with pytest.raises(ConfigError, match=rf"trainer\.{name}={value} must be at least 1"):
        dataclasses.replace(PLAN, **{name: value})


def test_a_length_in_epochs_is_settled_in_steps():
    assert PLAN.settle(33.4, 1e9) is PLAN and PLAN.settled == {"max_steps": 100}
    plan = dataclasses.replace(PLAN, epochs=1.5).settle(33.4, 1e9)  # 50.1 steps: the last one is taken as well
    assert (plan.max_steps, plan.epochs) == (51, 1.5)
    assert dataclasses.replace(PLAN, epochs=0).settle(33.4, 1e9).max_steps == 0
    assert dataclasses.replace(PLAN, flops=2.5e10).settle(33.4, 1e9).max_steps == 25
    assert dataclasses.replace(PLAN, flops=2.51e10).settle(33.4, 1e9).max_steps == 26


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"max_steps": -1}, "trainer.max_steps=-1 must be at least 0"),
        ({"epochs": -0.5}, "trainer.epochs=-0.5 must be 0 or more"),
        ({"epochs": float("nan")}, "trainer.epochs=nan must be 0 or more"),
        ({"epochs": float("inf")}, "trainer.epochs=inf must be 0 or more"),
        ({"flops": -1.0}, "trainer.flops=-1.0 must be 0 or more"),
        ({"flops": 1e9, "epochs": 1.0}, "trainer.epochs=1.0 and trainer.flops=1000000000.0 are two lengths"),
    ],
)
def test_a_length_is_zero_or_more(values, says):
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(PLAN, **values)


def test_a_length_that_does_not_end_is_refused():
    assert dataclasses.replace(PLAN, epochs=1e7).settle(400.0, 1e9).max_steps == 4 * 10**9
    for length in ({"epochs": 1e12}, {"flops": 1e30}):
        with pytest.raises(ConfigError, match="steps does not end: lower "):
            dataclasses.replace(PLAN, **length).settle(400.0, 1e9)


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_clipping_needs_a_norm_above_zero(clip):
    assert PLAN.clip is None and dataclasses.replace(PLAN, clip=0.1).clip == 0.1
    with pytest.raises(ConfigError, match=rf"trainer\.clip={clip} must be above 0; null turns clipping off"):
        dataclasses.replace(PLAN, clip=clip)


def test_samples_may_be_left_out_but_not_be_negative():
    assert dataclasses.replace(PLAN, sample_tokens=0).sample_tokens == 0
    with pytest.raises(ConfigError, match=r"trainer\.sample_tokens=-1 must be at least 0"):
        dataclasses.replace(PLAN, sample_tokens=-1)
