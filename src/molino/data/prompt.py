"""A prompt: asked for, turned into tokens, and what is to be said of it."""

import sys
from collections.abc import Iterable

from molino.base.errors import ConfigError
from molino.data.spelling import spelt
from molino.data.tokenizers import Tokenizer

MOST_UNKNOWN = 50  # characters or words that are named
MOST_SPELT = 5


def ask_prompt(advice: str = "") -> str:
    """Ask for a prompt on a terminal.

    Args:
        advice: what else could be typed, for where there is no one to ask.

    Raises:
        ConfigError: there is no one to ask, or nothing was typed.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f'there is no prompt: add prompt="..."{advice}')
    try:
        return ask()
    except EOFError as error:
        raise ConfigError(f'no prompt was typed: type one, or add prompt="..."{advice}') from error


def ask() -> str:
    """Return a line that is typed on a terminal.

    Raises:
        EOFError: nothing is typed any more.
    """
    if sys.stdout.isatty():
        return input("prompt: ")
    # What is asked for alone goes into a file or a pipe.
    print("prompt: ", end="", file=sys.stderr, flush=True)
    return input()


def encode_prompt(prompt: str, tokenizer: Tokenizer, prefix: tuple[int, ...], line_end: str | None = None) -> list[int]:
    """Return the ids of a prompt, spelt as the vocabulary knows it, after the tokens that stand before every text; with
    a remark on what was changed and what is unknown of it.

    Args:
        line_end: the only one that the model has read, if that is known.
    """
    (prompt,) = respelt([prompt], tokenizer, line_end)
    remark_unknown([prompt], tokenizer)
    return [*prefix, *tokenizer.encode(prompt).tolist()]


def respelt(texts: Iterable[str], tokenizer: Tokenizer, line_end: str | None = None) -> list[str]:
    """Return what was typed, spelt as the vocabulary knows it (`data/spelling.py`), and say what was changed."""
    found: list[str] = []
    changed: dict[str, str] = {}
    for text in texts:
        text, changes = spelt(text, tokenizer, line_end)
        found.append(text)
        changed |= changes
    if changed:
        more = f" and {len(changed) - MOST_SPELT:,} more" if len(changed) > MOST_SPELT else ""
        # What looks alike is told apart by its code.
        shown = ", ".join(f"{old!r} as {new!a}" for old, new in list(changed.items())[:MOST_SPELT])
        remark(f"read as the vocabulary knows it: {shown}{more}")
    return found


def remark_unknown(texts: Iterable[str], tokenizer: Tokenizer) -> None:
    """Say which characters or words of texts are not in the vocabulary, if any."""
    if tokenizer.unknown_id is None:
        return
    unknown = list(dict.fromkeys(part for text in texts for part in tokenizer.unknown(text)))
    if unknown:
        more = f" and {len(unknown) - MOST_UNKNOWN:,} more" if len(unknown) > MOST_UNKNOWN else ""
        shown = " ".join(map(repr, unknown[:MOST_UNKNOWN]))
        remark(f"not in the vocabulary, read as <unk>: {shown}{more}")


def remark(text: str) -> None:
    """Write a line to standard error, so that standard output holds what was asked for alone."""
    print(f"molino: {text}", file=sys.stderr)
