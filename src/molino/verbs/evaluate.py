"""molino evaluate: a run's figures on a whole split, exactly, beside what counting alone achieves."""

from pathlib import Path
from typing import Any

from molino.base.console import progress, show_facts
from molino.base.errors import ConfigError, DataError
from molino.configuration.build import build, construct_arguments
from molino.configuration.request import Request
from molino.configuration.settings import relocate
from molino.data.corpus import Corpus
from molino.data.tokens import prepare_tokens
from molino.evaluation.describe import describe_figures, describe_floors
from molino.evaluation.totals import measure_all
from molino.machine.hardware import Hardware
from molino.runs.measures import metric_name
from molino.trained.load import LoadedRun, load


def run(request: Request) -> float:
    """Check the settings and evaluate."""
    settings = dict(request.settings)
    for override in request.overrides:
        if override.lstrip("+~").startswith(("data/tokenizer", "data.tokenizer")):
            raise ConfigError(f"{override} has no use here: a run is evaluated with its own tokenizer")
    # data=... names another corpus; how it would be tokenized and batched in training has no meaning here.
    data = settings.pop("data", None)
    arguments = construct_arguments(evaluate, settings)
    return evaluate(**arguments, corpus=build(data["corpus"], "data.corpus", Corpus) if data else None)


def evaluate(
    run: str | None,
    source: str | None,
    checkpoint: str,
    split: str,
    stride: int | None,
    floors: bool,
    hardware: Hardware,
    paths: dict[str, Any],
    corpus: Corpus | None = None,
) -> float:
    """Print exact figures of a run on one split; return the one that decides, such as the loss.

    Args:
        run, checkpoint: which run, and which of its checkpoints.
        source: in place of a run, a Hugging Face folder or hub id.
        split: `train`, `val` or `test`.
        stride: tokens between the starts of two windows; None for windows that do not overlap.
        floors: count on the training split, for comparison.
        corpus: another corpus than the run's; it is encoded by the run's tokenizer.
    """
    hardware.apply()
    if source and corpus is None:
        raise ConfigError(f"source={source} does not say what text to read: add data=..., such as data=shakespeare")
    loaded = load(run, source, checkpoint, paths["outputs"], hardware.device, hardware.dtype)
    if corpus is None:
        corpus = build(relocate(loaded.settings, paths)["data"]["corpus"], "data.corpus", Corpus)
    text = prepare_tokens(corpus, loaded.tokenizer, Path(paths["cache"]))
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split={split} is unknown: choose train, val or test")
    if split not in text.splits:
        raise DataError(f"{corpus.name} has no {split} split: choose split={', split='.join(text.splits)}")
    task = loaded.task
    batches = task.evaluation(text, split, loaded.model.block_size, stride)
    with hardware.autocast():
        telling = progress(batches, f"evaluating {corpus.name}")
        figures = task.figures(measure_all(task.measure, loaded.model, telling, hardware.device), text.splits[split])
    facts = {
        **_describe_model(loaded, checkpoint),
        "corpus": f"{corpus.name}, {split} split, read whole and in order",
        **batches.describe(),
        **describe_figures(task.metrics, figures),
    }
    if floors:
        found = task.floors(text, split, loaded.model.block_size, Path(paths["cache"]))
        facts |= describe_floors(found, figures)
    show_facts("evaluation", facts)
    return figures[metric_name(task.monitor)]


def _describe_model(loaded: LoadedRun, checkpoint: str) -> dict[str, str]:
    if loaded.step is None:
        return {"source": str(loaded.path)}
    return {"run": f"{loaded.path.name}, {checkpoint} checkpoint, after step {loaded.step:,}"}
