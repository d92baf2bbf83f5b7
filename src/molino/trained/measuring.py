"""A run on a whole split: exact figures, and what counting achieves there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molino.base.console import progress, say
from molino.base.errors import ConfigError, DataError
from molino.configuration.build import build
from molino.configuration.settings import relocate
from molino.data.corpus import Corpus
from molino.data.text import strings
from molino.data.tokens import prepare_tokens
from molino.evaluation.totals import measure_all
from molino.machine.hardware import Hardware
from molino.runs import directory
from molino.runs.measures import LOOKS, TEST, Floor, Metric
from molino.tasks.floors import count_floors
from molino.trained.load import LoadedRun


def corpus_of(loaded: LoadedRun, data: dict[str, Any] | None, paths: dict[str, Any]) -> Corpus:
    """Return the corpus of a section of data; without one that which a run was trained on, where it lies today."""
    node = data or relocate(loaded.settings, paths)["data"]
    return build(node["corpus"], "data.corpus", Corpus)


def read_texts(loaded: LoadedRun, split: str, paths: dict[str, Any]) -> list[str]:
    """Return the documents of a split of what a run was trained on, whole.

    Raises:
        DataError: there is no such split.
    """
    corpus = corpus_of(loaded, None, paths)
    splits = corpus.read()
    if split not in splits:
        raise DataError(f"{corpus.name} has no {split} split: choose split={', split='.join(splits)}")
    return ["".join(strings(text)) for text in splits[split]]


def record_test(loaded: LoadedRun, figures: dict[str, float]) -> None:
    """Put the figures of its own test split into a run's summary, with the step they are of, and count the looks.

    Who looks often and keeps the best has no test split any more; the number of looks tells.
    """
    if not directory.is_done(loaded.path):
        say("the run has not ended, so these figures are not kept in its summary")
        return
    summary = directory.read_summary(loaded.path)
    told = {f"{TEST}/{name}": value for name, value in figures.items()}
    looks = summary.get(LOOKS, 0) + 1
    directory.write_summary(loaded.path, summary | told | {f"{TEST}/step": loaded.step, LOOKS: looks})


@dataclass(frozen=True)
class Measured:
    """A run on one split.

    Attributes:
        metrics: what was measured.
        figures: that, by name.
        floors: what counting achieves there.
        how: how the split was read, for a table of facts.
        sha256: of the corpus.
    """

    metrics: tuple[Metric, ...]
    figures: dict[str, float]
    floors: list[Floor]
    how: dict[str, str]
    sha256: str


def measure(
    loaded: LoadedRun,
    corpus: Corpus,
    split: str,
    stride: int | None,
    floors: bool,
    hardware: Hardware,
    cache: Path,
    pseudo: bool = False,
) -> Measured:
    """Measure a run on one split of a corpus; see molino.verbs.evaluate.

    Raises:
        ConfigError, DataError: there is no such split, or no figures where each token is hidden in turn.
    """
    if pseudo and not hasattr(loaded.task, "pseudo"):
        raise ConfigError(
            f"pseudo=true hides each token in turn, and {loaded.path.name} fills in no hidden ones: leave it out"
        )
    text = prepare_tokens(corpus, loaded.tokenizer, cache)
    if split not in ("train", "val", "test"):
        raise ConfigError(f"split={split} is unknown: choose train, val or test")
    if split not in text.splits:
        raise DataError(f"{corpus.name} has no {split} split: choose split={', split='.join(text.splits)}")
    task, block_size = loaded.task, loaded.model.block_size
    figures, how = {}, {}
    measuring = [task, task.pseudo()] if pseudo else [task]
    for each in measuring:
        batches = each.evaluation(text, split, block_size, stride)
        with hardware.autocast():
            telling = progress(batches, f"evaluating {corpus.name}")
            totals = measure_all(each.measure, loaded.model, telling, hardware.device)
        figures |= each.figures(totals, text.splits[split])
        how |= batches.describe()
    found = count_floors(task, text, split, block_size) if floors else []
    metrics = tuple(metric for each in measuring for metric in each.metrics)
    return Measured(metrics, figures, found, how, text.sha256)
