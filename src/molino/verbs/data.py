"""molino data: what a corpus is, as text, as tokens and as a batch, before anything is trained on it."""

import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from molino.base.console import say, show_facts, show_rows, working
from molino.base.errors import ConfigError
from molino.base.files import atomic_write
from molino.base.messages import typed
from molino.configuration.build import build, check_arguments
from molino.configuration.request import Request
from molino.data.batches import draw_block
from molino.data.module import TextDataModule
from molino.data.prompt import encode_prompt
from molino.data.text import Text, strings
from molino.data.tokenizers import Tokenizer
from molino.data.tokens import Split
from molino.inspection import pictures
from molino.inspection.characters import count_characters, count_words, unusual
from molino.inspection.predictions import label
from molino.models import IGNORE_INDEX
from molino.trained.load import build_task

LONGEST_LINE, LONGEST_PROMPT = 100, 60  # characters
ROWS, COLUMNS = 2, 12  # of the batch: examples, and tokens of each
FORMATS = (".png", ".svg", ".pdf")
COUNTED = 1 << 22  # tokens at a time


def run(request: Request) -> None:
    """Check the settings and show."""
    settings = dict(request.settings)
    section, task = settings.pop("data"), build_task(settings)
    settings.pop("task")
    if settings["prompt"] is not None:
        settings["prompt"] = str(settings["prompt"])
    check_arguments(show, settings, given=("data", "command"))
    given = {"task": task, "accumulate": 1, "steps_per_block": 1, "seed": settings["seed"]}
    data = build(section, "data", TextDataModule, **given)
    # As they were typed: Hydra had texts quoted.
    said = [re.sub(r"='([^'\\]*)'$", r"=\1", each) for each in request.overrides]
    again = [each for each in said if each.startswith(("data", "task"))]
    show(**settings, data=data, command=typed("train", *again))


def show(
    data: TextDataModule, prompt: str | None, lines: int, top: int, seed: int, to: str | None, paths: Any, command: str
) -> None:
    """Print what there is to know of a corpus and its tokens.

    Args:
        prompt: a text to turn into tokens and back; None for the first line of the corpus.
        lines: how many of its lines are shown.
        top: how many of the most and least frequent tokens.
        to: a file for a picture.
        command: what would train on it.

    Raises:
        ConfigError: a number is too small, or `to` exists.
        DataError: the corpus cannot be read.
        ResourceError: matplotlib is missing, or the picture cannot be written.
    """
    if lines < 0 or top < 1:
        raise ConfigError(f"lines={lines} top={top}: lines must be 0 or more, and top 1 or more")
    target = Path(to).expanduser() if to else None
    if target:
        pictures.require_matplotlib()
        if target.suffix not in FORMATS:
            raise ConfigError(f"to={to} is no picture: let it end in {', '.join(FORMATS)}")
        if target.exists():
            raise ConfigError(f"{target} exists: choose another name, nothing is overwritten")
    data.setup()
    with working(f"reading {data.corpus.name}"):
        texts = data.corpus.read()
        characters, words = count_characters(texts["train"]), {name: count_words(each) for name, each in texts.items()}
    show_splits(data, words)
    first = list(first_lines(texts["train"], lines))
    if first:
        say("its first lines\n\n" + "\n".join(f"  {line}" for line in first) + "\n")
    show_characters(characters, top)
    counts_V = count_tokens(data.splits["train"], data.tokenizer.size)
    show_vocabulary(data.tokenizer, counts_V, top)
    if prompt is None:
        prompt = next((line for line in first_lines(texts["train"], 1)), "")[:LONGEST_PROMPT]
    show_prompt(prompt, data.tokenizer)
    show_batch(data)
    if target:
        lengths = document_lengths(data.splits["train"]) if data.corpus.documents else None
        with working("drawing"), atomic_write(target) as file:
            pictures.draw_corpus(counts_V, lengths, data.corpus.name).savefig(file, format=target.suffix[1:])
        say(f"picture: {target}")
    say(f"next: {command}")


def show_splits(data: TextDataModule, words: dict[str, int]) -> None:
    """Print what the corpus is, and a table of its splits."""
    corpus = data.corpus
    facts = {"licence": corpus.licence, "sha256": data.text.sha256, "batches": data.batches}
    show_facts(corpus.name, facts)
    header = ["split", "documents", "characters", "bytes", "words", "tokens", "tokens a word", "bytes a token", "<unk>"]
    rows = [
        [
            name,
            f"{len(split.marks) - 1:,}",
            f"{split.characters:,}",
            f"{split.bytes:,}",
            f"{words[name]:,}",
            f"{len(split.tokens):,}",
            f"{len(split.tokens) / max(words[name], 1):.2f}",
            f"{split.bytes / len(split.tokens):.2f}",
            f"{split.unknown / len(split.tokens):.2%}",
        ]
        for name, split in data.splits.items()
    ]
    show_rows("splits", header, rows)


def first_lines(texts: list[Text], count: int) -> list[str]:
    """Return the first lines that hold something, of the first texts, cut where they are long."""
    found: list[str] = []
    for text in texts:
        begun = ""
        for string in strings(text):
            *whole, begun = (begun + string).split("\n")
            found += [line.rstrip("\r") for line in whole if line.strip()]
            if len(found) >= count:
                break
        found += [begun] if begun.strip() else []
        if len(found) >= count:
            break
    return [line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE - 1]}…" for line in found[:count]]


def show_characters(counts: dict[str, int], top: int) -> None:
    """Print the characters of the training split: the most frequent, and those that are not what they seem."""
    total = sum(counts.values())
    shown = [[repr(c), f"U+{ord(c):04X}", f"{n:,}", f"{n / total:.2%}"] for c, n in list(counts.items())[:top]]
    show_rows(f"characters: {len(counts):,} distinct", ["character", "code", "times", "share"], shown, words=("code",))
    if odd := unusual(counts):
        rows = [[each.code, each.name, f"{each.count:,}", each.remark] for each in odd[: max(top, 20)]]
        title = "characters that are not what they seem"
        if len(odd) > len(rows):
            title += f": {len(rows)} of {len(odd)}"
        show_rows(title, ["code", "name", "times", "what it means"], rows, words=("name", "what it means"))


def count_tokens(split: Split, vocab_size: int) -> np.ndarray:
    """Return how often each token occurs in a split, (V,)."""
    counts_V = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(split.tokens), COUNTED):
        counts_V += np.bincount(split.tokens[start : start + COUNTED], minlength=vocab_size)
    return counts_V


def show_vocabulary(tokenizer: Tokenizer, counts_V: np.ndarray, top: int) -> None:
    """Print the most and the least frequent tokens of the training split."""
    order = np.argsort(-counts_V, kind="stable")
    there = order[counts_V[order] > 0]
    absent = len(counts_V) - len(there)
    count = min(top, -(-len(there) // 2))

    def cells(token: int) -> list[str]:
        return [str(token), label(tokenizer, token), f"{counts_V[token]:,}"]

    rows = [[*cells(a), *cells(b)] for a, b in zip(there[:count].tolist(), there[::-1][:count].tolist(), strict=True)]
    never = f", {absent:,} never in train" if absent else ""
    header = ["most", "token", "times", "least", "token ", "times "]
    show_rows(f"vocabulary: {len(counts_V):,} tokens{never}", header, rows, words=("token", "token "))


def show_prompt(prompt: str, tokenizer: Tokenizer) -> None:
    """Print a text as tokens, and what comes back of them."""
    ids = encode_prompt(prompt, tokenizer, ())
    back = tokenizer.decode(ids)
    same = "yes, exactly" if back == prompt else "no"
    if back != prompt and unicodedata.normalize("NFC", back) == unicodedata.normalize("NFC", prompt):
        same = "but for how its accents are written"
    facts = {
        "text": repr(prompt),
        "ids": " ".join(map(str, ids)),
        "tokens": " ".join(label(tokenizer, token) for token in ids),
        "back": repr(back),
        "comes back": same,
    }
    show_facts(f"a text as {len(ids)} tokens", facts)


def show_batch(data: TextDataModule) -> None:
    """Print the first batch of training, as its first step would read it: what is to be foretold under what is read."""
    (micro_batches,) = draw_block(data.draw, data.task.parts, np.arange(1), 1, data.batch_size).steps()
    fields = micro_batches[0].fields
    rows = []
    for row in range(min(ROWS, data.batch_size)):
        for name, tensor in fields.items():
            rows.append([f"{row} {name}", *_cells(tensor[row], data.tokenizer)])
    width = max(len(row) for row in rows)
    shape = " x ".join(map(str, next(iter(fields.values())).shape))
    filled = [row + [""] * (width - len(row)) for row in rows]
    show_rows(f"the first batch: {shape}, its first {len({row[0][0] for row in rows})} rows", (), filled)
    if (padding := data.tokenizer.padding_id) is not None and data.batches != "windows":
        share = np.mean([(fields[name] == padding).double().mean().item() for name in data.task.inputs])
        say(f"<pad> is {share:.1%} of what it reads\n")


def _cells(row: Tensor, tokenizer: Tokenizer) -> list[str]:
    """Return the beginning of a row of a batch: tokens as text, other numbers as they are."""
    if row.dim() == 0:
        return [str(row.item())]
    return ["-" if id == IGNORE_INDEX else label(tokenizer, id) for id in row.flatten()[:COLUMNS].tolist()] + (
        ["..."] if row.numel() > COLUMNS else []
    )


def document_lengths(split: Split) -> np.ndarray:
    """Return how many tokens each document has, the mark that closes it included."""
    return np.diff(split.marks)
