"""A prompt: asked for, turned into tokens, and what is to be said of it."""

import sys
from collections.abc import Iterable

from molino.base.errors import ConfigError
from molino.data.tokenizers import Tokenizer

MOST_UNKNOWN = 50  # characters or words that are named


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


def encode_prompt(prompt: str, tokenizer: Tokenizer, prefix: tuple[int, ...]) -> list[int]:
    """Return a prompt's ids after the tokens that stand before every text, with a remark on what is unknown of it."""
    remark_unknown([prompt], tokenizer)
    return [*prefix, *tokenizer.encode(prompt).tolist()]


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
