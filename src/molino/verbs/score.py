"""molino score: what a language model tells of examples that it was never trained to tell."""

from typing import Any

from molino.base.console import show_facts
from molino.configuration.build import construct_arguments
from molino.configuration.request import Request
from molino.machine.hardware import Hardware
from molino.tasks.zero_shot import told
from molino.trained.load import load
from molino.trained.scoring import asked_of, score_of


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
    asked = asked_of(data, split, template, words)
    hardware.apply()
    loaded = load(run, source, checkpoint, paths["outputs"], hardware.device, hardware.dtype)
    found = score_of(loaded, asked, hardware)
    how = {"words": f"the likeliest of {asked.probe.template!r}", "choices": "the likeliest answer"}
    facts = {
        "run" if loaded.step is not None else "source": loaded.path.name,
        "corpus": f"{asked.name}, {split} split",
        "asked": how.get(asked.probe.how, "whether a sentence is likely enough"),
    }
    show_facts("zero-shot", facts | told(found))
    return found.get("matthews", found["accuracy"])
