"""Heads of tasks on examples: from weights that a run begins from, and for the formats of transformers."""

from torch import nn

from molino.base.errors import ConfigError
from molino.models.trained_head import CHOICES, CLASSES, Head
from molino.models.with_head import WithHead
from molino.tasks.sequences import DELIMITER, EXTRACT, START


def refuse_unexportable(kind: str, pooling: str, both_orders: bool, on_floor: bool) -> None:
    """Refuse what no class of transformers computes.

    Raises:
        ConfigError: as above; names the reason.
    """
    reasons = {
        "task.pooling=mean": pooling == "mean",
        "both orders of a pair": both_orders,
        "a score": kind == "similarity",
        "a bag of words": on_floor,
    }
    if found := [reason for reason, there in reasons.items() if there]:
        raise ConfigError(f"{found[0]} has no counterpart in transformers")


def head_of(network: WithHead, pooling: str, pairs: bool) -> Head:
    """Return the head of a network, with the tokens that stand around what it reads."""
    marks = ((), (DELIMITER,), ()) if pooling == "last" else ((START,), (DELIMITER,), (EXTRACT,))
    kind = CHOICES if network.each else CLASSES
    return Head(kind, network.names, network.task_head.weight, pairs, marks)


def take_head(network: WithHead, trained: nn.Module | Head | None, forget: bool) -> None:
    """Give a network the head that another one, or a folder, has for the same classes, whatever their order.

    Args:
        trained: nothing is taken of what has no such head.
        forget: nothing is taken of a head, whatever it is for.

    Raises:
        ConfigError: it is a head for other classes, or there is none to forget.
    """
    if forget:
        if not isinstance(trained, WithHead | Head):
            raise ConfigError("task.new_head=true: there is no head to forget; leave it out")
        return
    if isinstance(trained, WithHead):
        trained = head_of(trained, "last", False)
    if not isinstance(trained, Head):
        return
    own, theirs = network.names, trained.names
    if network.each != (trained.kind == CHOICES) or set(own or ()) != set(theirs or ()):
        told = [", ".join(each) if each else "no classes" for each in (theirs, own)]
        raise ConfigError(
            f"weights= come with a head for {told[0]}, and this task has {told[1]}: add task.new_head=true"
        )
    trained.check_width(network.task_head.weight.shape[1])
    order = range(len(trained.weight)) if own is None else [theirs.index(name) for name in own]
    network.task_head.weight.data.copy_(trained.weight.detach()[list(order)])
