"""What a corpus comes to as tokens: how often each occurs, how a text goes there and back, what a batch holds.

Shapes: B rows of a batch, T time (tokens), V vocabulary.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from rich.cells import cell_len
from torch import Tensor

from molino.data.batches import Draw
from molino.data.text import Text, strings
from molino.data.tokenizers import Tokenizer
from molino.data.tokens import Split, TokenizedCorpus
from molino.inspection.predictions import label
from molino.models import IGNORE_INDEX

CHUNK = 1 << 20  # tokens counted at a time: numpy makes numbers of 8 bytes of them
LONGEST_LINE = 100  # characters shown of it
MOST_ROWS = 1 << 16  # of an epoch that padding is counted in
ROWS_AT_ONCE = 1 << 10
IGNORED = "·"  # in place of a target that does not count


@dataclass(frozen=True)
class Vocabulary:
    """How often each token occurs in a split.

    Attributes:
        counts_V: of each id.
        most, least: ids that occur, the most and the least frequent first; ties by id.
        once: how many occur once.
        never: ids that do not occur, special tokens aside.
    """

    counts_V: np.ndarray
    most: list[int]
    least: list[int]
    once: int
    never: list[int]


def count_tokens(tokens: np.ndarray, size: int) -> np.ndarray:
    """Return how often each of `size` ids occurs, shape (V,)."""
    counts_V = np.zeros(size, np.int64)
    for start in range(0, len(tokens), CHUNK):
        counts_V += np.bincount(tokens[start : start + CHUNK], minlength=size)
    return counts_V


def count_vocabulary(split: Split, tokenizer: Tokenizer, top: int) -> Vocabulary:
    """Count the tokens of a split, and find the `top` most and least frequent."""
    counts_V = count_tokens(split.tokens, tokenizer.size)
    order = np.argsort(-counts_V, kind="stable")
    rising = np.argsort(counts_V, kind="stable")
    occurring = int(np.count_nonzero(counts_V))
    specials = {tokenizer.unknown_id, tokenizer.padding_id, tokenizer.end_of_text_id}
    return Vocabulary(
        counts_V,
        most=order[: min(top, occurring)].tolist(),
        least=rising[len(rising) - occurring :][:top].tolist(),
        once=int(np.count_nonzero(counts_V == 1)),
        never=[id for id in np.flatnonzero(counts_V == 0).tolist() if id not in specials],
    )


def tokens_of_text(text: TokenizedCorpus, split: Split) -> int:
    """Return how many tokens of a split are of its text: not those between documents."""
    marked = text.corpus.documents and text.tokenizer.end_of_text_id is not None
    return len(split.tokens) - (len(split.marks) if marked else 0)


def lengths(split: Split, counts_V: np.ndarray, tokenizer: Tokenizer) -> tuple[str, np.ndarray, np.ndarray]:
    """Return what has lengths, the lengths, and how often each counts: documents in tokens where there are several,
    else tokens as the vocabulary has them."""
    if len(split.marks) > 2:
        documents = np.diff(split.marks)
        return "tokens of a document", documents, np.ones(len(documents), np.int64)
    ids = np.flatnonzero(counts_V)
    return "length of a token in the vocabulary", np.array([len(tokenizer.token(id)) for id in ids]), counts_V[ids]


def padding(draw: Draw, inputs: Iterable[str], rows: int, padding_id: int) -> float:
    """Return the share of <pad> in what a network reads of the first rows of training, at most MOST_ROWS."""
    padded, total, rows = 0, 0, min(rows, MOST_ROWS)
    for start in range(0, rows, ROWS_AT_ONCE):
        fields = draw(np.arange(start, min(start + ROWS_AT_ONCE, rows))).fields
        for name in inputs:
            padded += int(np.count_nonzero(fields[name] == padding_id))
            total += fields[name].size
    return padded / total


def first_lines(texts: Iterable[Text], count: int) -> list[str]:
    """Return the first lines of texts, those that are longer cut. No more is read of a text than that takes."""
    return list(islice((line for text in texts for line in _lines(text)), count))


def _lines(text: Text) -> Iterator[str]:
    """Yield the lines of a text without their \\n. Of a long line only the beginning is kept while it is read."""
    line = ""
    for string in strings(text):
        first, *others = string.split("\n")
        line = (line + first)[: LONGEST_LINE + 1]
        for other in others:
            yield _cut(line)
            line = other[: LONGEST_LINE + 1]
    if line:
        yield _cut(line)


def _cut(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "…"


def difference(text: str, decoded: str) -> tuple[int, str, str] | None:
    """Return where a text that went to tokens and back first differs, and how it goes on there; None if nowhere."""
    if text == decoded:
        return None
    pairs = zip(text, decoded, strict=False)
    place = next((n for n, (before, after) in enumerate(pairs) if before != after), min(len(text), len(decoded)))
    return place, text[place : place + 12], decoded[place : place + 12]


def shown(tokenizer: Tokenizer, token: int) -> str:
    """Return a token as it is shown in a line of tokens: without quotes, a space as ␣, an accent on a circle."""
    name = label(tokenizer, token)
    return visible(name[1:-1] if name[0] in "'\"" else name)


def visible(text: str) -> str:
    """Return a text whose spaces are to be seen, as ␣, and which does not change what stands before it."""
    return ("◌" if text and unicodedata.combining(text[0]) else "") + text.replace(" ", "␣")


def batch_rows(
    fields: Mapping[str, Tensor], inputs: Iterable[str], tokenizer: Tokenizer, count: int
) -> list[dict[str, list[str]]]:
    """Return the first rows of a batch: of each field all that it holds, as text. Inputs and `targets` are tokens."""
    rows = min(count, *(len(field) for field in fields.values()))
    tokens = {*inputs, "targets"}
    return [
        {
            name: [
                _element(tokenizer.of(name), value, name in tokens) for value in np.ravel(field[row].numpy()).tolist()
            ]
            for name, field in fields.items()
        }
        for row in range(rows)
    ]


def _element(tokenizer: Tokenizer, value: float, is_token: bool) -> str:
    if value == IGNORE_INDEX:
        return IGNORED
    return shown(tokenizer, int(value)) if is_token else f"{value:g}"


def aligned(rows: Mapping[str, list[str]], width: int) -> Iterator[tuple[int, list[str]]]:
    """Yield rows of cells as groups of lines no wider than `width`, the cells of a place under one another; with each
    group how many places there are up to its end.

    A row that is shorter than the others stands in the first group alone.
    """
    names = max(map(len, rows)) + 2
    places = max(map(len, rows.values()))
    widths = [max(cell_len(row[n]) for row in rows.values() if n < len(row)) for n in range(places)]
    start = 0
    while start < places:
        stop, used = start + 1, names + widths[start]
        while stop < places and used + 1 + widths[stop] <= width:
            used += 1 + widths[stop]
            stop += 1
        cells = {name: row[start:stop] for name, row in rows.items() if row[start:stop]}
        yield stop, [f"{name:<{names}}{_spaced(row, widths[start:])}" for name, row in cells.items()]
        start = stop


def _spaced(cells: list[str], widths: list[int]) -> str:
    """Return cells in a line, each filled up to its width. A letter may be two columns wide, and an accent none."""
    return " ".join(c + " " * (w - cell_len(c)) for c, w in zip(cells, widths, strict=False)).rstrip()
