"""What a network can do beside being trained: declared by it, and asked for by whoever needs it. Nothing is guessed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from molino.base.errors import ConfigError
from molino.models.cache import CacheShape


@dataclass(frozen=True)
class Capabilities:
    """As a network declares it, under `capabilities`.

    Attributes:
        next_token: `forward(tokens_BT)` is the logits of the token after each token, so it can go on with a text.
        both_ways: a token sees those behind it as well: `forward(tokens_BT, seen_BT)` is the logits of the token that
            stands at each place, and `hidden(tokens_BT, seen_BT)` what they are read from; seen_BT leaves padding out.
        segments: it is told which part of its text each token is of, 0 or 1: `hidden(tokens_BT, seen_BT, segments_BT)`.
        source: it writes a target about a source that it has read: `forward(tokens_BT, source_BS, seen_BS)` is the
            logits of the token after each of the target; `encode(source_BS, seen_BS)` reads, `remember` makes of that
            what a decoder looks up, and `decode(tokens_BT, memory, cache) -> hidden_BTC` writes.
        cache: what it keeps of a token in a KVCache, which `forward(tokens_BT, cache)` takes up; None if it takes none.
        attention: it attends by `torch.nn.functional.scaled_dot_product_attention`, where its weights can be caught,
            once a layer; where it writes about a source, twice in each layer of `decode`, first to what is written.
        hidden: width C of `hidden(tokens_BT) -> hidden_BTC`, which `head(hidden_BTC) -> logits_BTV` reads, and further
            heads can; None if it has no such thing.
        depth: how many layers it has, if `hidden(tokens_BT, depth=n)` is what the first n of them make of a text, so
            that `head` can be asked what they know; None if that cannot be told.
        head: name of a parameter (V, C), if `head` is nothing but a product with it.
        beside: `hidden(tokens_BT, beside_BTC=...)` adds what else is known of each token to its embedding.
        tied: names of two parameters that are one, the head's and the table's; None if none are.
        embedding: name of the parameter whose rows stand for tokens (V, C); None if it has none.
        bigrams: name of a parameter whose rows are the logits of what follows a token (V, V); None if it has none.
        positions: tables of positions, (T, C) or (T, D): name of the tensor -> what it is.
        relative: modules that add a number to the score of two tokens, by how far apart they are: name -> what they are
            of. `by_distance(longest)` is the distances that there are, (N,), and what is added by each head, (H, N).
        counts: it looks up n-grams in counts of the training split, which it is given as `tables`, also with tokens of
            before a window, BEFORE of them: `forward(tokens_BT, before_BR=...)`.
        layers: names of its parts from the first to the last that a text passes, tables of tokens and positions first:
            groups of which each is frozen, or learns more slowly, as a whole; empty if it names none.
        formats: architectures of `transformers` that compute the same, for some settings at least; those of
            molino.hub.formats, whose names of weights it has.
    """

    next_token: bool = True
    both_ways: bool = False
    segments: bool = False
    source: bool = False
    cache: CacheShape | None = None
    attention: bool = False
    hidden: int | None = None
    depth: int | None = None
    head: str | None = None
    beside: bool = False
    tied: tuple[str, str] | None = None
    embedding: str | None = None
    bigrams: str | None = None
    positions: Mapping[str, str] = field(default_factory=dict)
    relative: Mapping[str, str] = field(default_factory=dict)
    counts: bool = False
    layers: tuple[tuple[str, ...], ...] = ()
    formats: tuple[str, ...] = ()


NONE = Capabilities(next_token=False)


def capabilities_of(network: nn.Module) -> Capabilities:
    """Return what a network declares; of one that says nothing nothing is expected."""
    return getattr(network, "capabilities", NONE)


def device_of(network: nn.Module) -> torch.device:
    """Return where a network computes; one without parameters does so on the CPU."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def dtype_of(network: nn.Module) -> torch.dtype:
    """Return what the weights of a network are kept in."""
    return next((parameter.dtype for parameter in network.parameters()), torch.float32)


def tensor_of(network: nn.Module, name: str) -> Tensor:
    """Return a tensor that a network's capabilities name: a parameter or a buffer."""
    owner, _, last = name.rpartition(".")
    return getattr(network.get_submodule(owner), last)


def require_next_token(network: nn.Module, what: str) -> None:
    """Refuse a network that cannot go on with a text.

    Args:
        what: whoever needs that.

    Raises:
        ConfigError: it cannot.
    """
    if not capabilities_of(network).next_token:
        raise ConfigError(
            f"{what} needs a language model, and {type(network).__name__} tells no next token: molino predict asks it "
            "what its task tells, evaluate measures it"
        )
