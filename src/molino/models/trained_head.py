"""A head for examples by itself, as it is handed from a run to a file and back."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from molino.base.errors import CheckpointError

# Kinds of heads: one class of a text, one of several choices, where an answer begins and ends.
CLASSES, CHOICES, SPANS = "classes", "choices", "spans"


@dataclass(frozen=True)
class Head:
    """A trained head.

    Attributes:
        kind: CLASSES, CHOICES or SPANS.
        names: of the classes; None of others.
        weight: (outputs, C).
        bias: (outputs,); None if it has none.
        sequence: tokens that stand before a text, between two, and behind it.
        pairs: whether it reads two texts.
    """

    kind: str
    names: tuple[str, ...] | None
    weight: Tensor
    pairs: bool = False
    sequence: tuple[Sequence[str], Sequence[str], Sequence[str]] = ((), (), ())
    bias: Tensor | None = None

    def check_width(self, width: int) -> None:
        """Raise CheckpointError unless it reads hidden states of this width."""
        if self.weight.shape[1] != width:
            own = f"the head of these weights reads {self.weight.shape[1]} numbers a token"
            raise CheckpointError(f"{own}, and the model has {width}: they do not belong together")
