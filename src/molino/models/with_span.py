"""A model with a head that tells where an answer begins and ends in what was read (Devlin et al. 2019, section 4.2).

Shapes: B windows, T time (tokens), C channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molino.base.errors import ConfigError
from molino.models.capabilities import Capabilities, capabilities_of
from molino.models.with_head import INITIAL_STD

WIDTHS = (0, 2, 5, 10, 20)  # tokens on either side of one in which common tokens are counted


class InCommon(nn.Module):
    """What the tokens that a question and its context share tell of each token, as something beside its embedding: (B,
    T) -> (B, T, C). It begins at zero.

    Of each token of the context: how much stands within WIDTHS of it that the question holds as well (an exact match,
    Chen et al. 2017), each by how rare it is in the context: 1 of one that occurs once, near 0 of one that is
    everywhere.

    Args:
        width: C.
    """

    def __init__(self, width: int):
        super().__init__()
        self.matrix = nn.Linear(len(WIDTHS), width, bias=False)
        nn.init.zeros_(self.matrix.weight)

    def forward(self, tokens_BT: Tensor, begins_B: Tensor, ends_B: Tensor) -> Tensor:
        return self.matrix(shared_with_question(tokens_BT, begins_B, ends_B).to(self.matrix.weight.dtype))


def shared_with_question(tokens_BT: Tensor, begins_B: Tensor, ends_B: Tensor) -> Tensor:
    """Return what `InCommon` reads, (B, T, W): zeros outside of the context, and for the whole of it within W."""
    T = tokens_BT.shape[1]
    places_T = torch.arange(T, device=tokens_BT.device)
    asked_BT = (places_T >= 1) & (places_T < begins_B[:, None] - 1)
    context_BT = (places_T >= begins_B[:, None]) & (places_T < ends_B[:, None])
    same_BTT = tokens_BT[:, :, None] == tokens_BT[:, None, :]
    count_BT = (same_BTT & context_BT[:, None]).sum(-1).clamp(min=1)
    rare_BT = 1 - count_BT.log() / (context_BT.sum(-1, keepdim=True) + 1).log()
    shared_BT = torch.where(context_BT & (same_BTT & asked_BT[:, None]).any(-1), rare_BT, 0.0)
    before_BT = F.pad(shared_BT.cumsum(-1), (1, 0))
    sums = [
        before_BT[:, (places_T + width + 1).clamp(max=T)] - before_BT[:, (places_T - width).clamp(min=0)]
        for width in WIDTHS
    ]
    return torch.stack(sums, dim=-1) * context_BT[..., None]


class WithSpan(nn.Module):
    """A model, and a linear head that gives each token two scores: that an answer begins there, and that it ends there.

    A window is a question and a part of a context. Only tokens of the context can be the answer, and the first token of
    all, which stands for none. A model that sees one way knows no more of an answer's beginning than what has been read
    by then; of its end it knows the whole answer.

    Args:
        model: see `molino.models`; it needs hidden states, and has to see more than one token at a time.
        in_common: whether it is told what question and context have in common, see `InCommon`.

    Raises ConfigError for a model that the head has nothing to read from.
    """

    def __init__(self, model: nn.Module, in_common: bool = False):
        super().__init__()
        can, name = capabilities_of(model), type(model).__name__
        if can.hidden is None:
            raise ConfigError(
                f"model: {name} has no hidden states for a head to read; choose model=bert or another that has, or "
                "declare them (capabilities.hidden)"
            )
        if can.cache is not None and can.cache.numbers_per_token == 0:
            raise ConfigError(f"model: {name} sees one token at a time, and no question beside it: choose model=bert")
        if in_common and not can.beside:
            raise ConfigError(
                f"task.in_common=true: {name} takes nothing beside its tokens; choose model=bert or another that does "
                "(capabilities.beside), or task.in_common=false"
            )
        self.model = model
        self.in_common = InCommon(can.hidden) if in_common else None
        self.vocab_size, self.block_size = model.vocab_size, model.block_size
        self.capabilities = Capabilities(next_token=False)
        self.span_head = nn.Linear(can.hidden, 2)
        nn.init.normal_(self.span_head.weight, std=INITIAL_STD)
        nn.init.zeros_(self.span_head.bias)

    def forward(self, tokens_BT: Tensor, begins_B: Tensor, ends_B: Tensor) -> Tensor:
        """Return log-probabilities of beginnings and ends (B, 2, T), -inf where no answer can be.

        Args:
            begins_B: the place of the first token of each context.
            ends_B: the place behind the last one, where one more token stands; what comes behind that is padding.
        """
        can, places_T = capabilities_of(self.model), torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        more = (places_T <= ends_B[:, None],) if can.both_ways or can.source else ()
        if can.segments:
            more += ((places_T >= begins_B[:, None]).long(),)
        beside = {} if self.in_common is None else {"beside_BTC": self.in_common(tokens_BT, begins_B, ends_B)}
        logits_B2T = self.span_head(self.model.hidden(tokens_BT, *more, **beside)).float().transpose(1, 2)
        possible_BT = (places_T >= begins_B[:, None]) & (places_T < ends_B[:, None]) | (places_T == 0)
        return logits_B2T.masked_fill(~possible_BT[:, None], -torch.inf).log_softmax(-1)

    def loss(self, tokens_BT: Tensor, begins_B: Tensor, ends_B: Tensor, answers_B2: Tensor) -> Tensor:
        """Return the mean cross entropy in nats of the first and the last token of answers, the mean of the two.

        Args:
            answers_B2: their places, 0 and 0 where a window holds no answer.
        """
        log_p_B2T = self(tokens_BT, begins_B, ends_B)
        return F.nll_loss(log_p_B2T.flatten(0, 1), answers_B2.flatten())


def best_spans(log_p_B2T: Tensor, begins_B: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Return of each window the likeliest first and last token (B, 2) of up to `longest`, and the logarithm of their
    probability (B,): that of the beginning times that of the end.

    The first of all tokens, which stands for no answer, is never one. Of equally likely spans the shortest is taken, of
    these the first. Where there is no context the logarithm is -inf.
    """
    context_BT = torch.arange(log_p_B2T.shape[2], device=begins_B.device) >= begins_B[:, None]
    begin_BT, end_BT = log_p_B2T.masked_fill(~context_BT[:, None], -torch.inf).double().unbind(1)
    T = begin_BT.shape[1]
    best_B = begin_BT.new_full((len(begin_BT),), -torch.inf)
    span_B2 = begins_B.new_zeros((len(begin_BT), 2))
    for more in range(min(longest, T)):
        found_B, first_B = (begin_BT[:, : T - more] + end_BT[:, more:]).max(1)
        better_B = found_B > best_B
        best_B = torch.where(better_B, found_B, best_B)
        span_B2 = torch.where(better_B[:, None], torch.stack([first_B, first_B + more], 1), span_B2)
    return span_B2, best_B
