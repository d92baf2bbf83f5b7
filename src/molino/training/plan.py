"""How long a run is and how often it looks up: the `trainer` section of the configuration."""

import math
from dataclasses import dataclass

from molino.base.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """Counts of optimizer steps, checked.

    Attributes:
        max_steps: length of the run.
        log_every, val_every, checkpoint_every: between two lines of metrics, validations, checkpoints.
        accumulate: micro-batches a step.
        clip: largest norm of all gradients together, or None.
        sample_tokens: length of the text sampled at each validation, 0 for none.
    """

    max_steps: int
    log_every: int
    val_every: int
    checkpoint_every: int
    accumulate: int = 1
    clip: float | None = None
    sample_tokens: int = 200

    def __post_init__(self):
        for name in ("max_steps", "log_every", "val_every", "checkpoint_every", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"trainer.{name}={getattr(self, name)} must be at least 1")
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"trainer.clip={self.clip} must be above 0; null turns clipping off")
        if self.sample_tokens < 0:
            raise ConfigError(f"trainer.sample_tokens={self.sample_tokens} must be at least 0")

    def validation_due(self, step: int) -> bool:
        """Tell whether a validation follows the block that ends at `step`."""
        return step % self.val_every == 0 or step >= self.max_steps

    @property
    def steps_per_block(self) -> int:
        """Steps trained in one go: the largest number that divides all three intervals."""
        return math.gcd(self.log_every, self.val_every, self.checkpoint_every)
