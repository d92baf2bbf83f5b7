"""molino evaluate: a run's figures on a whole split, exactly, beside what counting alone achieves."""

from pathlib import Path
from typing import Any

from molino.base.console import show_facts
from molino.base.errors import ConfigError
from molino.configuration.build import construct_arguments
from molino.configuration.request import Request
from molino.machine.hardware import Hardware
from molino.models.capabilities import capabilities_of
from molino.runs import directory
from molino.runs.describe import describe_figures, describe_floors
from molino.runs.measures import TEST, metric_name
from molino.trained.load import LoadedRun, load
from molino.trained.measuring import corpus_of, measure, record_test
from molino.trained.predicting import told_to_write


def run(request: Request) -> float:
    """Check the settings and evaluate."""
    settings = dict(request.settings)
    for override in request.overrides:
        if override.lstrip("+~").startswith(("data/tokenizer", "data.tokenizer")):
            raise ConfigError(f"{override} has no use here: a run is evaluated with its own tokenizer")
    # data=... names another corpus; how it would be tokenized and batched in training has no meaning here.
    data = settings.pop("data", None)
    arguments = construct_arguments(evaluate, settings)
    return evaluate(**arguments, data=data)


def evaluate(
    run: str | None,
    source: str | None,
    checkpoint: str,
    split: str,
    stride: int | None,
    floors: bool,
    hardware: Hardware,
    paths: dict[str, Any],
    data: dict[str, Any] | None = None,
    pseudo: bool = False,
    writing: dict | None = None,
) -> float:
    """Print exact figures of a run on one split; return the one that decides, such as the loss.

    Args:
        run, checkpoint: which run, and which of its checkpoints.
        source: in place of a run, a Hugging Face folder or hub id.
        split: `train`, `val` or `test`.
        stride: tokens between the starts of two windows; None for windows that do not overlap.
        floors: count on the training split, for comparison.
        data: a section with another corpus than the run's; it is encoded by the run's tokenizer.
        pseudo: also hide each token in turn, of a run that fills in hidden ones.
        writing: how a run that writes targets is to write them, in place of what its task says; see
            molino.generation.targets.Writing.
    """
    hardware.apply()
    if source and data is None:
        raise ConfigError(f"source={source} does not say what text to read: add data=..., such as data=shakespeare")
    loaded = load(run, source, checkpoint, paths["outputs"], hardware.device, hardware.dtype)
    loaded = told_to_write(loaded, writing or {})
    corpus = corpus_of(loaded, data, paths)
    measured = measure(loaded, corpus, split, stride, floors, hardware, Path(paths["cache"]), pseudo)
    facts = {
        **_describe_model(loaded, checkpoint),
        "corpus": f"{corpus.name}, {split} split, read whole and in order",
        **measured.how,
        **describe_figures(measured.metrics, measured.figures),
        **describe_floors(measured.floors, measured.figures),
    }
    if split == "train" and data is None and capabilities_of(loaded.model).counts:
        facts["counts"] = "made of this very split: its loss tells how well they recite it, not what training saw"
    if (
        data is None
        and directory.is_done(loaded.path)
        and (directory.read_summary(loaded.path).get("corpus_sha256", measured.sha256) != measured.sha256)
    ):
        facts["changed"] = "the corpus is another one than the run was trained on: its files have changed since"
    show_facts("evaluation", facts)
    # What is written otherwise is another figure than the run's.
    own = data is None and not any(value is not None for value in (writing or {}).values())
    if split == TEST and not source and own:
        record_test(loaded, measured.figures)
    return measured.figures[metric_name(loaded.task.monitor)]


def _describe_model(loaded: LoadedRun, checkpoint: str) -> dict[str, str]:
    if loaded.step is None:
        return {"source": str(loaded.path)}
    return {"run": f"{loaded.path.name}, {checkpoint} checkpoint, after step {loaded.step:,}"}
