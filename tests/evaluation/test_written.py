"""What was written against what was wanted: by sacrebleu, rouge-score and SQuAD's own evaluation, and by hand."""

import collections
import math
import random
import re
import string
import sys

import pytest
from published_texts import dialogsum, multi30k, xquad

from molino.base.errors import ConfigError, DataError, ResourceError
from molino.evaluation import written
from molino.runs.measures import MAXIMIZE

COMPARISONS = [written.bleu, written.chrf, written.rouge, written.exact_match, written.token_f1]


def worsened(texts: list[str]) -> list[str]:
    """The texts with words left out and changed places, some in another case; one is empty."""
    chance = random.Random(0)
    found = []
    for text in texts:
        words = [word for word in text.split() if chance.random() > 0.2]
        at = chance.randrange(max(len(words), 1))
        words[at : at + 2] = reversed(words[at : at + 2])
        found.append(" ".join(words).upper() if chance.random() < 0.1 else " ".join(words))
    return ["", *found[1:]]


def test_bleu_and_chrf_are_those_of_sacrebleu(mirror):
    sacrebleu = pytest.importorskip("sacrebleu")
    _, english = multi30k(mirror, "val")
    told = worsened(english)
    for wanted, streams in (
        ([[text] for text in english], [english]),
        ([[text, text.lower()] for text in english], [english, [text.lower() for text in english]]),
        # Of some examples there is one reference.
        (
            [[text, english[0]] if n % 2 else [text] for n, text in enumerate(english)],
            [english, [english[0] if n % 2 else None for n in range(len(english))]],
        ),
    ):
        assert written.bleu(told, wanted) == sacrebleu.corpus_bleu(told, streams).score
        assert written.bleu(told, wanted, lowercase=True) == sacrebleu.corpus_bleu(told, streams, lowercase=True).score
        assert written.chrf(told, wanted) == sacrebleu.corpus_chrf(told, streams).score
        assert 30 < written.bleu(told, wanted) < written.bleu(told, wanted, lowercase=True) < 90
        for lowercase in (False, True):
            theirs = sacrebleu.BLEU(lowercase=lowercase)
            theirs.corpus_score(told, streams)
            assert written.bleu_signature(wanted, lowercase) == str(theirs.get_signature())
    assert written.bleu(english, [[text] for text in english]) == pytest.approx(100)


def test_bleu_by_hand():
    told = ["the cat sat on the the mat", "a dog ran away"]
    wanted = ["the cat sat on the mat today and slept", "a dog ran far away"]
    # Clipped: the third "the" counts for nothing.
    right, all_of = [6 + 4, 5 + 2, 3 + 1, 2 + 0], [7 + 4, 6 + 3, 5 + 2, 4 + 1]
    precisions = [one / other for one, other in zip(right, all_of, strict=True)]
    brevity = math.exp(1 - (9 + 5) / (7 + 4))
    expected = 100 * brevity * math.prod(precisions) ** (1 / 4)
    assert written.bleu(told, [[text] for text in wanted]) == pytest.approx(expected, rel=1e-12)


def test_rouge_is_that_of_rouge_score(mirror, caplog):
    rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
    dialogues, summaries = dialogsum(mirror)
    told, wanted = dialogues[:60], [each[: 1 + n % 3] for n, each in enumerate(summaries[:60])]
    with caplog.at_level("DEBUG"):
        found = written.rouge(told, wanted)
    assert not caplog.records
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for name in ("rouge1", "rouge2", "rougeL"):
        # With several references the best one counts, by the F1 of each kind.
        best = [
            max(scorer.score(one, text)[name].fmeasure for one in right)
            for text, right in zip(told, wanted, strict=True)
        ]
        assert found[name] == pytest.approx(100 * sum(best) / len(best), rel=1e-12)
    assert list(found) == ["rouge1", "rouge2", "rougeL"] and found["rouge1"] > found["rougeL"] > found["rouge2"] > 0
    # By hand: two of three words, one of two pairs; stems are equal.
    assert written.rouge(["cats sleeping here"], [["cat sleeps there"]]) == pytest.approx(
        {"rouge1": 200 / 3, "rouge2": 50, "rougeL": 200 / 3}
    )


def official(told: list[str], wanted: list[tuple[str, ...]]) -> tuple[float, float]:
    """Exact match and F1 as the script of SQuAD computes them."""

    def normalized(text: str) -> str:
        text = "".join(each for each in text.lower() if each not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    def f1(one: str, other: str) -> float:
        one, other = normalized(one).split(), normalized(other).split()
        common = sum((collections.Counter(one) & collections.Counter(other)).values())
        if common == 0:
            return 0
        precision, recall = common / len(one), common / len(other)
        return 2 * precision * recall / (precision + recall)

    pairs = list(zip(told, wanted, strict=True))
    exact = sum(max(normalized(text) == normalized(one) for one in right) for text, right in pairs)
    return 100 * exact / len(pairs), 100 * sum(max(f1(text, one) for one in right) for text, right in pairs) / len(
        pairs
    )


def test_exact_match_and_f1_are_those_of_squad(mirror):
    questions, contexts, answers = xquad(mirror, "en")
    # Right ones in another guise, near misses, and answers to something else.
    told = [
        (f"The  {right[0].upper()}.", f"{right[0]} of it", context[n % 50 :][:20], question)[n % 4]
        for n, (question, context, right) in enumerate(zip(questions, contexts, answers, strict=True))
    ]
    wanted = [(*right, f"an {context[:9]}") for right, context in zip(answers, contexts, strict=True)]
    exact, f1 = official(told, wanted)
    assert written.exact_match(told, wanted) == pytest.approx(exact, rel=1e-12) and 20 < exact < 30
    assert written.token_f1(told, wanted) == pytest.approx(f1, rel=1e-12) and f1 > exact


@pytest.mark.parametrize(
    ("told", "wanted", "language", "exact", "f1"),
    [
        ("el Quijote", "Quijote", "es", 100, 100),
        ("el Quijote", "Quijote", "en", 0, 200 / 3),
        ("The Quijote", "Quijote", "en", 100, 100),
        ("the Quijote", "Quijote", "es", 0, 200 / 3),
        ("«La Mancha»", "mancha", "es", 100, 100),
        ("“Unas ‘casas’ blancas”", "casas  blancas.", "es", 100, 100),
        ("¿Quién? ¡Él!", "quién él", "es", 100, 100),  # él is no article
        ("¿Quién?", "quién", "en", 0, 0),  # as SQuAD's own script has it
        ("los molinos de viento", "unos molinos", "es", 0, 50),  # 1 of 3 and 1 of 1
        ("las islas y el lago", "los lagos y las islas", "es", 0, 200 / 3),  # 2 of 3, twice
        ("die Mühle", "Mühle", "de", 0, 200 / 3),  # of a language without a list no article is dropped
        ("the Mühle!", "The mühle", "de", 100, 100),
        ("theme", "me", "en", 0, 0),
        ("the", "an", "en", 100, 100),  # nothing is left of either
        ("the", "cat", "en", 0, 0),
        ("", "gato", "es", 0, 0),
    ],
)
def test_answers_by_hand(told, wanted, language, exact, f1):
    assert written.exact_match([told], [[wanted]], language) == exact
    assert written.token_f1([told], [[wanted]], language) == pytest.approx(f1)
    assert written.token_f1([told], [["elsewhere", wanted]], language) == pytest.approx(f1)
    assert written.token_f1([told, "right"], [[wanted], ["right"]], language) == pytest.approx((f1 + 100) / 2)


@pytest.mark.parametrize("kind", written.SCORES)
def test_a_kind_of_score_tells_all_its_metrics_in_their_order(kind):
    found = written.scores_of(kind, ["ein Mann schläft im Gras ."], [["ein Mann schläft im Gras ."]], "de")
    metrics = written.metrics_of(kind)
    assert list(found) == [metric.name for metric in metrics]
    assert list(found.values()) == pytest.approx([100] * len(metrics))
    assert {metric.direction for metric in metrics} == {MAXIMIZE} and metrics[0].shown
    assert set(written.scores_of(kind, ["zzz"], [["ein Mann"]]).values()) == {0}


def test_lowercased_bleu_stands_beside_the_cased_one():
    found = written.scores_of("translation", ["A MAN SLEEPS IN THE GRASS"], [["a man sleeps in the grass"]])
    assert found["bleu"] == 0 and found["bleu_lowercase"] == pytest.approx(100)
    assert [metric.name for metric in written.metrics_of("translation") if not metric.shown] == ["bleu_lowercase"]


def test_an_answer_is_scored_in_its_language():
    for language, exact in (("es", 100), ("en", 0)):
        assert written.scores_of("answer", ["el gato"], [["gato"]], language)["exact_match"] == exact


@pytest.mark.parametrize("ask", [written.metrics_of, lambda kind: written.scores_of(kind, ["a"], [["a"]])])
def test_an_unknown_kind_is_refused_with_those_there_are(ask):
    with pytest.raises(ConfigError) as refused:
        ask("tranlation")
    assert str(refused.value) == (
        "task.score=tranlation is not a score; did you mean translation? Known here: answer, summary, translation"
    )


@pytest.mark.parametrize("compare", COMPARISONS)
@pytest.mark.parametrize(
    ("told", "wanted", "message"),
    [
        (["a", "b"], [["a"]], "2 texts cannot be compared with the references of 1 examples"),
        ([], [], "there is nothing to compare: no examples"),
        (["a", "b"], [["a"], []], "example 1 (from 0 on) has no reference to be compared with"),
    ],
)
def test_what_cannot_be_compared_is_refused(compare, told, wanted, message):
    with pytest.raises(DataError) as refused:
        compare(told, wanted)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("compare", "package", "message"),
    [
        (written.bleu, "sacrebleu.metrics", "BLEU needs sacrebleu: pip install 'molino-lm[tasks]'"),
        (written.chrf, "sacrebleu.metrics", "chrF needs sacrebleu: pip install 'molino-lm[tasks]'"),
        (written.rouge, "rouge_score.rouge_scorer", "ROUGE needs rouge-score: pip install 'molino-lm[tasks]'"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, compare, package, message):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ResourceError) as refused:
        compare(["a"], [["a"]])
    assert str(refused.value) == message
