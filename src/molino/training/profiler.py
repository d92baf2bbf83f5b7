"""A profile of one block of steps: where the time of a run goes."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from molino.base.console import say


class Trace(Callback):
    """Writes `trace.json` (Chrome's trace format) of block number `block` and prints its dearest operations.

    Args:
        block: counted from 0; the first blocks also hold what happens only once.
    """

    per_block = True

    def __init__(self, block: int = 2):
        self.block = block
        self.profile = torch.profiler.profile()

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch, batch_idx: int) -> None:
        if batch_idx == self.block:
            self.profile.start()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_idx: int) -> None:
        if batch_idx == self.block:
            self.profile.stop()
            path = Path(trainer.default_root_dir) / "trace.json"
            self.profile.export_chrome_trace(str(path))
            say(self.profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=12))
            say(f"trace: {path} (open it at ui.perfetto.dev)")
