"""Answers out of a context that no one has understood: its sentence nearest to the question, and a random span."""

import random
import re

from molino.evaluation.summaries import sentences
from molino.evaluation.written import answer_words

LONGEST = 5  # words of a random span: nine answers in ten of XQuAD have no more


def common_words_answer(question: str, context: str, language: str = "en") -> str:
    """Return the sentence of the context that has most words of the question, each counted once; the first of several.

    Args:
        language: whose articles do not count.
    """
    asked = set(answer_words(question, language))
    return max(sentences(context), key=lambda each: len(asked & set(answer_words(each, language))), default="")


def random_span(context: str, number: int) -> str:
    """Return one to LONGEST words of the context, as they stand in it; nothing of an empty one.

    Args:
        number: of the example: the same one draws the same span.
    """
    words = list(re.finditer(r"\S+", context))
    if not words:
        return ""
    chance = random.Random(number)
    first = chance.randrange(len(words))
    last = min(first + chance.randint(1, LONGEST), len(words)) - 1
    return context[words[first].start() : words[last].end()]
