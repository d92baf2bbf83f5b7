"""What a person sees while a run trains: a bar on a terminal, plain lines elsewhere; and what other processes see."""

import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from molino.base.console import SECONDS_BETWEEN_LINES, Line, console, say
from molino.runs.measures import LEARNT, partial_tag
from molino.runs.status import update

SECONDS_BETWEEN_REPORTS = 1.0


class ProgressDisplay(Callback):
    """Shows step, loss and what follows from it, tokens/s and the time left; a line for every validation.

    In a notebook all of it is one line that is written over.
    """

    def __init__(self):
        self.bar: Progress | None = None
        self.line = Line()
        self._last_line = 0.0
        self._heldout = ""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._started, self._first_step = time.perf_counter(), trainer.global_step
        if not (trainer.is_global_zero and console.is_terminal):
            return
        self.bar = Progress(
            TextColumn("step {task.completed:>{task.fields[width]}}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        width = len(str(trainer.max_steps))
        self.task = self.bar.add_task(
            "", total=trainer.max_steps, completed=trainer.global_step, metrics="", width=width
        )
        self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step, metrics=_describe(module))
        elif console.is_jupyter and trainer.is_global_zero:
            self.line.show(f"{self._at(trainer)} | {_describe(module)}{self._heldout} | {self._left(trainer)}")
        elif self._line_due(trainer):
            self._say(trainer, f"{_describe(module)} | {self._left(trainer)}")

    def on_validation_batch_end(self, trainer: Trainer, module: LightningModule, outputs, batch, batch_idx: int, *_):
        text = f"held-out text: {(batch_idx + 1) / trainer.num_val_batches[0]:.0%}"
        if self.bar is not None:
            self.bar.update(self.task, metrics=text)
        elif console.is_jupyter and trainer.is_global_zero:
            self.line.show(f"{self._at(trainer)} | {text}")
        elif self._line_due(trainer):
            self._say(trainer, text)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            told = (m for m in module.task.metrics if m.shown or m.tag == module.task.monitor)
            shown = {metric.name: module.val_metrics[metric.tag] for metric in told}
            told = f"held-out{' (first windows)' if module.partial else ''} {_told(shown)}"
            if console.is_jupyter:
                self._heldout = f" | {told}"
                self.line.show(f"{self._at(trainer)}{self._heldout}", at_once=True)
            else:
                self._say(trainer, told)

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
        self.line.end()

    def _line_due(self, trainer: Trainer) -> bool:
        due = trainer.is_global_zero and time.perf_counter() - self._last_line > SECONDS_BETWEEN_LINES
        if due:
            self._last_line = time.perf_counter()
        return due

    def _say(self, trainer: Trainer, text: str) -> None:
        say(f"{self._at(trainer)} | {text}")

    def _at(self, trainer: Trainer) -> str:
        width = len(str(trainer.max_steps))
        return f"step {trainer.global_step:>{width}}/{trainer.max_steps}"

    def _left(self, trainer: Trainer) -> str:
        done, spent = trainer.global_step - self._first_step, time.perf_counter() - self._started
        return f"{(trainer.max_steps - trainer.global_step) / done * spent:.0f} s left"


class StatusReport(Callback):
    """Writes into the run's status how far it is, for whoever watches it from another process.

    Args:
        run: the run directory.
    """

    def __init__(self, run: Path):
        self.run = run
        self._last = self._started = time.perf_counter()
        self._first_step = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._started, self._first_step = time.perf_counter(), trainer.global_step
        self._write(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_) -> None:
        if time.perf_counter() - self._last > SECONDS_BETWEEN_REPORTS:
            self._write(trainer, module)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._write(trainer, module)

    def _write(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._last = time.perf_counter()
        progress = {"step": trainer.global_step, "max_steps": trainer.max_steps}
        if done := trainer.global_step - self._first_step:
            left = (trainer.max_steps - trainer.global_step) * (self._last - self._started) / done
            progress["seconds_left"] = round(left, 1)
        monitor = module.task.monitor
        shown = partial_tag(monitor) if module.partial else monitor
        for metrics, tag, called in ((module.train_metrics, LEARNT, LEARNT), (module.val_metrics, monitor, shown)):
            progress |= {called: metrics[tag]} if tag in metrics else {}
        if rate := module.train_metrics.get("train/tokens_per_second"):
            progress["tokens_per_second"] = round(rate)
        update(self.run, progress=progress)


def _describe(module: LightningModule) -> str:
    text = _told({tag.removeprefix("train/"): value for tag, value in module.losses.items()})
    rate = module.train_metrics.get("train/tokens_per_second")
    return text if rate is None else f"{text} | {rate:,.0f} tokens/s"


def _told(figures: dict[str, float]) -> str:
    """Return figures in a line: what is 10 or more with two digits after the point, the others with four."""
    return " ".join(
        f"{name.replace('_', ' ')} {value:.{2 if abs(value) >= 10 else 4}f}" for name, value in figures.items()
    )
