"""A model with a head for examples beside the one for tokens, and both losses by one reading (Radford et al. 2018).

Shapes: B examples, K sequences of each, T time (tokens), C channels, N outputs, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from molino.base.errors import ConfigError
from molino.models import choose, next_token_loss
from molino.models.capabilities import Capabilities, capabilities_of, tensor_of
from molino.models.dropout import Dropout
from molino.models.head import head_loss

INITIAL_STD = 0.02


def last(hidden_BTC: Tensor, ends_B: Tensor) -> Tensor:
    """The state at the last token of each sequence: (B, C)."""
    return hidden_BTC[torch.arange(len(hidden_BTC), device=hidden_BTC.device), ends_B]


def first(hidden_BTC: Tensor, ends_B: Tensor) -> Tensor:
    """The state at the first token of each sequence: (B, C)."""
    return hidden_BTC[:, 0]


def mean(hidden_BTC: Tensor, ends_B: Tensor) -> Tensor:
    """The mean of the states of each sequence: (B, C)."""
    inside_BT1 = (torch.arange(hidden_BTC.shape[1], device=ends_B.device) <= ends_B[:, None])[..., None]
    return (hidden_BTC * inside_BT1).sum(1) / (ends_B[:, None] + 1)


# What the head reads of a sequence. `extract` is a token of its own behind the text, `last` the text's own last one,
# `first` the start token, of which only a model that sees both ways makes something.
POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"extract": last, "mean": mean, "last": last, "first": first}


class WithHead(nn.Module):
    """A model, and a linear head without biases on what it makes of whole sequences.

    Args:
        model: see `molino.models`; it needs hidden states.
        outputs: N, numbers that the head makes of an example; of sequences that each have one, 1.
        each: whether every sequence gets its number, as choices do; else the states of an example's are added up.
        criterion: (logits_BN, wanted) -> loss, a mean over the examples.
        pooling: one of POOLING.
        dropout: probability of dropping a number that the head reads.
        floor: whether what a floor says is added, multiplied by a learned weight; the head then begins at zero.

    Raises ConfigError for a model that the head has nothing to read from.
    """

    def __init__(
        self,
        model: nn.Module,
        outputs: int,
        each: bool,
        criterion: Callable[[Tensor, Tensor], Tensor],
        pooling: str = "extract",
        dropout: float = 0.0,
        floor: bool = False,
    ):
        super().__init__()
        can, name = capabilities_of(model), type(model).__name__
        if can.hidden is None:
            raise ConfigError(
                f"model: {name} has no hidden states for a head to read; choose model=gpt or another that has, or "
                "declare them (capabilities.hidden)"
            )
        self.pool = choose("task.pooling", pooling, POOLING)
        if can.cache is not None and can.cache.numbers_per_token == 0 and pooling != "mean":
            raise ConfigError(f"model: {name} sees one token at a time: add task.pooling=mean")
        if pooling == "first" and not can.both_ways:
            raise ConfigError(f"task.pooling=first: of the first token alone {name} knows nothing; leave it out")
        if not 0 <= dropout < 1:
            raise ConfigError(f"task.dropout={dropout} is out of range: choose from 0 up to, not including, 1")
        self.model, self.each, self.criterion = model, each, criterion
        self.vocab_size, self.block_size = model.vocab_size, model.block_size
        self.capabilities = Capabilities(next_token=False)
        self.drop = Dropout(dropout)
        self.task_head = nn.Linear(can.hidden, outputs, bias=False)
        self.trust = nn.Parameter(torch.ones(())) if floor else None
        nn.init.zeros_(self.task_head.weight) if floor else nn.init.normal_(self.task_head.weight, std=INITIAL_STD)

    def forward(
        self,
        tokens_BKT: Tensor,
        ends_BK: Tensor,
        floor_BN: Tensor | None = None,
        seconds_BK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the logits (B, N), of choices (B, K), and what they were read from: (B * K, T, C).

        Args:
            ends_BK: place of the last token of each sequence; what comes behind it is padding.
            floor_BN: what a floor says of each example, where the network stands on one.
            seconds_BK: where the second text of each begins, for a model that is told; None if there are none.
        """
        B, K, T = tokens_BKT.shape
        tokens_BT, more, places_T = tokens_BKT.flatten(0, 1), (), torch.arange(T, device=ends_BK.device)
        can = capabilities_of(self.model)
        if can.both_ways or can.source:
            more = (places_T <= ends_BK.flatten()[:, None],)
        if can.segments and seconds_BK is not None:
            more += ((places_T >= seconds_BK.flatten()[:, None]).long(),)
        hidden_BTC = self.model.hidden(tokens_BT, *more)
        states_BKC = self.drop(self.pool(hidden_BTC, ends_BK.flatten())).view(B, K, -1)
        logits_BKN = self.task_head(states_BKC).float()
        logits_BN = logits_BKN[..., 0] if self.each else logits_BKN.sum(1)
        return logits_BN if floor_BN is None else logits_BN + self.trust * floor_BN, hidden_BTC

    def loss(
        self,
        tokens_BKT: Tensor,
        ends_BK: Tensor,
        wanted_B: Tensor,
        targets_BKT: Tensor | None = None,
        floor_BN: Tensor | None = None,
        seconds_BK: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of the task and, where there are `targets_BKT`, that of the language model."""
        logits_BN, hidden_BTC = self(tokens_BKT, ends_BK, floor_BN, seconds_BK)
        losses = {"task_loss": self.criterion(logits_BN, wanted_B)}
        if targets_BKT is not None:
            losses["lm_loss"] = self.language_loss(hidden_BTC, targets_BKT.flatten(0, 1))
        return losses

    def language_loss(self, hidden_BTC: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean cross entropy in nats of the next tokens."""
        if (head := capabilities_of(self.model).head) is not None:
            return head_loss(hidden_BTC, tensor_of(self.model, head), targets_BT)
        return next_token_loss(self.model.head(hidden_BTC), targets_BT)
