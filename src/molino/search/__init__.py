"""Search for good settings with Optuna (an optional extra): the space, the study, its trials, the pruning of runs."""

from typing import Any

from molino.base.errors import ResourceError


def sweep(*arguments: Any) -> None:
    """Search; see molino.search.optimize.sweep.

    Raises:
        ResourceError: Optuna is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ResourceError('hydra/sweeper=optuna needs Optuna: pip install -e ".[sweep]"') from error
    from molino.search import optimize

    optimize.sweep(*arguments)
