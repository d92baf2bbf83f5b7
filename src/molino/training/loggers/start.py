"""The loggers of a run: built, or refused; and what they are told beside metrics, if they have ways to show it.

Beside `log_metrics` a logger may have

- `log_settings(settings, metrics)`: what tells the run from others, once, when it begins
- `log_floors(floors, last_step)`: what a model has to beat, when it is known
- `log_text(tag, text, step)` and `log_figure(tag, figure, step)`: samples and pictures
- `needs`: a package that it cannot do without
"""

import importlib.util
import inspect
from collections.abc import Iterable
from typing import Any

from lightning.pytorch.loggers import Logger

from molino.base.errors import ConfigError, ResourceError
from molino.configuration.build import build
from molino.configuration.door import find_part
from molino.configuration.identity import compared
from molino.runs.measures import Floor, Metric
from molino.training.run import Run

# What stands in for Lightning's own.
INSTEAD = {
    "CSVLogger": "logger=csv",
    "TensorBoardLogger": "logger=tensorboard",
    "MLFlowLogger": "logger=mlflow",
    "WandbLogger": "logger=wandb",
}


def start_loggers(run: Run, metrics: Iterable[Metric], first_step: int) -> list[Logger]:
    """Build the loggers of a run; tell them of one that begins what it is."""
    facts = {"directory": run.path, "first_step": first_step if run.has_history else None}
    loggers = []
    for name, node in run.settings["logger"].items():
        if node:
            given = {fact: facts[fact] for fact in given_to(node, f"logger.{name}")}
            loggers.append(build(node, f"logger.{name}", Logger, **given))
    if not run.exists:
        asked = run.request
        tell(loggers, "log_settings", compared(run.settings, asked.choices, asked.overrides, asked.varied), metrics)
    return loggers


def draw_floors(loggers: Iterable[Logger], floors: Iterable[Floor], max_steps: int) -> None:
    """Draw the floors of a run where its metrics are drawn, if there are some."""
    if floors:
        tell(loggers, "log_floors", floors, max_steps)


def tell(loggers: Iterable[Logger], way: str, *what: Any) -> None:
    """Tell whichever loggers have a way to show it."""
    for logger in loggers:
        if hasattr(logger, way):
            getattr(logger, way)(*what)


def given_to(node: Any, key: str) -> list[str]:
    """Return what a logger is told of the run, beside its settings: where its directory is, and the step it goes on
    from, if its constructor takes them.

    Raises:
        ConfigError: there is no such logger, or it is Lightning's own.
        ResourceError: it needs a package that is not there.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        return []
    target = find_part(node["_target_"], f"{key}._target_", Logger)
    if target.__module__.startswith("lightning."):
        # Settings may be somebody else's, and some of these delete what they find in their folder.
        instead = INSTEAD.get(target.__name__, "a class of your own, see docs/your-own-code.md")
        raise ConfigError(
            f"{key}._target_={node['_target_']} is not taken: Lightning's own loggers write where their settings say, "
            f"not into the run's directory; use {instead}"
        )
    package = getattr(target, "needs", None)
    if package and importlib.util.find_spec(package) is None:
        raise ResourceError(f"{key} needs {package}: pip install {package}")
    return [name for name in ("directory", "first_step") if name in inspect.signature(target).parameters]
