"""The whole held-out split, at the end of a run that takes a share of it in between."""

from collections.abc import Callable
from pathlib import Path

from lightning.pytorch import LightningModule

from molino.base.console import progress
from molino.data.batches import Evaluation
from molino.runs.directory import BEST
from molino.trained.load import load_checkpoint


class WholeSplit:
    """Measures the last weights of a run, and its best ones, on all of the split.

    Args:
        run: the run directory.
        batches: returns the split; of several processes each has its own share.
    """

    def __init__(self, run: Path, batches: Callable[[], Evaluation]):
        self.run, self.batches = run, batches

    def last(self, module: LightningModule) -> dict[str, float]:
        """Return the figures of the weights that the module has, by tag."""
        return self._measure(module, "the whole held-out text")

    def best(self, module: LightningModule) -> dict[str, float]:
        """Return those of `best.ckpt`, by the same tags, but for what is measured beside an average."""
        strategy = module.trainer.strategy
        own = {name: value.clone() for name, value in strategy.lightning_module_state_dict().items()}
        strategy.load_model_state_dict(load_checkpoint(self.run / BEST))
        found = self._measure(module, "the whole held-out text, by best.ckpt")
        strategy.load_model_state_dict({"state_dict": own})
        return {metric.tag: found[metric.tag] for metric in module.task.metrics}

    def _measure(self, module: LightningModule, what: str) -> dict[str, float]:
        batches = self.batches()
        return module.measure(progress(batches, what) if module.trainer.is_global_zero else batches)
