"""What was written, against what was wanted: BLEU, chrF, ROUGE, exact match and F1, of whole splits, from 0 to 100.

`told` has one text an example, `wanted` one or more references an example, of which not all need have equally many. All
that compares them raises a DataError where they are not of the same examples, and a ResourceError where a package is
missing.
"""

import re
import string
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from molino.base.errors import ConfigError, DataError, ResourceError
from molino.base.messages import suggest
from molino.runs.measures import MAXIMIZE, OF_100, Metric

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU

# What is dropped of answers, by language.
ARTICLES = {
    "en": ("a", "an", "the"),
    "es": ("el", "la", "los", "las", "un", "una", "unos", "unas"),
}
# SQuAD drops the punctuation of ASCII alone, in which Spanish has no opening ¿ and ¡, and quotes with « » or “ ”: an
# answer would be wrong for its quotes there that is right in English.
MORE_PUNCTUATION = {"es": "¿¡«»“”‘’"}
ROUGE = ("rouge1", "rouge2", "rougeL")


def bleu(told: Sequence[str], wanted: Sequence[Sequence[str]], lowercase: bool = False) -> float:
    """Return the BLEU of the corpus (Papineni et al. 2002) as sacrebleu has it (Post 2018), by the tokenizer 13a."""
    _check(told, wanted)
    return float(_bleu(lowercase).corpus_score(told, _streams(wanted)).score)


def bleu_signature(wanted: Sequence[Sequence[str]], lowercase: bool = False) -> str:
    """Return how sacrebleu computes it, without which no two figures compare: references, case, tokenizer, version."""
    _check(wanted, wanted)
    metric = _bleu(lowercase)
    # It knows after a look at references how many there are, or that their numbers differ: two examples tell.
    metric.corpus_score(["", ""], _streams([min(wanted, key=len), max(wanted, key=len)]))
    return str(metric.get_signature())


def chrf(told: Sequence[str], wanted: Sequence[Sequence[str]]) -> float:
    """Return the chrF of the corpus (Popović 2015) as sacrebleu has it: n-grams of up to 6 characters, recall counts
    twice."""
    _check(told, wanted)
    try:
        from sacrebleu.metrics import CHRF
    except ImportError as error:
        raise ResourceError("chrF needs sacrebleu: pip install 'molino-lm[tasks]'") from error
    return float(CHRF().corpus_score(told, _streams(wanted)).score)


def rouge(told: Sequence[str], wanted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the mean F1 by ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), each by the best of the references, of stems.

    As rouge-score has it, which is written for English: a letter that is not of ASCII ends a word.
    """
    _check(told, wanted)
    try:
        from absl import logging
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer
    except ImportError as error:
        raise ResourceError("ROUGE needs rouge-score: pip install 'molino-lm[tasks]'") from error
    # With the handlers of others it would close what stands in for the standard error now, as a notebook's does.
    logging.get_absl_handler().python_handler.stream = sys.__stderr__
    # Its own tokenizer by name: of a default it logs a line whenever it is asked.
    scorer = RougeScorer(ROUGE, tokenizer=DefaultTokenizer(use_stemmer=True))
    found = [scorer.score_multi(right, text) for text, right in zip(told, wanted, strict=True)]
    return {name: 100 * sum(float(each[name].fmeasure) for each in found) / len(found) for name in ROUGE}


def answer_words(text: str, language: str = "en") -> list[str]:
    """Return what counts of an answer (Rajpurkar et al. 2016): lower-cased words without punctuation and articles.

    Args:
        language: whose articles are dropped; none are of a language that is not in ARTICLES.
    """
    dropped = string.punctuation + MORE_PUNCTUATION.get(language, "")
    text = text.lower().translate(dict.fromkeys(map(ord, dropped)))
    if articles := ARTICLES.get(language):
        text = re.sub(rf"\b({'|'.join(articles)})\b", " ", text)
    return text.split()


def exact_match(told: Sequence[str], wanted: Sequence[Sequence[str]], language: str = "en") -> float:
    """Return how many in a hundred are one of the wanted answers, by their `answer_words`."""
    return _mean_of_best(lambda one, other: float(one == other), told, wanted, language)


def token_f1(told: Sequence[str], wanted: Sequence[Sequence[str]], language: str = "en") -> float:
    """Return the mean F1 of `answer_words`, each by the best of the wanted answers.

    Of an answer without any the F1 is 1 beside another one and else 0, as SQuAD 2.0 has it: so no exact match has 0.
    """
    return _mean_of_best(_f1, told, wanted, language)


class Score(NamedTuple):
    """A group of figures.

    Attributes:
        metrics: what they are; floors are of the first.
        compute: told, wanted and language -> the figure of each metric, by its name.
    """

    metrics: tuple[Metric, ...]
    compute: Callable[[Sequence[str], Sequence[Sequence[str]], str], dict[str, float]]


def _translation(told: Sequence[str], wanted: Sequence[Sequence[str]], language: str) -> dict[str, float]:
    lowercase = bleu(told, wanted, lowercase=True)
    return {"bleu": bleu(told, wanted), "chrf": chrf(told, wanted), "bleu_lowercase": lowercase}


def _summary(told: Sequence[str], wanted: Sequence[Sequence[str]], language: str) -> dict[str, float]:
    return rouge(told, wanted)


def _answer(told: Sequence[str], wanted: Sequence[Sequence[str]], language: str) -> dict[str, float]:
    return {"f1": token_f1(told, wanted, language), "exact_match": exact_match(told, wanted, language)}


# What task.score can be.
SCORES = {
    "translation": Score(
        (
            *(Metric(name, MAXIMIZE, OF_100) for name in ("bleu", "chrf")),
            Metric("bleu_lowercase", MAXIMIZE, OF_100, shown=False),
        ),
        _translation,
    ),
    "summary": Score(tuple(Metric(name, MAXIMIZE, OF_100) for name in ROUGE), _summary),
    # F1 first: it tells a near miss from a guess, and no floor that is a sentence matches exactly.
    "answer": Score((Metric("f1", MAXIMIZE, OF_100), Metric("exact_match", MAXIMIZE, OF_100)), _answer),
}


def check_installed(kind: str) -> None:
    """Refuse a kind of score whose package is missing, before anything is trained.

    Raises:
        ResourceError: it is.
    """
    scores_of(kind, ["a"], [["a"]])


def metrics_of(kind: str) -> tuple[Metric, ...]:
    """Return what a kind of score measures.

    Raises:
        ConfigError: there is no such kind.
    """
    return _score(kind).metrics


def scores_of(
    kind: str, told: Sequence[str], wanted: Sequence[Sequence[str]], language: str = "en"
) -> dict[str, float]:
    """Return the figures of a kind of score, by the names of its metrics and in their order.

    Args:
        language: that of answers, whose articles do not count.

    Raises:
        ConfigError: there is no such kind.
    """
    return _score(kind).compute(told, wanted, language)


def _score(kind: str) -> Score:
    if kind not in SCORES:
        raise ConfigError(f"task.score={kind} is not a score{suggest(str(kind), SCORES)}")
    return SCORES[kind]


def _check(told: Sequence, wanted: Sequence[Sequence[str]]) -> None:
    if len(told) != len(wanted):
        raise DataError(f"{len(told)} texts cannot be compared with the references of {len(wanted)} examples")
    if not wanted:
        raise DataError("there is nothing to compare: no examples")
    if (bare := next((number for number, each in enumerate(wanted) if not each), None)) is not None:
        raise DataError(f"example {bare} (from 0 on) has no reference to be compared with")


def _bleu(lowercase: bool) -> "BLEU":
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise ResourceError("BLEU needs sacrebleu: pip install 'molino-lm[tasks]'") from error
    return BLEU(lowercase=lowercase, tokenize="13a")


def _streams(wanted: Sequence[Sequence[str]]) -> list[tuple[str | None, ...]]:
    """Return references as sacrebleu takes them: all first ones, all second ones, ..., None where one is missing."""
    return list(zip_longest(*wanted))


def _mean_of_best(
    compare: Callable[[list[str], list[str]], float],
    told: Sequence[str],
    wanted: Sequence[Sequence[str]],
    language: str,
) -> float:
    _check(told, wanted)
    best = [
        max(compare(answer_words(text, language), answer_words(each, language)) for each in right)
        for text, right in zip(told, wanted, strict=True)
    ]
    return 100 * sum(best) / len(best)


def _f1(one: list[str], other: list[str]) -> float:
    if not one or not other:
        return float(one == other)
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other))
