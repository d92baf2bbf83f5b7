"""Further Lightning callbacks, as the `callbacks` section of the configuration names them.

Each does what it does under Lightning's own loop, or is refused by name with what to use instead.
"""

import importlib.util
from collections.abc import Iterable, Mapping

from lightning.pytorch import Callback
from lightning.pytorch import callbacks as lightning

from molino.base.errors import ConfigError, ResourceError
from molino.runs.measures import MAXIMIZE, MINIMIZE, Metric, partial_tag

# What Lightning's callbacks call the direction in which a metric improves.
MODES = {MINIMIZE: "min", MAXIMIZE: "max"}
# What is called at every batch, every backward pass, every step of an optimizer.
EACH_STEP = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
ONE_EPOCH = "counts epochs, and a run of molino is one"
# What cannot keep its promise here, and what does.
INSTEAD = {
    lightning.StochasticWeightAveraging: f"{ONE_EPOCH}: average the weights with trainer.ema=0.999",
    lightning.ModelPruning: f"{ONE_EPOCH}: prune in a callback of your own, on_validation_end",
    lightning.BaseFinetuning: f"{ONE_EPOCH}: let what is below a head learn more slowly with task.layer_decay",
    lightning.GradientAccumulationScheduler: f"{ONE_EPOCH}: set trainer.accumulate, for all of it",
    lightning.BatchSizeFinder: "would train with another data.batch_size than is recorded: try some, -m "
    "data.batch_size=16,32,64",
    lightning.LearningRateFinder: "would train at another optimizer.lr than is recorded: try some, -m "
    "optimizer.lr=3e-4,1e-3,3e-3",
    lightning.Checkpoint: "is not needed: checkpoints, the last and the best, are kept already: set "
    "trainer.checkpoint_every",
    lightning.ProgressBar: "is not needed: molino shows how far a run is",
    lightning.BasePredictionWriter: "writes what Lightning's predict tells: use molino predict",
    lightning.ThroughputMonitor: "needs a function, which no setting is: train/tokens_per_second and train/mfu are "
    "measured already",
    lightning.SpikeDetection: "names batches to leave out, and those of a run follow from its seed: a loss that is no "
    "number ends a run already",
    lightning.LambdaCallback: "needs functions, which no settings are: write a class of your own, see "
    "docs/your-own-code.md",
}  # fmt: skip


def refuse_callback(name: str, kind: type[Callback]) -> None:
    """Refuse a callback that cannot keep its promise.

    Raises:
        ConfigError: it is one; says what to use instead.
        ResourceError: it needs a package that is not there.
    """
    for other, reason in INSTEAD.items():
        if issubclass(kind, other):
            raise ConfigError(f"callbacks.{name}: {kind.__name__} {reason}")
    if issubclass(kind, lightning.DeviceStatsMonitor) and importlib.util.find_spec("psutil") is None:
        raise ResourceError(f"callbacks.{name}: {kind.__name__} needs psutil: pip install psutil")


def asks_each_step(callback: Callback) -> bool:
    """Tell whether a callback is to be called at every step, not at every block of steps.

    One with a true attribute `per_block` has been written for blocks.
    """
    if getattr(callback, "per_block", False):
        return False
    hooks = ((getattr(callback, hook), getattr(Callback, hook)) for hook in EACH_STEP)
    return any(getattr(own, "__func__", None) is not base for own, base in hooks)


def check_callbacks(callbacks: Mapping[str, Callback], metrics: Iterable[Metric]) -> None:
    """Refuse what cannot be a callback of a run.

    Args:
        callbacks: as they were built, by name.
        metrics: of the task; `trainer.callback_metrics` holds them after each validation.

    Raises:
        ConfigError: one cannot keep its promise, watches a metric that does not exist, or takes its worse for its
            better.
        ResourceError: one needs a package that is not there.
    """
    modes = {metric.tag: MODES[metric.direction] for metric in metrics}
    for name, callback in callbacks.items():
        refuse_callback(name, type(callback))
        monitor = getattr(callback, "monitor", None)
        if monitor is None:
            continue
        if whole := next((tag for tag in modes if monitor == partial_tag(tag)), None):
            raise ConfigError(f"callbacks.{name}.monitor={monitor} is {whole} until the end: watch that")
        if monitor not in modes:
            raise ConfigError(f"callbacks.{name}.monitor={monitor} is not measured: choose {', '.join(modes)}")
        if getattr(callback, "mode", modes[monitor]) != modes[monitor]:
            raise ConfigError(
                f"callbacks.{name}.mode={callback.mode} takes the worse {monitor} for the better: set "
                f"callbacks.{name}.mode={modes[monitor]}"
            )
