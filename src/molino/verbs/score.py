"""molino score: what a language model tells of examples that it was never trained to tell."""

from typing import Any

from molino.base.console import show_facts
from molino.base.errors import ConfigError, DataError
from molino.configuration.build import build, construct_arguments
from molino.configuration.request import Request
from molino.data.corpus import Corpus
from molino.machine.hardware import Hardware
from molino.models.capabilities import require_next_token
from molino.tasks.zero_shot import measure_probe, probe_of, reader_of, told
from molino.trained.load import load


def run(request: Request) -> float:
    """Check the settings and score."""
    settings = dict(request.settings)
    data = settings.pop("data", None)
    return score(**construct_arguments(score, settings), data=data)


def score(
    run: str | None,
    source: str | None,
    checkpoint: str,
    split: str,
    template: str | None,
    words: dict | None,
    hardware: Hardware,
    paths: dict[str, Any],
    data: dict[str, Any] | None = None,
) -> float:
    """Print how well a language model tells the classes, or the right choices, of examples; return its accuracy, of
    acceptability the Matthews correlation.

    Args:
        template, words: how classes are asked for; see molino.tasks.zero_shot.
        data: the section that names the corpus.

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
    hardware.apply()
    loaded = load(run, source, checkpoint, paths["outputs"], hardware.device, hardware.dtype)
    require_next_token(loaded.model, "score")
    reader = reader_of(loaded.model, loaded.tokenizer, loaded.start_id, loaded.prefix)
    with hardware.autocast():
        found = measure_probe(reader, probe, splits[split], splits.get("train", ()), words)
    asked = {"words": f"the likeliest of {probe.template!r}", "choices": "the likeliest answer"}
    facts = {
        "run" if loaded.step is not None else "source": loaded.path.name,
        "corpus": f"{corpus.name}, {split} split",
        "asked": asked.get(probe.how, "whether a sentence is likely enough"),
    }
    show_facts("zero-shot", facts | told(found))
    return found.get("matthews", found["accuracy"])
