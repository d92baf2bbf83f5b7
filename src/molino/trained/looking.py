"""What a run looks at while it reads a text, or writes a target about it.

Shape suffixes: L layers, H heads, T tokens that look, S tokens that are looked at, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from molino.base.errors import ConfigError, DataError
from molino.data.prompt import encode_prompt, remark_unknown, respelt
from molino.data.tokenizers import Tokenizer
from molino.generation.targets import Writing
from molino.generation.writing import write
from molino.inspection.attention import Attention, read, read_about
from molino.inspection.predictions import label
from molino.models.capabilities import capabilities_of, require_next_token
from molino.models.source_first import SourceFirst
from molino.tasks.holes import with_holes, without_holes
from molino.tasks.pairs import vocabulary_of
from molino.trained.load import LoadedRun


class Looks(NamedTuple):
    """What the tokens of one text look at, in each layer.

    Attributes:
        kind: `attention` where a text looks at itself; where a target is written about a source, `encoder` and
            `decoder` of either one, and `cross` of the target at the source.
        tokens: those that look, T of them, as they are shown.
        seen: those that they look at, S of them.
    """

    kind: str
    layers: list[Attention]
    tokens: list[str]
    seen: list[str]

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
        written: what is written behind each of `ids`, the end last, as it is shown; None where there is no source.
        told: that as a text.
    """

    model: nn.Module
    ids: list[int]
    logits_TV: Tensor
    looks: list[Looks]
    hidden: list[int]
    written: list[str] | None = None
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
    ids, hidden = _ids_of(loaded, text)
    _check_length("text", len(ids), network.block_size)
    logits_TV, layers = read(network, ids)
    shown = _shown(loaded.tokenizer, ids)
    return Looked(network, ids, logits_TV, _there(Looks("attention", layers, shown, shown)), hidden)


def _ids_of(loaded: LoadedRun, text: str) -> tuple[list[int], list[int]]:
    """Return the ids of a text, and which are to be filled, if the run's task knows of such."""
    if not hasattr(loaded.task, "read_hidden"):
        return encode_prompt(text, loaded.tokenizer, loaded.prefix, loaded.line_end), []
    (text,) = respelt([text], loaded.tokenizer, loaded.line_end)
    ids, hidden = loaded.task.read_hidden(loaded.tokenizer, text)
    remark_unknown([without_holes(loaded.tokenizer, text)], loaded.tokenizer)
    return ids, hidden


def _look_at_source(loaded: LoadedRun, text: str, target: str | None) -> Looked:
    network, tokenizer = loaded.model, loaded.tokenizer
    words, room = vocabulary_of(tokenizer, network.vocab_size), network.block_size
    source = _tokens(tokenizer.source, text, loaded.line_end)
    _check_length("text", len(source), room - 1)
    source.append(tokenizer.source.end_of_text_id)
    if target is None:
        ((best, *_),) = write(network, [np.array(source)], Writing(), words)
        written = best.tokens
    else:
        written = _tokens(tokenizer, target, loaded.line_end)
        _check_length("target", len(written), room - 1)
    told = tokenizer.decode(written).strip()
    # One that never ended is as long as the model writes.
    ids, written = [words.start, *written][:room], [*written, words.end][:room]
    names, source_names = _shown(tokenizer, ids), _shown(tokenizer.source, source)
    if isinstance(network, SourceFirst):
        logits_XV, layers = read(network.model, [*source, *ids])
        together = source_names + names
        model, logits_TV = network.model, logits_XV[len(source) :]
        looks = [Looks("attention", layers, together, together)]
    else:
        logits_TV, *kinds = read_about(network, ids, source)
        shown = {"encoder": (source_names, source_names), "decoder": (names, names), "cross": (names, source_names)}
        model, looks = network, [Looks(kind, layers, *shown[kind]) for kind, layers in zip(shown, kinds, strict=True)]
    return Looked(model, ids, logits_TV, _there(*looks), [], _shown(tokenizer, written), told)


def _tokens(tokenizer: Tokenizer, text: str, line_end: str | None) -> list[int]:
    """Return the ids of a source or a target, with remarks as of a prompt."""
    (text,) = respelt([text], tokenizer, line_end)
    remark_unknown([without_holes(tokenizer, text)], tokenizer)
    return with_holes(tokenizer, text)[0]


def _shown(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [label(tokenizer, token) for token in ids]


def _there(*looks: Looks) -> list[Looks]:
    """Return the kinds of which something was caught."""
    return [each for each in looks if each.layers]


def _check_length(what: str, count: int, most: int) -> None:
    if not 0 < count <= most:
        advice = "shorten it" if count else "add some text" if what != "target" else "leave out target="
        raise DataError(f"the {what} has {count} tokens, and the model reads 1 to {most}: {advice}")
