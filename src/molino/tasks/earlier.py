"""Runs of before there were tasks: all of them language models, which did not say so. Needs no torch."""

from collections.abc import Mapping
from typing import Any

from molino.runs.measures import Measures
from molino.tasks.figures import METRICS, perplexity


def measures(summary: Mapping[str, Any]) -> Measures:
    """Return what such a run measures.

    Args:
        summary: its own; of one that is not done nothing.
    """
    briefs = {"unigram": "unigram", "bigram": "bigram", "ngram": f"{summary.get('floor/ngram_order', 'n')}-gram"}
    floors = {f"floor/{name}": (brief, {"loss": None}) for name, brief in briefs.items()}
    return Measures("val/loss", {metric.name: metric for metric in METRICS}, floors)


def best_of(state: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of the best step from the state of a checkpoint that holds the loss alone."""
    return {"val/loss": state["best_loss"], "val/perplexity": perplexity(state["best_loss"])}
