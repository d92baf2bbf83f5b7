"""Search for good settings with Optuna (an optional extra): the space, the study, its trials, the pruning of runs."""

import importlib
from types import ModuleType
from typing import Any

from molino.base.errors import ResourceError


def sweep(*arguments: Any) -> None:
    """Search; see molino.search.optimize.sweep.

    Raises:
        ResourceError: Optuna is not installed.
    """
    with_optuna("optimize", "hydra/sweeper=optuna").sweep(*arguments)


def with_optuna(module: str, who: str) -> ModuleType:
    """Return a module of this room that imports Optuna, for `who` needs it.

    Raises:
        ResourceError: Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ResourceError(f"{who} needs Optuna: pip install optuna") from error
    return importlib.import_module(f"molino.search.{module}")
