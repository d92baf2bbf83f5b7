"""What the settings of a run, or of a folder, name: a task, its model, and the network of both."""

import inspect
from pathlib import Path
from typing import Any

import torch

from molino.base.errors import CheckpointError, ConfigError
from molino.configuration.build import build, check_node
from molino.configuration.door import find_callable
from molino.configuration.settings import with_task
from molino.data.counts import load_tables
from molino.models.capabilities import Capabilities, capabilities_of
from molino.models.model import MODEL
from molino.runs.measures import check_monitor
from molino.tasks.task import Task

SOURCE_VOCABULARY = "source_vocab_size"  # of a model whose sources have a vocabulary of their own


def build_model(settings: dict[str, Any], vocab_size: int, source_vocab_size: int | None = None) -> torch.nn.Module:
    """Build the model of a configuration for a tokenizer of this size, and one of its sources if they have their own.

    A model whose weights were trained elsewhere has a `vocab_size` of its own. One that does not say how long a text it
    reads, or of how many tokens, reads what it is trained on.
    """
    check_model(settings)
    node, own = settings["model"], settings["model"].get("vocab_size")
    if own is not None:
        # Tokens that a task has added are rows of their own, where there are none to spare.
        check_vocabulary(vocab_size - len(getattr(find_task(settings), "tokens", ())), own)
        node = node | {"vocab_size": max(own, vocab_size)}
    given = {} if own else {"vocab_size": vocab_size}
    if source_vocab_size is not None:
        if SOURCE_VOCABULARY not in inspect.signature(find_callable(node["_target_"], "model._target_")).parameters:
            raise ConfigError(
                "data.joint_vocabulary=false needs a model that has a table for sources, such as model=transformer "
                "model.share_tables=false: leave it out, or choose that"
            )
        given[SOURCE_VOCABULARY] = source_vocab_size
        node = {name: value for name, value in node.items() if name != SOURCE_VOCABULARY}
    model = build(node, "model", MODEL, **given)
    if not hasattr(model, "vocab_size"):
        model.vocab_size = vocab_size
    if not hasattr(model, "block_size"):
        model.block_size = _trained_length(settings)
    if not hasattr(model, "capabilities"):
        model.capabilities = Capabilities()
    return model


def build_network(task: Task, model: torch.nn.Module) -> torch.nn.Module:
    """Return what a task trains: it reads what its model reads.

    Raises:
        ConfigError: the task makes nothing of this model.
    """
    try:
        network = task.network(model)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{type(task).__name__}.network(model) fails for {type(model).__name__}: {reason}") from error
    for name in ("vocab_size", "block_size"):
        if not hasattr(network, name):
            setattr(network, name, getattr(model, name))
    return network


def build_task(settings: dict[str, Any]) -> Task:
    """Build the task of a configuration; of one of before there were tasks, language modelling.

    Raises:
        ConfigError: it is no task, or its monitor is not measured.
    """
    node = with_task(settings)["task"]
    task = build(node, "task", Task)
    check_monitor(task.monitor, task.direction, task.metrics)
    if task.monitor != node.get("monitor", task.monitor):
        raise ConfigError(
            f"task.monitor={node['monitor']} is not taken up by {type(task).__name__}: it keeps {task.monitor}"
        )
    return task


def find_task(settings: dict[str, Any]) -> type:
    """Return the class of a configuration's task, which need not be built."""
    return find_callable(with_task(settings)["task"].get("_target_"), "task._target_")


def _trained_length(settings: dict[str, Any]) -> int:
    data = settings.get("data")
    length = data.get("block_size") if isinstance(data, dict) else None
    if not isinstance(length, int) or length < 1:
        raise CheckpointError(f"the run's config.yaml is damaged: data.block_size={length} is no length of a text")
    return length


def check_model(settings: dict[str, Any]) -> None:
    """Check what `build_model` builds, without building it."""
    given = () if settings["model"].get("vocab_size") is not None else ("vocab_size",)
    check_node(settings["model"], "model", MODEL, given)


def give_counts(task: Task, network: torch.nn.Module, counts: Path) -> None:
    """Give a network, or its task, the file of counts that it stands on.

    Raises:
        DataError: it is damaged.
    """
    if capabilities_of(network).counts:
        network.tables = load_tables(counts)
    elif hasattr(task, "take"):
        task.take(counts)


def check_vocabulary(tokens: int, rows: int) -> None:
    """Refuse a tokenizer with more tokens than a model has rows. (Many models have some rows to spare.)"""
    if tokens > rows:
        raise CheckpointError(
            f"the tokenizer has {tokens:,} tokens, but the model only knows {rows:,}: they do not belong together"
        )
