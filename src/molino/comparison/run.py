"""A run as it is to be compared."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molino.configuration import identity
from molino.configuration.identity import canonical
from molino.runs.directory import COUNTS
from molino.runs.measures import LOOKS, LOST, Measures
from molino.runs.status import DONE, Status

LARGEST = sys.float_info.max  # JSON knows larger whole numbers


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        recorded: what it was trained with, nested; empty while nobody has composed it.
        settings: its leaves, as {'model.n_layer': 4, ...}.
        typed: what was typed for it, by key.
        choices: the choice taken of each group, as far as it is known.
        measures: which figures it has, and which of them decides.
        identity: equal of runs that differ in nothing but the seed.
        task: what it was trained to do, by the name of its class.
        corpus, tokenizer: equal of runs whose losses a character, and a token, compare.
        corpus_name: what tables call the corpus.
    """

    path: Path
    status: Status
    recorded: dict[str, Any]
    settings: dict[str, Any]
    typed: dict[str, Any]
    choices: dict[str, Any]
    measures: Measures
    identity: str
    task: str
    corpus: str
    tokenizer: str
    corpus_name: str

    @property
    def done(self) -> bool:
        return self.status.state == DONE

    @property
    def pruned(self) -> bool:
        """Whether a search stopped it early: its figures are those of a shorter run."""
        return self.done and bool(self.status.summary.get("pruned"))

    @property
    def seed(self) -> Any:
        return self.settings.get("seed", self.typed.get("seed"))

    @property
    def batches(self) -> str:
        """Equal of runs that draw the same batches, if they have the same seed."""
        drawn = {key: value for key, value in self.settings.items() if key.startswith("data.")}
        drawn |= {"accumulate": self.settings.get("trainer.accumulate", 1), "corpus": self.corpus}
        return canonical({key: value for key, value in drawn.items() if not is_indifferent(key)})

    @property
    def lost(self) -> dict[str, float]:
        """What its tokens have lost of the held-out text, and how much of it."""
        summary = self.status.summary or {}
        return {
            key.removeprefix(LOST).replace("_", " "): value
            for key, value in summary.items()
            if key.startswith(LOST) and isinstance(value, int | float) and value > 0
        }

    @property
    def counts_inside(self) -> bool:
        """Whether it is counts, or stands on them."""
        return (self.path / COUNTS).is_file() or self.settings.get("task.on_floor") is True

    @property
    def looks(self) -> int:
        """How often its test split was looked at."""
        looks = (self.status.summary or {}).get(LOOKS, 0)
        return looks if isinstance(looks, int) else 0

    @property
    def steps(self) -> tuple[Any, Any]:
        """How many steps it has done, and how many it is to do; None where that is unknown."""
        progress = self.status.progress if isinstance(self.status.progress, dict) else {}
        return progress.get("step"), progress.get("max_steps", self.settings.get("trainer.max_steps"))

    def metric(self, name: str) -> float | None:
        """Return a figure of its summary; None where there is none. What is infinite is written as null."""
        summary = self.status.summary or {}
        value = summary.get(name)
        if value is None and name in summary and (metric := self.measures.metric(name)) and metric.overflows:
            return math.inf
        if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST < value < LARGEST:
            return None if value != math.inf else value
        return value

    def value(self, key: str) -> str | int | float | bool | None:
        """Return a setting or the choice of a group; None where the run has no such thing, 'null' where it is null."""
        if key in self.choices:
            value = self.choices[key]
        elif key in self.settings or key in self.typed:
            value = self.settings.get(key, self.typed.get(key))
            value = "null" if value is None else value
        else:
            return None
        return value if value is None or isinstance(value, str | int | float) else json.dumps(value, default=str)


def is_indifferent(key: str) -> bool:
    """Tell whether a setting makes no other experiment."""
    return key == "seed" or identity.is_indifferent(key)
