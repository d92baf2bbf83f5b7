"""What a model that writes has to beat: a copy, what is written most often, a dictionary, sentences of the text."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from molino.evaluation.nearest_span import common_words_answer, random_span
from molino.evaluation.summaries import lead, longest_sentence
from molino.evaluation.word_by_word import fit, translate
from molino.evaluation.written import metrics_of, scores_of
from molino.runs.measures import Floor


class Texts(NamedTuple):
    """Some examples.

    Attributes:
        sources: what is read of each: a text, or a question.
        targets: the references of each, one or more.
        contexts: where the answer to each question stands; none where there are no contexts.
    """

    sources: Sequence[str]
    targets: Sequence[Sequence[str]]
    contexts: Sequence[str] = ()


def floors_of_targets(kind: str, train: Texts, held: Texts, language: str = "en") -> list[Floor]:
    """Return the floors of a kind of score, fitted on the training examples; of each its first metric.

    Args:
        kind: one of `evaluation.written.SCORES`.
        language: that of answers.

    Raises:
        ConfigError: there is no such kind.
        DataError: an example has no reference.
        ResourceError: a package that computes the figures is missing.
    """
    first = metrics_of(kind)[0].name
    if kind == "summary":
        told = _shortened(held)
    elif held.contexts:
        told = _found(held, language)
    else:
        told = _copied(train, held) | (_translated(train, held) if kind == "translation" else {})
    floors = []
    for name, (brief, texts) in told.items():
        levels = scores_of(kind, texts, held.targets, language)
        floors.append(Floor(f"floor/{name}", levels[first], f"{brief} floor", brief, levels))
    return floors


def _copied(train: Texts, held: Texts) -> dict[str, tuple[str, list[str]]]:
    """Return by the name of each floor what it is called and what it writes."""
    ((frequent, _),) = Counter(target for targets in train.targets for target in targets).most_common(1)
    return {
        "copy": ("copied source", list(held.sources)),
        "frequent": ("most frequent", [frequent] * len(held.sources)),
    }


def _translated(train: Texts, held: Texts) -> dict[str, tuple[str, list[str]]]:
    pairs = [(source, each) for source, targets in zip(train.sources, train.targets, strict=True) for each in targets]
    likeliest = fit([source for source, _ in pairs], [target for _, target in pairs]).likeliest()
    return {"word_by_word": ("word by word", [translate(source, likeliest) for source in held.sources])}


def _shortened(held: Texts) -> dict[str, tuple[str, list[str]]]:
    return {
        "lead3": ("lead-3", [lead(source) for source in held.sources]),
        "longest": ("longest sentence", [longest_sentence(source) for source in held.sources]),
    }


def _found(held: Texts, language: str) -> dict[str, tuple[str, list[str]]]:
    pairs = zip(held.sources, held.contexts, strict=True)
    return {
        "common_words": ("common words", [common_words_answer(question, each, language) for question, each in pairs]),
        "random": ("random span", [random_span(each, number) for number, each in enumerate(held.contexts)]),
    }
