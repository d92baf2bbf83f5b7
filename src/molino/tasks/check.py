"""A task of people's own, tried on two examples before anything is written: what it returns is what `Task` says."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from molino.base.errors import ConfigError, MolinoError
from molino.data.batches import Rows, draw_block
from molino.data.examples_drawn import Examples, draw_examples
from molino.data.tokens import TokenizedCorpus
from molino.evaluation.totals import Pairs, measure_all
from molino.models.capabilities import device_of
from molino.runs.measures import HELDOUT, Floor
from molino.tasks.task import Task

EXAMPLES = 2


@torch.no_grad()
def check_task_by_use(task: Task, network: nn.Module, text: TokenizedCorpus, batches: str, block_size: int) -> None:
    """Have a task make a batch of training and one of the held-out split, on the CPU; no random state is changed.

    Raises:
        ConfigError: something that it returns is not what `Task` says.
    """
    name = type(task).__name__
    if not task.parts or not all(isinstance(factor, int | float) for factor in task.parts.values()):
        raise ConfigError(f"{name}.parts must be a dict of the parts of its loss with their factors, not {task.parts}")
    with torch.random.fork_rng(devices=[]):
        batch = _training_batch(task, name, text, batches, block_size)
        if not (isinstance(network, nn.Module) and callable(getattr(network, "loss", None))):
            raise ConfigError(f"{name}.network(model) must be a torch.nn.Module with loss(...), not {_shown(network)}")
        with _explained(f"{name}.loss(network, batch)"):
            losses = task.loss(network, batch)
        _check_losses(task, name, losses)
        with _explained(f"{name}.evaluation(...)"):
            heldout = task.evaluation(text, HELDOUT, block_size, None)
            if not all(hasattr(heldout, each) for each in ("__len__", "__iter__", "describe")):
                raise ConfigError(
                    f"{name}.evaluation(...) must have __len__, __iter__ and describe(), as Evaluation has"
                )
            few = {field: tensor[:EXAMPLES] for field, tensor in next(iter(heldout)).items()}
        with _explained(f"{name}.measure(network, batch)"):
            measured = task.measure(network, few)
        if not (isinstance(measured, Mapping) and all(isinstance(v, Tensor | Pairs) for v in measured.values())):
            raise ConfigError(f"{name}.measure(network, batch) must be a dict of tensors and Pairs")
        call = f"{name}.figures(totals, split)"
        totals = measure_all(task.measure, network, [few], device_of(network))
        # Of two examples a correlation may be undefined that of all of them is not.
        with _explained(call), suppress(ArithmeticError):
            _check_figures(call, task.figures(totals, text.splits[HELDOUT]), [metric.name for metric in task.metrics])


def check_floors(task: Task, floors: Any) -> None:
    """Refuse floors that are none.

    Raises:
        ConfigError: they are not.
    """
    if not isinstance(floors, list) or not all(isinstance(floor, Floor) for floor in floors):
        raise ConfigError(f"{type(task).__name__}.floors(...) must be a list of Floor, empty where there are none")


def _training_batch(
    task: Task, name: str, text: TokenizedCorpus, batches: str, block_size: int
) -> Mapping[str, Tensor]:
    with _explained(f"{name}.draw(...)"):
        draw = task.draw(text, batches, block_size, 0)
        uneven = isinstance(draw, Examples)
        shape = (EXAMPLES,) if uneven else (1, 1, EXAMPLES)
        rows = (draw.take if uneven else draw)(np.arange(EXAMPLES).reshape(shape))
    if not (isinstance(rows, Rows) and all(array.shape[: len(shape)] == shape for array in rows.fields.values())):
        call = "draw(...).take(rows)" if uneven else "draw(...)(rows)"
        raise ConfigError(f"{name}.{call} must be Rows, whose arrays begin with the shape of `rows`")
    if absent := [field for field in task.inputs if field not in rows.fields]:
        raise ConfigError(
            f"{name}.inputs names {absent[0]}, which is no field of its batches: {', '.join(rows.fields)}"
        )
    if unknown := [part for part in rows.counts if part not in task.parts]:
        raise ConfigError(f"{name} counts {unknown[0]}, no part of its loss: {', '.join(task.parts)}")
    share = (task.parts, np.arange(1), 1)
    if uneven:
        (micro_batches,) = draw_examples(draw, draw.order(EXAMPLES), *share).steps()
    else:
        (micro_batches,) = draw_block(draw, *share, EXAMPLES).steps()
    return micro_batches[0].fields


def _check_losses(task: Task, name: str, losses: Any) -> None:
    call = f"{name}.loss(network, batch)"
    if not isinstance(losses, Mapping) or losses.keys() != task.parts.keys():
        raise ConfigError(f"{call} must be a dict of {', '.join(task.parts)}, the parts that it names")
    for part, loss in losses.items():
        if not (isinstance(loss, Tensor) and loss.shape == () and loss.is_floating_point()):
            raise ConfigError(f"{call}: {part} must be a scalar tensor, not {_shown(loss)}")
    with _explained(f"{name}.training_figures(losses)"):
        told = task.training_figures({part: loss.item() for part, loss in losses.items()})
    _check_figures(f"{name}.training_figures(losses)", told, ["loss"], more=task.learnt)


def _check_figures(call: str, figures: Any, names: list[str], more: tuple[str, ...] = ()) -> None:
    if not isinstance(figures, Mapping) or not set(names) <= figures.keys() <= {*names, *more}:
        raise ConfigError(f"{call} must be a dict of {', '.join(names)}, but it is {_shown(figures)}")
    for name, value in figures.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(f"{call}: {name} must be a number, but it is {value!r}")


@contextmanager
def _explained(call: str) -> Iterator[None]:
    try:
        yield
    except MolinoError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{call} fails: {type(error).__name__}: {reason} (debug=traceback shows where)") from error


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a dict of {', '.join(map(str, value))}" if isinstance(value, Mapping) else f"a {type(value).__name__}"
