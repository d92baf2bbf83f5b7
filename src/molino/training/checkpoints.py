"""Checkpoints that are whole or absent, written when nothing of a step is pending.

`checkpoints/last.ckpt` every N steps, at the end and on a signal; `checkpoints/best.ckpt` whenever the monitor of the
task is the best so far. They hold plain Python values and tensors, so that `weights_only=True` loads them.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer

from molino.base.errors import CheckpointError, ConfigError, Interrupted
from molino.base.files import atomic_write, remove_orphans
from molino.base.processes import is_main_process
from molino.runs.directory import BEST, LAST
from molino.runs.measures import MAXIMIZE
from molino.tasks import earlier
from molino.tasks.task import Task
from molino.trained.load import load_checkpoint
from molino.training.whole import WholeSplit

# USR1 and USR2 are what clusters send before a job's time is up, as `sbatch --signal` has it.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target, syncs and renames; verifies checksums before it loads, and never unpickles code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        with atomic_write(Path(path), hint="; an earlier checkpoint is untouched") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                # A write that fails makes torch's archive writer stumble over itself; the first error tells why.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise

    def load_checkpoint(self, path: str, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return load_checkpoint(Path(path), map_location)

    def remove_checkpoint(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)


class Checkpoints(Callback):
    """Saves `last` and `best`, and stops cleanly on SIGTERM, SIGINT, SIGUSR1 and SIGUSR2.

    Args:
        run: the run directory.
        every: optimizer steps between two saves of `last`.
        facts: plain values kept with the weights: where a text starts, which text the model was trained on.
        validation_due: tells whether a validation follows the block that ended at a step. A checkpoint of that step
            is written after it, so that a resumed run neither repeats nor misses one.
        started: when this process took up the run, by time.perf_counter.
        whole: measures the whole held-out split when the run ends, where validations take a share of it.
        again: what goes on with the run, for whoever has stopped it.

    Attributes:
        best: the held-out figures of the best step so far, by tag.
        best_step: which that is.

    Raises:
        Interrupted: a signal came; the block was finished and a checkpoint saved. A second signal ends at once, and
            one that comes when nothing is left to train changes nothing.
    """

    def __init__(
        self,
        run: Path,
        every: int,
        facts: dict[str, Any],
        validation_due: Callable[[int], bool],
        started: float,
        whole: WholeSplit | None = None,
        again: str = "resume=",
    ):
        self.again = again
        self.run, self.every, self.facts, self.validation_due = run, every, facts, validation_due
        self.whole = whole
        self.best: dict[str, float] = {}
        self.best_step = 0
        self.stopped = False
        self.signal: int | None = None
        self._started, self._seconds_before = started, 0.0

    @property
    def seconds(self) -> float:
        """How long the run has taken, over all processes that went on with it."""
        return self._seconds_before + time.perf_counter() - self._started

    def state_dict(self) -> dict[str, Any]:
        best = {"best": self.best, "best_step": self.best_step}
        return {**best, "stopped": self.stopped, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"] if "best" in state else earlier.best_of(state)
        self.best_step = state["best_step"]
        self.stopped, self._seconds_before = state["stopped"], state["seconds"]

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint |= self.facts

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            remove_orphans(self.run / "checkpoints")
        # A run that was stopped early, and killed before its summary was written, has nothing left to train.
        trainer.should_stop = self.stopped
        if threading.current_thread() is not threading.main_thread():
            return  # where Python takes no handlers
        # Set here, after Lightning has set its own, which exit with status 0 on SIGTERM and save nothing. In the end
        # Lightning restores all handlers of before the run; to restore any here would leave its own, and so the model.
        for number in SIGNALS:
            signal.signal(number, self._note)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        # Lightning validates also when it is asked to stop.
        if not (self.validation_due(trainer.global_step) or trainer.should_stop):
            self._between_blocks(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.stopped = trainer.should_stop
        if is_better(module.val_metrics, self.best, module.task):
            self.best, self.best_step = dict(module.val_metrics), trainer.global_step
            trainer.save_checkpoint(self.run / BEST)
        if self.whole is not None and (trainer.should_stop or trainer.max_steps == 0):
            module.end(self.whole.last(module))
            self.best = dict(module.val_metrics)
            if self.best_step != trainer.global_step:
                self.best = self.whole.best(module)
        for logger in trainer.loggers:
            logger.log_metrics({"seconds": self.seconds}, step=trainer.global_step)
        self._between_blocks(trainer)

    def _between_blocks(self, trainer: Trainer) -> None:
        step = trainer.global_step
        # Ranks of a distributed run may be signalled at different moments; they must agree before they save.
        signalled = torch.tensor(float(self.signal or 0), device=trainer.strategy.root_device)
        stop = trainer.strategy.reduce(signalled, reduce_op="max").item()
        if stop or step % self.every == 0 or trainer.should_stop:
            # What is logged up to here must be as safe as the checkpoint that will not log it again.
            for logger in trainer.loggers:
                logger.save()
            trainer.save_checkpoint(self.run / LAST)
        if stop and not trainer.should_stop:
            name = signal.Signals(int(stop)).name
            raise Interrupted(f"{name} after step {step}: saved; go on with {self.again}", int(stop))

    def _note(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        if is_main_process():
            os.write(2, b"\nfinishing the block of steps and saving; once more ends at once\n")


def is_better(figures: Mapping[str, float], best: Mapping[str, float], task: Task) -> bool:
    """Tell whether the monitor of a task is better than at the best step so far, of which nothing may be known."""
    if task.monitor not in best:
        return True
    new, old = figures[task.monitor], best[task.monitor]
    return new > old if task.direction == MAXIMIZE else new < old


def resume_step(checkpoint: Path | None, data: str, max_steps: int, continued: bool = False) -> int:
    """Return the step a checkpoint stands at; 0 without one.

    Args:
        data: digest of the tokens that are there now.
        continued: it is that of a finished run, which is to be trained for longer.

    Raises:
        CheckpointError: it was trained on others, or is from beyond the end of the run.
        ConfigError: there is no step left to continue with.
    """
    if checkpoint is None:
        return 0
    content = load_checkpoint(checkpoint)
    if content.get("data") != data:
        raise CheckpointError(
            f"{checkpoint} was trained on a text or with a tokenizer that has changed since: bring that back, or start "
            "a new run"
        )
    if continued and content["global_step"] >= max_steps:
        raise ConfigError(
            f"{checkpoint.parent.parent.name} has trained for {content['global_step']:,} steps already, and "
            f"{max_steps:,} are no more: say how many with trainer.max_steps, or trainer.epochs"
        )
    if content["global_step"] > max_steps:
        raise CheckpointError(
            f"{checkpoint} stands at step {content['global_step']}, but trainer.max_steps={max_steps}: config.yaml was "
            "changed; start a new run"
        )
    return content["global_step"]
