"""A run that is a trial of a search reports its held-out curve, and ends early where that promises nothing."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from molino.console import say
from molino.errors import ConfigError
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
        self.sweep, self.number, self.curve, self.pruner = run.parent, told["trial"], told["curve"], told["pruner"]
        self.pruned = False
        self._trial: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {"pruned": self.pruned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pruned = state["pruned"]

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        verdict = False
        if trainer.is_global_zero and trainer.global_step < trainer.max_steps:
            trial = self._open()
            if self.curve not in module.val_metrics:
                known = ", ".join(module.val_metrics)
                raise ConfigError(f"hydra.sweeper.objective: {self.curve} is not measured: choose among {known}")
            if trainer.global_step not in trial.study.get_trials(deepcopy=False)[self.number].intermediate_values:
                trial.report(module.val_metrics[self.curve], trainer.global_step)
            verdict = trial.should_prune()
        # All processes of a distributed run stop together.
        if trainer.strategy.broadcast(verdict):
            self.pruned = trainer.should_stop = True
            if trainer.is_global_zero:
                say(f"pruned at step {trainer.global_step}: {self.curve} promises nothing beside the other trials'")

    def _open(self) -> Any:
        if self._trial is None:
            try:
                import optuna

                from molino.search.study import Pruner, storage
            except ImportError as error:
                raise ConfigError('a trial of a search needs Optuna: pip install -e ".[sweep]"') from error
            pruner = Pruner(**self.pruner).build()
            study = optuna.load_study(study_name=self.sweep.name, storage=storage(self.sweep), pruner=pruner)
            self._trial = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[self.number]._trial_id)
        return self._trial


def pruning_of(run: Path) -> list[Callback]:
    """Return the callback of a run that may be pruned; none of any other run."""
    return [Pruning(run)] if (run / TRIAL).is_file() else []


def was_pruned(trainer: Trainer) -> bool:
    """Tell whether a run was stopped by its search."""
    return any(callback.pruned for callback in trainer.callbacks if isinstance(callback, Pruning))
