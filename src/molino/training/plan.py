"""How long a run is and how often it looks up: the `trainer` section of the configuration."""

import math
from dataclasses import dataclass, replace

from molino.base.errors import ConfigError

MOST_STEPS = 2**32  # as in settings, whatever they are counted from


@dataclass(frozen=True)
class Plan:
    """Counts of optimizer steps, checked.

    Attributes:
        max_steps: length of the run; 0 measures and samples what has not been trained.
        epochs: its length in epochs, in place of `max_steps`.
        flops: its length in operations, in place of both: networks of unlike shapes are so trained with equal compute.
        log_every, val_every, checkpoint_every: between two lines of metrics, validations, checkpoints.
        accumulate: micro-batches a step.
        clip: largest norm of all gradients together, or None.
        ema: decay of an average of the weights, or None.
        val_windows: validations take the first so many windows of the held-out text; None for all of it. The whole of
            it is measured at the end.
        sample_tokens: length of the text sampled at each validation, 0 for none.
    """

    max_steps: int
    log_every: int
    val_every: int
    checkpoint_every: int
    accumulate: int = 1
    clip: float | None = None
    sample_tokens: int = 200
    epochs: float | None = None
    flops: float | None = None
    ema: float | None = None
    val_windows: int | None = None

    def __post_init__(self):
        for name in ("log_every", "val_every", "checkpoint_every", "accumulate", "val_windows"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"trainer.{name}={getattr(self, name)} must be at least 1")
        if self.max_steps < 0:
            raise ConfigError(f"trainer.max_steps={self.max_steps} must be at least 0")
        if self.max_steps > MOST_STEPS:
            lengths = "trainer.max_steps, trainer.epochs or trainer.flops"
            raise ConfigError(f"a run of {self.max_steps:,} steps does not end: lower {lengths}")
        if self.epochs is not None and not 0 <= self.epochs < math.inf:
            raise ConfigError(f"trainer.epochs={self.epochs} must be 0 or more")
        if self.flops is not None and not 0 <= self.flops < math.inf:
            raise ConfigError(f"trainer.flops={self.flops} must be 0 or more, such as 1e14")
        if self.epochs is not None and self.flops is not None:
            raise ConfigError(f"trainer.epochs={self.epochs} and trainer.flops={self.flops} are two lengths: give one")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"trainer.clip={self.clip} must be above 0; null turns clipping off")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise ConfigError(f"trainer.ema={self.ema} must be from 0 up to, not including, 1, such as 0.999")
        if self.sample_tokens < 0:
            raise ConfigError(f"trainer.sample_tokens={self.sample_tokens} must be at least 0")

    def validation_due(self, step: int) -> bool:
        """Tell whether a validation follows the block that ends at `step`."""
        return step % self.val_every == 0 or step >= self.max_steps

    def without_steps(self) -> "Plan":
        """Return the plan of a model that takes none."""
        return replace(self, max_steps=0, epochs=None, flops=None)

    def settle(self, steps_per_epoch: float, flops_per_step: float) -> "Plan":
        """Return the plan with its length in steps."""
        if self.flops is not None:
            return replace(self, max_steps=math.ceil(self.flops / max(flops_per_step, 1)))
        return self if self.epochs is None else replace(self, max_steps=math.ceil(self.epochs * steps_per_epoch))

    @property
    def settled(self) -> dict[str, int]:
        """What `settle` decides, by the names of the settings."""
        return {"max_steps": self.max_steps}

    @property
    def steps_per_block(self) -> int:
        """Steps trained in one go: the largest number that divides all three intervals."""
        return math.gcd(self.log_every, self.val_every, self.checkpoint_every)
