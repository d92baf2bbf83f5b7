"""Where metrics go: into the run directory, exact after a resume; and to MLflow and Weights & Biases, where asked."""

from molino.training.loggers.metrics_file import MetricsFile
from molino.training.loggers.mlflow import MLflow
from molino.training.loggers.tensorboard import TensorBoard
from molino.training.loggers.wandb import WeightsAndBiases

__all__ = ["MLflow", "MetricsFile", "TensorBoard", "WeightsAndBiases"]
