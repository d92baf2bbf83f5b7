"""What a run is made of: built from its settings and checked, before there is a text, a model or a directory."""

import functools
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback

from molino.configuration.build import build, check_node
from molino.data.module import TextDataModule
from molino.machine.hardware import Hardware
from molino.models.shapes import shapes_only
from molino.trained.load import build_model
from molino.training.callbacks import check_callbacks
from molino.training.optimizers import check_optimizer
from molino.training.plan import Plan
from molino.training.schedules import check_schedule


@dataclass(frozen=True)
class Parts:
    """Parts of a run. The optimizer and the schedule wait for a model.

    Attributes:
        callbacks: those of the configuration.
    """

    plan: Plan
    hardware: Hardware
    data: TextDataModule
    optimizer: functools.partial
    schedule: functools.partial
    callbacks: list[Callback]


def build_parts(settings: dict[str, Any]) -> Parts:
    """Build and check whatever needs no text, so that most mistakes show before anything is downloaded.

    Raises:
        ConfigError: a part cannot be built, or does not go with another.
        ResourceError: the machine lacks what is asked for.
    """
    for name, node in settings["logger"].items():
        if node:
            check_node(node, f"logger.{name}", ("directory", "first_step"))
    nodes = {name: node for name, node in settings["callbacks"].items() if node is not None}
    callbacks = {name: build(node, f"callbacks.{name}") for name, node in nodes.items()}
    hardware: Hardware = build(settings["hardware"], "hardware")
    plan: Plan = build(settings["trainer"], "trainer")
    optimizer, schedule = build(settings["optimizer"], "optimizer"), build(settings["scheduler"], "scheduler")
    data: TextDataModule = build(
        settings["data"],
        "data",
        accumulate=plan.accumulate,
        max_steps=plan.max_steps,
        steps_per_block=plan.steps_per_block,
        seed=settings["seed"],
    )
    check_callbacks(callbacks)
    check_optimizer(optimizer)
    check_schedule(schedule)
    data.check_processes(hardware.processes)
    # Nothing is allocated: it only asks whether the settings make a model, of whatever vocabulary.
    with shapes_only():
        data.check_context(build_model(settings, vocab_size=8).block_size)
    return Parts(plan, hardware, data, optimizer, schedule, list(callbacks.values()))
