"""Further Lightning callbacks, as the `callbacks` section of the configuration names them."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint

from molino.base.errors import ConfigError
from molino.configuration.build import build

# What `trainer.callback_metrics` holds after each validation.
MONITORS = ("val/loss", "val/perplexity", "val/bits_per_character", "val/bits_per_byte")


def build_callbacks(nodes: Mapping[str, Any]) -> list[Callback]:
    """Build the callbacks that are not null.

    Raises:
        ConfigError: one cannot be built, is none, watches a metric that does not exist, or keeps checkpoints, which
            the run does itself.
    """
    callbacks = []
    for name, node in nodes.items():
        if node is None:
            continue
        callback = build(node, f"callbacks.{name}")
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks.{name} is a {type(callback).__name__}, which is no Lightning callback")
        if isinstance(callback, Checkpoint):
            raise ConfigError(
                f"callbacks.{name}: checkpoints, the last and the best, are kept already: set trainer.checkpoint_every"
            )
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in MONITORS:
            raise ConfigError(f"callbacks.{name}.monitor={monitor} is not measured: choose {', '.join(MONITORS)}")
        callbacks.append(callback)
    return callbacks
