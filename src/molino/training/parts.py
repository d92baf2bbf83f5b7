"""What a run is made of: built from its settings and checked, before there is a text, a model or a directory."""

import functools
import inspect
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer

from molino.base.errors import ConfigError
from molino.configuration.build import bind, build, check_node
from molino.configuration.door import find_part
from molino.data.corpus import Corpus
from molino.data.module import TextDataModule
from molino.machine.hardware import Hardware
from molino.models.shapes import shapes_only
from molino.tasks.task import Task
from molino.trained.building import build_model, build_task, check_model
from molino.training.callbacks import asks_each_step, check_callbacks, refuse_callback
from molino.training.loggers.start import given_to
from molino.training.muon import Muon
from molino.training.optimizers import GIVEN, check_optimizer
from molino.training.plan import Plan
from molino.training.schedules import Schedule, check_schedule
from molino.training.zero_shot import zero_shot_corpora

# What batches follow from beside the section of data.
OF_RUN = ("accumulate", "steps_per_block", "seed", "task", "val_windows")


@dataclass(frozen=True)
class Parts:
    """Parts of a run. The optimizer and the schedule wait for a model.

    Attributes:
        callbacks: those of the configuration, by name.
        each_step: names of those that are to be called at every step; then a block is a step.
        asked: labelled corpora that a language model is asked about.
    """

    task: Task
    plan: Plan
    hardware: Hardware
    data: TextDataModule
    optimizer: functools.partial
    schedule: functools.partial
    callbacks: dict[str, Callback]
    each_step: list[str]
    asked: dict[str, Corpus]


def build_parts(settings: dict[str, Any]) -> Parts:
    """Build and check whatever needs no text, so that most mistakes show before anything is downloaded.

    Raises:
        ConfigError: a part cannot be built, or does not go with another.
        ResourceError: the machine lacks what is asked for.
    """
    nodes = {name: node for name, node in settings["callbacks"].items() if node is not None}
    # Before any is built: one that is refused has not been preceded by others.
    _check_nodes(settings, nodes)
    task = build_task(settings)
    callbacks = {name: build(node, f"callbacks.{name}", Callback) for name, node in nodes.items()}
    hardware = build(settings["hardware"], "hardware", Hardware)
    plan = build(settings["trainer"], "trainer", Plan)
    optimizer = bind(settings["optimizer"], "optimizer", Optimizer, GIVEN)
    schedule = build(settings["scheduler"], "scheduler", Schedule)
    each_step = [name for name, callback in callbacks.items() if asks_each_step(callback)]
    of_run = (plan.accumulate, 1 if each_step else plan.steps_per_block, settings["seed"], task, plan.val_windows)
    data = build(settings["data"], "data", TextDataModule, **dict(zip(OF_RUN, of_run, strict=True)))
    asked = zero_shot_corpora(settings.get("zero_shot"), settings.get("paths", {}))
    check_callbacks(callbacks, task.metrics)
    check_optimizer(optimizer)
    check_schedule(schedule, max(plan.max_steps, 1))
    data.check_processes(hardware.processes)
    _check_together(plan, hardware, optimizer, callbacks)
    # Nothing is allocated: it only asks whether the settings make a model, of whatever vocabulary.
    with shapes_only():
        data.check_context(build_model(settings, vocab_size=8).block_size)
    return Parts(task, plan, hardware, data, optimizer, schedule, callbacks, each_step, asked)


def for_elsewhere(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of which all parts can be built that do not ask for what this machine has not got: another one is
    to train with them.

    Raises:
        ConfigError: the settings of the hardware are none.
    """
    check_node(settings["hardware"], "hardware", Hardware)
    here = {"accelerator": "cpu", "precision": "auto", "compile": "auto"}
    return settings | {"hardware": settings["hardware"] | here}


def _check_together(
    plan: Plan, hardware: Hardware, optimizer: functools.partial, callbacks: dict[str, Callback]
) -> None:
    """Refuse what each is right by itself."""
    if hardware.strategy == "fsdp" and plan.ema is not None:
        raise ConfigError(f"trainer.ema={plan.ema} needs whole weights in each process: choose hardware=ddp")
    if hardware.strategy == "fsdp" and optimizer.func is Muon:
        raise ConfigError("optimizer=muon trains whole matrices, which hardware=fsdp cuts into pieces: choose adamw")
    for name in (name for name, callback in callbacks.items() if isinstance(callback, WeightAveraging)):
        if plan.ema is not None:
            raise ConfigError(f"callbacks.{name} and trainer.ema={plan.ema} both average the weights: give one")
        if plan.val_windows is not None:
            # It gives the weights back before the end of a run measures them.
            raise ConfigError(f"callbacks.{name} does not go with trainer.val_windows: average by trainer.ema=0.999")


def _check_nodes(settings: dict[str, Any], callbacks: dict[str, Any]) -> None:
    for name, node in settings["logger"].items():
        if node:
            check_node(node, f"logger.{name}", Logger, given_to(node, f"logger.{name}"))
    for name, node in callbacks.items():
        _check_callback(name, node)
    check_node(settings["task"], "task", Task)
    check_node(settings["hardware"], "hardware", Hardware)
    check_node(settings["trainer"], "trainer", Plan)
    check_node(settings["optimizer"], "optimizer", Optimizer, GIVEN, later=True)
    check_node(settings["scheduler"], "scheduler", Schedule)
    check_node(settings["data"], "data", TextDataModule, OF_RUN)
    check_model(settings)


def _check_callback(name: str, node: Any) -> None:
    key = f"callbacks.{name}"
    if isinstance(node, dict) and "_target_" in node:
        # What is wrong with what is said comes first. What is missing would be of no use to one that is refused.
        kind = find_part(node["_target_"], f"{key}._target_", Callback)
        check_node(node, key, Callback, [each for each in inspect.signature(kind).parameters if each not in node])
        refuse_callback(name, kind)
    check_node(node, key, Callback)
