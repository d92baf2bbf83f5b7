"""What a run looks at while it reads a text, or writes a target about it.

Shape suffixes: L layers, H heads, T tokens that look, S tokens that are looked at, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from molino.base.errors import ConfigError, DataError
from molino.data.prompt import encode_prompt
from molino.generation.targets import Writing
from molino.generation.writing import write
from molino.inspection.attention import Attention, read, read_about
from molino.models.capabilities import capabilities_of, require_next_token
from molino.models.source_first import SourceFirst
from molino.tasks.pairs import vocabulary_of
from molino.trained.load import LoadedRun


class Looks(NamedTuple):
    """What the tokens of one text look at, in each layer.

    Attributes:
        name: `attention` where a text looks at itself; where a target is written about a source, `encoder` and
            `decoder` of either one, and `cross` of the target at the source.
        tokens: the ids that look, T of them.
        seen: the ids that they look at, S of them.
    """

    name: str
    layers: list[Attention]
    tokens: list[int]
    seen: list[int]

    def weights(self) -> Tensor:
        """Return (L, H, T, S): rows sum to 1."""
        return torch.stack([layer.weights() for layer in self.layers])


@dataclass(frozen=True)
class Looked:
    """What came of it.

    Attributes:
        model: what read: inside a network that reads a source as the beginning of its target, the model.
        ids: the text, or the target with the token that it begins with.
        logits_TV: of what follows each of `ids`; where tokens see both ways, of what stands in its place.
        looks: of each kind; empty where there is no attention to look at.
        hidden: places of `ids` that are to be filled.
        written: what is written behind each of `ids`, the end last; None where there is no source.
        told: that as a text.
    """

    model: nn.Module
    ids: list[int]
    logits_TV: Tensor
    looks: list[Looks]
    hidden: list[int]
    written: list[int] | None = None
    told: str | None = None


def look(loaded: LoadedRun, who: str, text: str, target: str | None = None) -> Looked:
    """Have a run read a text, or a source of which it writes a target.

    Args:
        who: asks, for messages.
        target: in place of what the run itself writes, the likeliest token each time.

    Raises:
        ConfigError: it neither goes on with texts, nor sees both ways, nor writes about a source; or it does not, and
            there is a target.
        DataError: there are no tokens, or more than it reads.
    """
    network = loaded.model
    can = capabilities_of(network)
    if can.source or isinstance(network, SourceFirst):
        return _look_at_source(loaded, text, target)
    if not can.both_ways:
        require_next_token(network, who)
    if target is not None:
        raise ConfigError(
            f"target={target!r} is for a model that writes about a source, which this is not: leave it out"
        )
    ids, hidden = _read_hidden(loaded, text)
    _check_length("text", len(ids) - len(loaded.prefix), network.block_size - len(loaded.prefix))
    logits_TV, layers = read(network, ids)
    return Looked(network, ids, logits_TV, _kinds(attention=(layers, ids, ids)), hidden)


def _read_hidden(loaded: LoadedRun, text: str) -> tuple[list[int], list[int]]:
    """Return the ids of a text, and which are to be filled, if the run's task knows of such."""
    if hasattr(loaded.task, "read_hidden"):
        ids, hidden = loaded.task.read_hidden(loaded.tokenizer, text)
        if hidden:
            return ids, hidden
    return encode_prompt(text, loaded.tokenizer, loaded.prefix), []


def _look_at_source(loaded: LoadedRun, text: str, target: str | None) -> Looked:
    network, tokenizer = loaded.model, loaded.tokenizer
    words, room = vocabulary_of(tokenizer), network.block_size
    source = encode_prompt(text, tokenizer, ())
    _check_length("text", len(source), room - 1)
    source.append(words.end)
    if target is None:
        ((best, *_),) = write(network, [np.array(source)], Writing(), words)
        written = best.tokens
    else:
        written = encode_prompt(target, tokenizer, ())
        _check_length("target", len(written), room - 1)
    told = tokenizer.decode(written).strip()
    # One that never ended is as long as the model writes.
    ids, written = [words.start, *written][:room], [*written, words.end][:room]
    if isinstance(network, SourceFirst):
        together = [*source, *ids]
        logits_XV, layers = read(network.model, together)
        looks = _kinds(attention=(layers, together, together))
        return Looked(network.model, ids, logits_XV[len(source) :], looks, [], written, told)
    logits_TV, encoder, decoder, cross = read_about(network, ids, source)
    looks = _kinds(encoder=(encoder, source, source), decoder=(decoder, ids, ids), cross=(cross, ids, source))
    return Looked(network, ids, logits_TV, looks, [], written, told)


def _kinds(**kinds: tuple[list[Attention], list[int], list[int]]) -> list[Looks]:
    return [Looks(name, *each) for name, each in kinds.items() if each[0]]


def _check_length(what: str, count: int, most: int) -> None:
    if not 0 < count <= most:
        raise DataError(f"the {what} has {count} tokens, and the model reads 1 to {most}")
