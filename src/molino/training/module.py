"""The LightningModule: blocks of optimizer steps in one tight loop.

A Lightning batch is a block of S consecutive training batches, and `training_step` takes the S optimizer steps by
manual optimization: Lightning's cost per batch (about a millisecond, four times a bigram's step) is paid once a block.
S never changes what is computed. Everything else (logging, validation, checkpoints) happens between blocks.

Shapes: S steps, A micro-batches, B rows, T tokens.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_

from molino.base.errors import ConfigError, NonFiniteError
from molino.data.batches import Block, Step
from molino.data.tokens import Split
from molino.evaluation.totals import Totals
from molino.runs.measures import HELDOUT, learnt_tag, partial_tag, spoken
from molino.tasks.task import Batch, Task
from molino.training.average import PLAIN, Average, measured_aside
from molino.training.optimizers import optimizer_for
from molino.training.seeding import seed_step
from molino.training.sharding import gather, scatter


class TrainingModule(LightningModule):
    """Trains a network for a task.

    Args:
        task: says what is in a batch, what the loss is made of and what is measured; see molino.tasks.task.
        model: the network of the task. It is called so for the names in checkpoints.
        optimizer: a partial that takes parameter groups, such as functools.partial(torch.optim.AdamW, lr=1e-3).
        schedule: a function (step, max_steps) -> factor of the learning rate; see molino.training.schedules.
        max_steps: optimizer steps of the run.
        log_every: steps between two lines of metrics.
        clip: largest gradient norm, or None.
        ema: decay of an average of the weights, which is then what is measured, sampled and kept; see
            molino.training.average.
        partial: what is measured between steps is a share of the split, and is called so where it is logged.
        each_step: go through Lightning's own optimizer, for callbacks that are called at every step.
        seed: decides, with the step, what dropout draws.
        heldout: the split that is measured.
        token_peak: tokens a second at which the device's matrix units would do nothing but this; None where unknown.

    Logs (to every logger) the task's figures of the training loss (mean over the steps since the last time),
    `train/learning_rate`, `train/gradient_norm` (before clipping), `train/tokens_per_second`, where `token_peak` is
    known also `train/mfu`, the share of it, and the task's metrics of the held-out split. With `ema` these are the
    average's, and `val/plain_loss` is that of the weights themselves.

    Raises:
        NonFiniteError: the loss or the gradient is nan or inf at the end of a block.
    """

    def __init__(
        self,
        task: Task,
        model: torch.nn.Module,
        optimizer: functools.partial,
        schedule: Callable[[int, int], float],
        *,
        max_steps: int,
        log_every: int,
        clip: float | None = None,
        ema: float | None = None,
        partial: bool = False,
        each_step: bool = False,
        seed: int = 0,
        heldout: Split | None = None,
        token_peak: float | None = None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.task, self.model, self.make_optimizer, self.schedule = task, model, optimizer, schedule
        self._matrices = {name for name, parameter in model.named_parameters() if parameter.dim() >= 2}
        self.max_steps, self.log_every, self.clip, self.seed = max_steps, log_every, clip, seed
        self.heldout, self.token_peak = heldout, token_peak
        self.ema, self.partial, self.each_step, self.average = ema, partial, each_step, None
        self._averaged: dict[str, torch.Tensor] | None = None  # of the checkpoint that the run goes on from
        self.train_metrics: dict[str, float] = {}
        self.val_metrics: dict[str, float] = {}
        self.losses: dict[str, float] = {}  # those of train_metrics that the task tells
        self._seconds, self._tokens = 0.0, 0
        # Parts of the loss, added up since the last line of metrics, and over how many steps.
        self._sums_P, self._steps = [0.0] * len(task.parts), 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = optimizer_for(self.model, self._matrices, self.make_optimizer)
        # Before a checkpoint brings those that a schedule had made of them.
        self._base_rates = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A run killed after its last step, before its summary was written, has nothing left to compute them by. It may
        # have been stopped before its first line of metrics.
        if "train/tokens_per_second" not in self.train_metrics and self._tokens:
            self._measure_speed()
        since = {"sums": self._sums_P, "steps": self._steps}
        checkpoint["metrics"] = {"train": self.train_metrics, "val": self.val_metrics, "since": since}
        if self.average is not None:
            self.average.put(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        metrics = checkpoint["metrics"]
        self.train_metrics, self.val_metrics = metrics["train"], metrics["val"]
        if "since" in metrics:  # as earlier checkpoints have not
            self._sums_P, self._steps = metrics["since"]["sums"], metrics["since"]["steps"]
        if PLAIN in checkpoint:
            self._averaged, checkpoint["state_dict"] = checkpoint["state_dict"], checkpoint.pop(PLAIN)

    # Training

    def on_train_start(self) -> None:
        strategy, scaler = self.trainer.strategy, getattr(self.trainer.precision_plugin, "scaler", None)
        # The raw path skips Lightning's optimizer wrapper, which costs as much as a bigram's whole step. Strategies
        # that synchronise gradients and the loss scaling of fp16 need their hooks.
        raw = isinstance(strategy, SingleDeviceStrategy) and scaler is None and not self.each_step
        self._take_step = self._raw_step if raw else self._hooked_step
        self._raw_optimizer = self.optimizers(use_pl_optimizer=False)
        self._trained = [p for group in self._raw_optimizer.param_groups for p in group["params"]]
        self._clip_norm = functools.partial(clip_grad_norm_, list(self.model.parameters()))
        if scaler is not None and not getattr(self._raw_optimizer, "_step_supports_amp_scaling", False):
            raise ConfigError(
                "hardware.precision=16-mixed needs optimizer=adamw optimizer.fused=true; or choose bf16-mixed"
            )
        if self.ema is not None:
            self.average = Average(self, self.ema)
            if self._averaged is not None:
                self.average.take(self._averaged)
                self._averaged = None
        self._set_rate(self.trainer.global_step)

    def training_step(self, block: Block, batch_idx: int) -> dict[str, torch.Tensor]:
        """Train on a block; return its mean loss, for callbacks."""
        started = time.perf_counter()
        first, losses = self.trainer.global_step, []
        for s, micro_batches in enumerate(block.steps()):
            self._prepare_step(first + s)
            losses_P, norm = self._take_step(micro_batches, s + 1 == len(block))
            losses += losses_P
            if self.average is not None:
                self.average.update()
        losses_SP = torch.stack(losses).view(len(block), -1)
        self._finish_block(first, losses_SP, norm)
        self._seconds += time.perf_counter() - started
        self._tokens += block.elements(self.task.inputs) * self.trainer.world_size
        if self.trainer.global_step % self.log_every == 0 or self.trainer.global_step >= self.max_steps:
            self._log_training()
        if self.trainer.global_step >= self.max_steps:
            # Lightning validates at multiples of its interval, and when it is asked to stop.
            self.trainer.should_stop = True
        # Callbacks that look at the rate do so before the next step begins.
        self._set_rate(self.trainer.global_step)
        factors = self.task.parts.values()
        return {"loss": sum(loss * factor for loss, factor in zip(losses_SP.mean(0), factors, strict=True))}

    def _prepare_step(self, step: int) -> None:
        """Seed what the step draws by (seed, step) and set its learning rate: a resumed run is the same run."""
        seed_step(self.seed, step, self.trainer.global_rank, self.device)
        self._set_rate(step)

    def _set_rate(self, step: int) -> None:
        if step >= self.max_steps:
            return
        factor = self.schedule(step, self.max_steps)
        for group, rate in zip(self._raw_optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor

    def _raw_step(self, micro_batches: list[Step], last: bool) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        losses_P, _graph = self._learn(micro_batches, torch.Tensor.backward)
        norm = self._clip(last)
        self._raw_optimizer.step()
        for parameter in self._trained:
            parameter.grad = None
        return losses_P, norm

    def _hooked_step(self, micro_batches: list[Step], last: bool) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        optimizer = self.optimizers()
        losses_P, _graph = self._learn(micro_batches, self.manual_backward)
        if (scaler := getattr(self.trainer.precision_plugin, "scaler", None)) is not None:
            scaler.unscale_(self._raw_optimizer)
        self._before_clipping, self._last = True, last
        optimizer.step()
        if self._before_clipping:
            raise ConfigError(f"optimizer: {type(self._raw_optimizer).__name__}.step must call the closure it is given")
        for callback in self.trainer.callbacks:
            callback.on_before_zero_grad(self.trainer, self, self._raw_optimizer)
        optimizer.zero_grad()
        return losses_P, self._norm

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip when callbacks have seen the gradients, as Lightning has it."""
        self._norm, self._before_clipping = self._clip(self._last), False

    def _learn(
        self, micro_batches: list[Step], backward: Callable[[torch.Tensor], None]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Add up the gradients of a step; return the parts of its loss, and the last loss with its graph.

        Whoever takes the step keeps that until it is taken: where memory is given back sooner, what is then handed out
        is so much further apart that steps of a small GPT take 3 % longer (benchmarks/steps.py).
        """
        parts = self.task.parts
        sums: dict[str, torch.Tensor] = {}
        for batch, weights in micro_batches:
            losses, total = self.task.loss(self.model, batch), None
            for name, factor in parts.items():
                # What is multiplied by 1 is an operation less.
                loss = losses[name] if weights[name] == 1.0 else losses[name] * weights[name]
                sums[name] = sums[name] + loss.detach() if name in sums else loss.detach()
                loss = loss if factor == 1.0 else loss * factor
                total = loss if total is None else total + loss
            backward(total)
        return list(sums.values()), total

    def _clip(self, last: bool) -> torch.Tensor | None:
        """Clip the gradients; return their norm, which is computed without clipping only at the end of a block."""
        if self.clip is None and not last:
            return None
        norm = self._clip_norm(math.inf if self.clip is None else self.clip)
        # Of weights that are in pieces over the processes each knows its part.
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _finish_block(self, first: int, losses_SP: torch.Tensor, norm: torch.Tensor) -> None:
        if self._take_step == self._raw_step:
            # Lightning counts the steps of its own optimizer wrapper only.
            progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total
            progress.ready += len(losses_SP)
            progress.completed += len(losses_SP)
        losses_SP = self.trainer.strategy.reduce(losses_SP, reduce_op="mean")
        sums_P, norm = losses_SP.double().sum(0).tolist(), norm.item()
        if not (all(map(math.isfinite, sums_P)) and math.isfinite(norm)):
            bad = (~torch.isfinite(losses_SP)).nonzero()
            what = (
                f"the loss became {losses_SP[tuple(bad[0])].item()}" if len(bad) else f"the gradient norm became {norm}"
            )
            step = first + int(bad[0, 0]) + 1 if len(bad) else first + len(losses_SP)
            raise NonFiniteError(
                f"{what} at step {step}: start a new run with a lower optimizer.lr or with trainer.clip; if this one "
                "has saved anything, it is from before"
            )
        self._steps += len(losses_SP)
        self._sums_P = [before + sum_ for before, sum_ in zip(self._sums_P, sums_P, strict=True)]
        means_P = [sum_ / self._steps for sum_ in self._sums_P]
        figures = self.task.training_figures(dict(zip(self.task.parts, means_P, strict=True)))
        self.losses = {learnt_tag(name): value for name, value in figures.items()}
        self.train_metrics |= {
            **self.losses,
            "train/learning_rate": self._raw_optimizer.param_groups[0]["lr"],
            "train/gradient_norm": norm,
        }

    def _log_training(self) -> None:
        self._measure_speed()
        self._write(self.train_metrics)
        # Not of a line that is there only because the run ends: trained for longer, it goes on to the next.
        if self.trainer.global_step % self.log_every == 0:
            self._sums_P, self._steps = [0.0] * len(self._sums_P), 0

    def _measure_speed(self) -> None:
        """Measure tokens a second since the last time."""
        self.train_metrics["train/tokens_per_second"] = self._tokens / self._seconds
        if self.token_peak is not None:
            self.train_metrics["train/mfu"] = self.train_metrics["train/tokens_per_second"] / self.token_peak
        self._seconds, self._tokens = 0.0, 0

    # Validation: the held-out split, exactly

    def on_validation_start(self) -> None:
        gather(self)
        if self.average is not None:
            self.average.swap()

    def on_validation_end(self) -> None:
        # Callbacks have been called before: what they sample and keep is the average's.
        if self.average is not None:
            self.average.swap()
        scatter(self)

    def on_validation_epoch_start(self) -> None:
        self._totals, self._plain_totals = Totals(), Totals()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        with exactly(self.device):
            self._totals.add(self.task.measure(self.model, batch))
            if self.average is not None:
                with self.average.aside():
                    self._plain_totals.add(self.task.measure(self.model, batch))

    def on_validation_epoch_end(self) -> None:
        self.val_metrics = self._heldout_figures()
        # For callbacks that watch trainer.callback_metrics, such as early stopping; the loggers are written below.
        # Every process has the same values; sync_dist says so to Lightning.
        self.log_dict(self.val_metrics, logger=False, sync_dist=True)
        self._write({partial_tag(tag) if self.partial else tag: value for tag, value in self.val_metrics.items()})

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the figures of these batches by tag, as a validation measures its own."""
        gather(self)
        self.on_validation_epoch_start()
        with self.trainer.precision_plugin.val_step_context():
            for number, batch in enumerate(batches):
                self.validation_step({name: tensor.to(self.device) for name, tensor in batch.items()}, number)
        return self._heldout_figures()

    def end(self, figures: dict[str, float]) -> None:
        """Take these for the held-out figures that the run ends with, and log them."""
        self.val_metrics = figures
        self._write(figures)

    def _heldout_figures(self) -> dict[str, float]:
        self.totals, figures = self._figures(self._totals)
        found = {f"{HELDOUT}/{name}": value for name, value in figures.items()}
        if self.average is not None:
            plain = self._figures(self._plain_totals)[1]
            found |= {metric.tag: plain[name] for name, metric in measured_aside(self.task).items()}
        if not math.isfinite(decides := found[self.task.monitor]):
            raise NonFiniteError(f"the {spoken(self.task.monitor)} became {decides} at step {self.trainer.global_step}")
        return found

    def _figures(self, totals: Totals) -> tuple[dict[str, Any], dict[str, float]]:
        """Return totals over all processes, and the metrics that they amount to."""
        strategy = self.trainer.strategy
        found = totals.over(lambda tensor: strategy.reduce(tensor, reduce_op="sum"), self._gather)
        return found, self.task.figures(found, self.heldout)

    def _gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensors of all processes, one below the other."""
        return self.trainer.strategy.all_gather(tensor).reshape(-1, *tensor.shape)

    def _write(self, metrics: dict[str, float]) -> None:
        for logger in self.trainer.loggers:
            logger.log_metrics(metrics, step=self.trainer.global_step)


def exactly(device: torch.device) -> contextlib.AbstractContextManager:
    """On a CPU, compute in the precision of the weights, so that a later evaluation of them comes out equal."""
    return torch.autocast("cpu", enabled=False) if device.type == "cpu" else contextlib.nullcontext()
