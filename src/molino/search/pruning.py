"""A run that is a trial of a search reports its held-out curve, and ends early where that promises nothing."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from molino.base.console import say
from molino.base.errors import CheckpointError, MolinoError
from molino.runs.measures import Metric
from molino.search import with_optuna
from molino.search.trial import TRIAL, read_trial


class Pruning(Callback):
    """Reports each validation to the study in the sweep's directory and stops the run when the study says so.

    Args:
        run: the run directory, in which the sweep has left `trial.json`.

    Attributes:
        pruned: whether the run was stopped; a resumed run remembers.
    """

    def __init__(self, run: Path):
        told = read_trial(run)
        self.run, self.sweep = run, run.parent
        self.number, self.curve, self.pruner = told["trial"], told["curve"], told["pruner"]
        self.pruned = False
        self._trial: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"pruned": self.pruned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pruned = state["pruned"]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._open()  # what is missing shows before anything is trained

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        verdict = False
        if trainer.is_global_zero and trainer.global_step < trainer.max_steps:
            verdict = self._report(trainer.global_step, module.val_metrics[self.curve])
        # All processes of a distributed run stop together.
        if trainer.strategy.broadcast(verdict):
            self.pruned = trainer.should_stop = True
            if trainer.is_global_zero:
                say(f"pruned at step {trainer.global_step}: {self.curve} promises nothing beside the other trials'")

    def _report(self, step: int, value: float) -> bool:
        """Report a validation, unless an earlier process of the run has; return whether the run had better stop."""
        trial = self._open()
        known = trial.study.get_trials(deepcopy=False)[self.number]
        # Told of already, as of a run that failed: whoever goes on with it alone wants it trained to its end.
        if known.state.is_finished():
            return False
        if step not in known.intermediate_values:
            trial.report(value, step)
        # Pruners judge by the last step there is. What was not pruned there was not pruned before.
        return step >= max(known.intermediate_values, default=step) and trial.should_prune()

    def _open(self) -> Any:
        if self._trial is None:
            study = with_optuna("study", "a trial of a search")
            try:
                self._trial = study.load_trial(self.sweep, self.number, study.Pruner(**self.pruner))
            except (MolinoError, TypeError, IndexError) as error:
                raise CheckpointError(
                    f"{self.run / TRIAL} names a trial that is not to be found ({error}): delete it to train without "
                    "pruning"
                ) from error
        return self._trial


def pruning_of(run: Path, metrics: Iterable[Metric]) -> list[Callback]:
    """Return the callback of a run that may be pruned; none of any other run.

    Args:
        metrics: what it measures at each validation.

    Raises:
        CheckpointError: it is to be pruned by something else.
    """
    if not (run / TRIAL).is_file():
        return []
    pruning = Pruning(run)
    if pruning.curve not in {metric.tag for metric in metrics}:
        raise CheckpointError(
            f"{run / TRIAL} has the run pruned by {pruning.curve}, which it does not measure: delete it to train "
            "without pruning"
        )
    return [pruning]


def verdict(trainer: Trainer) -> dict[str, bool]:
    """Return what the summary of a run says of its search: that it was stopped, or nothing."""
    pruned = any(callback.pruned for callback in trainer.callbacks if isinstance(callback, Pruning))
    return {"pruned": True} if pruned else {}
