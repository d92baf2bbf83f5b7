"""Lightning's Trainer as a run needs it."""

import logging
import signal
import time
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from molino.base.errors import Lost
from molino.base.messages import explain
from molino.machine.cluster import cluster_plugins
from molino.machine.hardware import Hardware
from molino.machine.threads import threads_as_set
from molino.training.checkpoints import AtomicCheckpointIO
from molino.training.plan import Plan
from molino.training.progress import ProgressDisplay, StatusReport
from molino.training.sharding import ShardedStrategy


def make_trainer(
    run: Path, plan: Plan, steps_per_block: int, hardware: Hardware, loggers: list[Logger], callbacks: list[Callback]
) -> Trainer:
    """Return what trains for the steps of a plan.

    Args:
        run: the run directory.
        steps_per_block: optimizer steps that are one batch to Lightning.
        callbacks: beside those that tell how far it is. Checkpoints come last: they save when all else that belongs to
            a step has happened.
    """
    quiet_lightning()
    blocks = -(-plan.max_steps // steps_per_block)
    return Trainer(
        max_epochs=1,
        max_steps=plan.max_steps,
        # In blocks. A validation also follows the last one; see TrainingModule.training_step.
        val_check_interval=min(plan.val_every // steps_per_block, blocks or 1),
        # Else early stopping would wait for the end of the epoch where the interval is 1, which it reads as a fraction.
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        # For callbacks that log; what the run itself measures is logged as it comes.
        log_every_n_steps=plan.log_every // steps_per_block,
        logger=loggers,
        callbacks=[ProgressDisplay(), StatusReport(run), *callbacks],
        plugins=[AtomicCheckpointIO(), *cluster_plugins(hardware.processes)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run,
        **trainer_arguments(hardware),
    )


def trainer_arguments(hardware: Hardware) -> dict[str, Any]:
    """Return what Lightning's Trainer is told of the machine."""
    arguments = hardware.trainer_arguments()
    if hardware.strategy == "fsdp":
        # What is gathered for a validation is used in training after it.
        arguments |= {"strategy": ShardedStrategy(), "inference_mode": False}
    return arguments


PATIENCE = 1.0  # seconds in which the end of a process shows


def fit(trainer: Trainer, module: LightningModule, data: LightningDataModule, checkpoint: Path | None) -> None:
    """Train to the end of the plan. Where that is its beginning Lightning would do nothing, not even look.

    Raises:
        Lost: a process that Lightning has started was ended from outside; the others know only that it is gone.
    """
    try:
        with threads_as_set():
            if trainer.max_steps == 0:
                trainer.validate(module, data, verbose=False)
            else:
                trainer.fit(module, data, ckpt_path=checkpoint)
    except Exception as error:
        if explain(error) is None and (died := _died(trainer)) is not None:
            raise Lost(died, signal.SIGKILL) from error
        raise


def _died(trainer: Trainer) -> str | None:
    """Return which of the processes that Lightning has started was ended by a signal; None where none was."""
    processes = getattr(trainer.strategy.launcher, "procs", [])
    deadline = time.monotonic() + PATIENCE * bool(processes)
    while True:
        for rank, process in enumerate(processes, start=1):
            # Lightning ends the others by SIGTERM.
            if (code := process.poll()) is not None and code < 0 and code != -signal.SIGTERM:
                return f"process {rank} was ended by {signal.Signals(-code).name}"
        if time.monotonic() > deadline:
            return None
        time.sleep(0.05)


def quiet_lightning() -> None:
    """Silence advice that does not apply: its tips, and what it says of loaders that are not DataLoaders."""
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    # All that these say is that a process of the run has died, before it kills the others, and the table that somebody
    # has asked for by callbacks.x._target_=lightning.pytorch.callbacks.ModelSummary.
    for module in ("fabric.strategies.launchers.subprocess_script", "pytorch.callbacks.model_summary"):
        logging.getLogger(f"lightning.{module}").setLevel(logging.INFO)
    for message in (
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*does not have many workers.*",
        r".*is smaller than the logging interval.*",
        r".*dataloader is not resumable.*",
        r".*`srun` command is available.*",
    ):
        warnings.filterwarnings("ignore", message)
