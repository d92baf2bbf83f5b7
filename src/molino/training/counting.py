"""What a network that stands on counts is given of its training split, and what its run keeps of that."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from molino.base.errors import ConfigError
from molino.data.counts import best_order, count_parts, count_whole, digest_of_counts, load_tables
from molino.data.tokens import TokenizedCorpus
from molino.models.capabilities import capabilities_of
from molino.models.on_counts import OnCounts
from molino.models.with_head import WithHead
from molino.tasks.task import Task
from molino.training.plan import Plan

# Sections that say how steps are taken.
OF_STEPS = ("trainer", "optimizer", "scheduler")
# What of them has its effect without any.
WITHOUT_STEPS = ("trainer.sample_tokens",)


def plan_of(network: nn.Module, plan: Plan, overrides: list[str]) -> Plan:
    """Return the plan by which a network is trained: without steps, where it has no parameters.

    Args:
        overrides: what was typed for this run alone.

    Raises:
        ConfigError: it says how steps are taken of a network that takes none.
    """
    if next(network.parameters(), None) is not None:
        return plan
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] in OF_STEPS and key not in WITHOUT_STEPS:
            name = type(network).__name__
            raise ConfigError(f"{override} has no effect: {name} is trained by counting, without steps; leave it out")
    return plan.without_steps()


def name_of(network: nn.Module) -> str:
    """Return what a person calls a network: `Llama`, `Llama on counts`, `KneserNey of order 6`."""
    if isinstance(network, OnCounts):
        return f"{type(network.model).__name__} on counts"
    if isinstance(network, WithHead):
        return f"{type(network.model).__name__} with a head" + (
            " on a bag of words" if network.trust is not None else ""
        )
    return type(network).__name__ + (f" of order {network.tables.order}" if capabilities_of(network).counts else "")


def stand_on_counts(task: Task, network: nn.Module, text: TokenizedCorpus) -> Path | None:
    """Give a network, or its task, the counts that it asks for; return the file that holds those of the whole training
    split."""
    if hasattr(task, "stand"):
        path = task.stand(text)
        if path is not None:
            task.take(path)
        return path
    if not capabilities_of(network).counts:
        return None
    order = network.order or best_order(text)
    path = count_whole(text, order)
    network.tables = load_tables(path)
    if isinstance(network, OnCounts):
        network.parts = count_parts(text, order)[0]
    return path


@torch.no_grad()
def begin_beside(task: Task, network: nn.Module, trained: Any) -> None:
    """Take over what another network on counts, if both are such, has learnt beside its model; tokens may have come.

    Args:
        task: may have something of its own to take over (`begin`).
        trained: the network of a run, the head of a folder, or None.

    Raises:
        ConfigError: only the other is one.
    """
    if hasattr(task, "begin"):
        task.begin(network, trained)
    if isinstance(trained, OnCounts) and not isinstance(network, OnCounts):
        raise ConfigError("weights= name a run that stands on counting, which would be lost: add task.on_floor=true")
    if not (isinstance(network, OnCounts) and isinstance(trained, OnCounts)):
        return
    own, theirs = dict(network.named_parameters()), dict(trained.named_parameters())
    for name in own.keys() & theirs.keys():
        if not name.startswith("model.") and own[name].dim() == theirs[name].dim():
            shared = tuple(slice(min(pair)) for pair in zip(own[name].shape, theirs[name].shape, strict=True))
            own[name][shared] = theirs[name][shared]


def keep_counts(counts: Path | None, kept: Path) -> None:
    """Put counts, if there are some, into a run, so that it can be moved. They are large, and are there once where the
    disk is the same."""
    if counts is None:
        return
    kept.unlink(missing_ok=True)
    try:
        os.link(counts, kept)
    except OSError:
        shutil.copyfile(counts, kept)


def facts_of(counts: Path | None) -> dict[str, str]:
    """Return what a checkpoint says of the counts that it stands on."""
    return {} if counts is None else {"counts": digest_of_counts(counts)}
