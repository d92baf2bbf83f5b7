"""Further Lightning callbacks, as the `callbacks` section of the configuration names them."""

from collections.abc import Iterable, Mapping

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint

from molino.base.errors import ConfigError
from molino.runs.measures import MAXIMIZE, MINIMIZE, Metric

# What Lightning's callbacks call the direction in which a metric improves.
MODES = {MINIMIZE: "min", MAXIMIZE: "max"}


def check_callbacks(callbacks: Mapping[str, Callback], metrics: Iterable[Metric]) -> None:
    """Refuse what cannot be a callback of a run.

    Args:
        callbacks: as they were built, by name.
        metrics: of the task; `trainer.callback_metrics` holds them after each validation.

    Raises:
        ConfigError: one watches a metric that does not exist, or takes its worse for its better, or keeps checkpoints,
            which the run does itself.
    """
    modes = {metric.tag: MODES[metric.direction] for metric in metrics}
    for name, callback in callbacks.items():
        if isinstance(callback, Checkpoint):
            raise ConfigError(
                f"callbacks.{name}: checkpoints, the last and the best, are kept already: set trainer.checkpoint_every"
            )
        monitor = getattr(callback, "monitor", None)
        if monitor is None:
            continue
        if monitor not in modes:
            raise ConfigError(f"callbacks.{name}.monitor={monitor} is not measured: choose {', '.join(modes)}")
        if getattr(callback, "mode", modes[monitor]) != modes[monitor]:
            raise ConfigError(
                f"callbacks.{name}.mode={callback.mode} takes the worse {monitor} for the better: set "
                f"callbacks.{name}.mode={modes[monitor]}"
            )
