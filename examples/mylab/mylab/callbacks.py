"""A callback of Lightning's."""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class WeightNorm(Callback):
    """Logs the norm of all weights beside each validation.

    Args:
        tag: what it is called.
    """

    def __init__(self, tag: str = "weights/norm"):
        self.tag = tag

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        norm = torch.stack([parameter.detach().norm() for parameter in module.model.parameters()]).norm().item()
        for logger in trainer.loggers:
            logger.log_metrics({self.tag: norm}, step=trainer.global_step)
