"""Schedules against torch's own schedulers and formulas written out by hand."""

import functools
import math
import re

import pytest
import torch
import yaml
from conftest import ROOT
from torch.optim import lr_scheduler

from molino.base.errors import ConfigError
from molino.training import schedules
from molino.training.schedules import check_schedule, constant, cosine, wsd

ALL = {
    "constant": functools.partial(constant),
    "constant, warm-up": functools.partial(constant, warmup_steps=30),
    "step": functools.partial(schedules.step, step_size=7, gamma=0.5),
    "step, warm-up": functools.partial(schedules.step, step_size=20, gamma=0.9, warmup_steps=30),
    "cosine": functools.partial(cosine),
    "cosine, warm-up": functools.partial(cosine, warmup_steps=30, floor=0.1),
    "wsd": functools.partial(wsd),
    "wsd, warm-up": functools.partial(wsd, warmup_steps=30, decay_fraction=0.5),
    "wsd, overlap": functools.partial(wsd, warmup_steps=30, decay_fraction=1.0),
}


def torch_rates(make, steps: int) -> list[float]:
    """The learning rates that a scheduler of torch gives to `steps` steps of an optimizer with lr=1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("step_size", "gamma"), [(1, 0.9), (7, 0.5), (100, 0.1)])
def test_step_is_torchs(step_size, gamma):
    ours = [schedules.step(t, 60, step_size, gamma) for t in range(60)]
    assert ours == pytest.approx(torch_rates(lambda o: lr_scheduler.StepLR(o, step_size, gamma), 60))


@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_cosine_is_torchs(floor):
    ours = [cosine(t, 60, floor=floor) for t in range(61)]
    assert ours == pytest.approx(torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, 60, floor), 61))


def test_cosine_after_its_warm_up_is_torchs_for_the_steps_that_are_left():
    ours = [cosine(t, 60, warmup_steps=20, floor=0.2) for t in range(61)]
    assert ours[:20] == pytest.approx([(t + 1) / 20 for t in range(20)])
    assert ours[20:] == pytest.approx(torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, 40, 0.2), 41))


@pytest.mark.parametrize("warmup_steps", [1, 4, 10])
def test_warm_up_is_torchs_linear_one(warmup_steps):
    ours = [constant(t, 20, warmup_steps) for t in range(20)]
    assert ours == [min((t + 1) / warmup_steps, 1.0) for t in range(20)]
    if warmup_steps > 1:
        linear = torch_rates(lambda o: lr_scheduler.LinearLR(o, 1 / warmup_steps, 1.0, warmup_steps - 1), 20)
        assert ours == pytest.approx(linear)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "scheduler").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_last_step_has_the_rate_that_the_comment_says(path):
    text = path.read_text("utf-8")
    settings = yaml.safe_load(text) | {"warmup_steps": 0}
    schedule = getattr(schedules, settings.pop("_target_").rsplit(".", 1)[1])
    settings.pop("_partial_")
    said = re.findall(r"last of ([\d,]+) steps has ([\d.]+) \* optimizer.lr", text)
    assert said
    for steps, rate in said:
        last = int(steps.replace(",", ""))
        assert f"{schedule(last - 1, last, **settings):.{len(rate.partition('.')[2])}f}" == rate
        # What the comment calls a step after the last.
        if "floor" in settings:
            assert "which a step after the last would have" in text.replace("\n# ", " ")
            assert schedule(last, last, **settings) == settings["floor"]


def test_step_warms_up_by_a_factor():
    ours = [schedules.step(t, 20, 3, 0.5, warmup_steps=5) for t in range(20)]
    assert ours == pytest.approx([min((t + 1) / 5, 1.0) * 0.5 ** (t // 3) for t in range(20)])


def test_wsd_by_hand():
    assert [wsd(t, 10, warmup_steps=2, decay_fraction=0.4) for t in range(11)] == pytest.approx(
        [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    )
    assert [wsd(t, 5, decay_fraction=0.4, floor=0.5) for t in range(6)] == pytest.approx([1, 1, 1, 1, 0.75, 0.5])
    assert [wsd(t, 4, decay_fraction=0.0) for t in range(4)] == [1, 1, 1, 1]
    assert [wsd(t, 4, decay_fraction=1.0) for t in range(4)] == [1, 0.75, 0.5, 0.25]
    assert [wsd(t, 4, warmup_steps=3, decay_fraction=1.0) for t in range(4)] == pytest.approx([1 / 3, 2 / 3, 0.5, 0.25])


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_factors_are_above_zero_from_the_first_step_to_the_last(schedule):
    factors = [schedule(t, 100) for t in range(100)]
    assert all(0 < factor <= 1 and math.isfinite(factor) for factor in factors)
    warmup_steps = schedule.keywords.get("warmup_steps", 0)
    assert factors[0] == (1 / warmup_steps if warmup_steps else 1.0)
    assert schedule(0, 1) > 0


@pytest.mark.parametrize("schedule", ALL.values(), ids=ALL)
def test_schedules_that_make_sense_are_accepted(schedule):
    check_schedule(schedule, 100)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (functools.partial(wsd, warmup_steps=-1), r"scheduler.warmup_steps=-1 must be at least 0"),
        (functools.partial(cosine, floor=1.1), r"scheduler.floor=1.1 .* between 0 and 1"),
        (functools.partial(cosine, floor=math.nan), r"scheduler.floor=nan .* between 0 and 1"),
        (functools.partial(wsd, decay_fraction=-0.1), r"scheduler.decay_fraction=-0.1 .* between 0 and 1"),
        (functools.partial(schedules.step, step_size=0, gamma=0.5), r"scheduler.step_size=0 must be at least 1"),
        (functools.partial(schedules.step, step_size=3, gamma=0.0), r"scheduler.gamma=0.0 must be above 0"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(schedule, message):
    with pytest.raises(ConfigError, match=message):
        check_schedule(schedule, 100)
