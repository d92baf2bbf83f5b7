"""Further Lightning callbacks, as the `callbacks` section of the configuration names them."""

from collections.abc import Mapping

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint

from molino.base.errors import ConfigError

# What `trainer.callback_metrics` holds after each validation.
MONITORS = ("val/loss", "val/perplexity", "val/bits_per_character", "val/bits_per_byte")


def check_callbacks(callbacks: Mapping[str, Callback]) -> None:
    """Refuse what cannot be a callback of a run.

    Args:
        callbacks: as they were built, by name.

    Raises:
        ConfigError: one watches a metric that does not exist, or keeps checkpoints, which the run does itself.
    """
    for name, callback in callbacks.items():
        if isinstance(callback, Checkpoint):
            raise ConfigError(
                f"callbacks.{name}: checkpoints, the last and the best, are kept already: set trainer.checkpoint_every"
            )
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in MONITORS:
            raise ConfigError(f"callbacks.{name}.monitor={monitor} is not measured: choose {', '.join(MONITORS)}")
