"""A language model that tells something of examples without having been trained to; see molino.tasks.zero_shot."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from molino.base.errors import ConfigError, DataError
from molino.configuration.build import build
from molino.data.corpus import Corpus
from molino.data.examples import Example
from molino.data.prompt import respelt
from molino.machine.hardware import Hardware
from molino.models.capabilities import require_next_token
from molino.tasks.zero_shot import Probe, measure_probe, probe_of, reader_of
from molino.trained.load import LoadedRun


class Asked(NamedTuple):
    """What is asked: examples of a corpus, those by which a threshold may be chosen, and how."""

    name: str
    examples: Sequence[Example]
    train: Sequence[Example]
    probe: Probe
    words: Mapping[str, str]


def asked_of(
    data: Mapping[str, Any] | None, split: str, template: str | None, words: Mapping[str, str] | None
) -> Asked:
    """Return what is asked of a split of the corpus in a section of data.

    Raises:
        ConfigError: no corpus is named, it has no labels, or it is not known what to ask.
        DataError: there is no such split.
    """
    if data is None:
        raise ConfigError("there is nothing to score: add data=..., such as data=sst2")
    corpus = build(data["corpus"], "data.corpus", Corpus)
    if not hasattr(corpus, "examples"):
        raise ConfigError(f"{corpus.name} is text alone: choose a corpus with labels, such as data=sst2")
    splits = corpus.examples()
    if split not in splits:
        raise DataError(f"{corpus.name} has no {split} split: choose split={', split='.join(splits)}")
    words = {str(name): str(word) for name, word in (words or {}).items()}
    probe = probe_of(splits[split], template, words)
    return Asked(corpus.name, splits[split], splits.get("train", ()), probe, words)


def score_of(loaded: LoadedRun, asked: Asked, hardware: Hardware) -> dict[str, float]:
    """Return what a run comes to; see molino.tasks.zero_shot.measure_probe.

    Raises:
        ConfigError: it is no language model.
    """
    require_next_token(loaded.model, "score")
    reader = reader_of(loaded.model, loaded.tokenizer, loaded.start_id, loaded.prefix)
    # What was typed of it is spelt as the vocabulary knows it; the texts of the corpus are as they are.
    template, *words = respelt([asked.probe.template, *asked.words.values()], loaded.tokenizer, loaded.line_end)
    probe, words = asked.probe._replace(template=template), dict(zip(asked.words, words, strict=True))
    with hardware.autocast():
        return measure_probe(reader, probe, asked.examples, asked.train, words)
