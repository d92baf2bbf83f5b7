"""What a model expects after every token of a text.

Shape suffixes: T time (tokens), V vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from molino.base.errors import DataError
from molino.data.tokenizers import Tokenizer
from molino.models.capabilities import device_of
from molino.models.on_counts import OnCounts


@dataclass(frozen=True)
class Prediction:
    """One place of a text.

    Attributes:
        token: the id that stands there.
        probability: what the model gave it, knowing what precedes; None for the first, which nothing precedes.
        likeliest: the most probable tokens after it and their probabilities, the likeliest first.
    """

    token: int
    probability: float | None
    likeliest: list[tuple[int, float]]


def predict(ids: list[int], logits_TV: Tensor, top: int) -> Iterator[Prediction]:
    """Yield a prediction for each of `ids`, T of them.

    Args:
        logits_TV: row t scores the token after ids[t].
        top: how many of the likeliest; all where the vocabulary has fewer.
    """
    probabilities_TV = torch.softmax(logits_TV.float(), dim=-1)
    best = probabilities_TV.topk(min(top, probabilities_TV.shape[1]))
    read_T1 = torch.tensor(ids[1:], dtype=torch.long)[:, None]
    before = [None, *probabilities_TV[:-1].gather(1, read_T1)[:, 0].tolist()]
    for token, own, values, indices in zip(ids, before, best.values.tolist(), best.indices.tolist(), strict=True):
        yield Prediction(token, own, list(zip(indices, values, strict=True)))


def read_counts(network: nn.Module, ids: list[int]) -> Tensor | None:
    """Return what counting alone says after each token, log-probabilities (T, V), of a network that stands on it."""
    if not isinstance(network, OnCounts):
        return None
    return network.tables.read(torch.tensor([ids], device=device_of(network)))[0].cpu()


def label(tokenizer: Tokenizer, token: int) -> str:
    """Return the text of a token in quotes, with `\\n` and the like written out.

    A token that is no text by itself (some bytes of a character, the space of a word) appears as the vocabulary has
    it, and a row of the model that is no token by its number.
    """
    try:
        name = tokenizer.token(token)
    except DataError:
        return f"<row {token}>"
    text = tokenizer.decode([token])
    if name.startswith("▁"):  # a SentencePiece word: decoded alone it would lose its space
        text = name.replace("▁", " ")
    return repr(name if not text or "\ufffd" in text else text)


def table(predictions: list[Prediction], tokenizer: Tokenizer) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table that shows `predictions`."""
    header = ["", "token", "its probability", "likeliest next"]
    header += [f"{number}." for number in range(2, len(predictions[0].likeliest) + 1)]
    rows = []
    for place, prediction in enumerate(predictions):
        own = "" if prediction.probability is None else percent(prediction.probability)
        after = [f"{label(tokenizer, token)} {percent(value):>6}" for token, value in prediction.likeliest]
        rows.append([str(place), label(tokenizer, prediction.token), own, *after])
    return header, rows


def table_beside(
    predictions: list[Prediction], counted: list[Prediction], tokenizer: Tokenizer
) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table that shows what `predictions` add to those of counting."""
    header = ["", "token", "by counting", "by the network", "gained", "likeliest by counting", "by the network"]
    rows = []
    for place, (one, other) in enumerate(zip(counted, predictions, strict=True)):
        own = ["", "", ""]
        if one.probability is not None:
            gained = math.log(other.probability / one.probability) if one.probability and other.probability else 0.0
            own = [percent(one.probability), percent(other.probability), f"{gained:+.2f} nats"]
        first = [f"{label(tokenizer, each.likeliest[0][0])} {percent(each.likeliest[0][1])}" for each in (one, other)]
        rows.append([str(place), label(tokenizer, one.token), *own, *first])
    return header, rows


def percent(probability: float) -> str:
    """Return a probability as it is read most easily; what would round to nothing keeps a digit."""
    return f"{probability:.1%}" if probability >= 0.0005 or probability == 0 else f"{probability:.0e}"
