"""molino: an experiment harness for small language models on PyTorch Lightning and Hydra.

    import molino

    run = molino.train(["model=bigram", "data=quijote"])
    print(run.generate("En un lugar"))

docs/python.md tells the rest. What is heavy is imported when it is asked for.
"""

import os
import random
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from molino.base.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    MolinoError,
    NonFiniteError,
    ResourceError,
)  # fmt: skip

if TYPE_CHECKING:
    from molino.api.listing import list_runs
    from molino.api.run import Run, load
    from molino.api.training import train

__all__ = [
    "CheckpointError", "ConfigError", "DataError", "Interrupted", "MolinoError", "NonFiniteError", "ResourceError",
    "Run", "list_runs", "load", "train",
]  # fmt: skip
_HOMES = {"train": "training", "load": "run", "Run": "run", "list_runs": "listing"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'molino' has no attribute {name!r}")
    # What is imported then draws random numbers and sets variables.
    drawn, environment = random.getstate(), dict(os.environ)
    try:
        with warnings.catch_warnings():
            # And wants to draw bars of its own in notebooks.
            warnings.filterwarnings("ignore", "IProgress not found")
            return getattr(import_module(f"molino.api.{_HOMES[name]}"), name)
    finally:
        random.setstate(drawn)
        for added in os.environ.keys() - environment.keys():
            del os.environ[added]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
