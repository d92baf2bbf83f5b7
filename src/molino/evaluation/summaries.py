"""Summaries that no one has thought about: the first sentences of a text, and its longest one."""

import re

# The end of a line, as of a turn of a dialogue, and what ends a sentence. Abbreviations are taken for such an end.
END = re.compile(r"\s*\n\s*|(?<=[.!?])\s+")


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, without white space around them; a line is one or more of its own."""
    return [each for each in END.split(text.strip()) if each]


def lead(text: str, count: int = 3) -> str:
    """Return the first sentences of a text, with a space between them."""
    return " ".join(sentences(text)[:count])


def longest_sentence(text: str) -> str:
    """Return the sentence with most words, the first of several; nothing of an empty text."""
    return max(sentences(text), key=lambda each: len(each.split()), default="")
