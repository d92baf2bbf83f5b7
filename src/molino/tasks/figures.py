"""The figures of a language model, known without torch."""

import math

from molino.runs.measures import Metric

METRICS = (
    Metric("loss", unit="nats a token", per_token=True),
    Metric("perplexity", per_token=True, overflows=True),
    Metric("bits_per_character", shown=False),
    Metric("bits_per_byte", shown=False, across=True),
)


def perplexity(loss: float) -> float:
    """exp(loss); inf where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf
