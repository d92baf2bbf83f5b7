"""molino data: a corpus as training would see it, before anything is trained: text, characters, vocabulary, batches."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from molino.base.console import console, say, show_facts, show_rows, working
from molino.base.errors import ConfigError, DataError
from molino.base.files import atomic_write
from molino.base.messages import typed
from molino.configuration.build import build, check_arguments, check_names
from molino.configuration.overrides import as_typed
from molino.configuration.request import Request
from molino.configuration.settings import check_seed
from molino.data.line_ends import line_ends, only_line_end, remark_on_returns
from molino.data.module import TextDataModule
from molino.data.prompt import encode_prompt
from molino.data.tokenizers import Tokenizer
from molino.data.tokens import Split
from molino.inspection import characters, corpus, pictures
from molino.models import IGNORE_INDEX
from molino.tasks.task import Task
from molino.trained.building import build_task

TRAININGS = ("task", "data", "seed")  # settings that mean here what they do in training
OWN = ("lines", "top", "prompt", "to", "paths")
# The first micro-batch of training is asked for alone. Its rows do not depend on how many follow it.
FIRST = {"accumulate": 1, "steps_per_block": 1}
LONGEST_PROMPT = 60  # characters of the corpus that stand in for a prompt
ROWS = 3  # of the batch that are shown
MOST_LINES = 2  # of a row, however long it is
WIDEST = 120  # columns of a line of tokens
QUOTED = re.compile(r"='([^'\\]*)'$")
FEW = 12  # tokens in a line that lists some


def run(request: Request) -> None:
    """Check the settings and look."""
    settings = dict(request.settings)
    if settings["prompt"] is not None:
        settings["prompt"] = str(settings["prompt"])  # prompt=1605 is text too
    check_names(settings, [*TRAININGS, *OWN])
    sections = {name: settings.pop(name, None) for name in TRAININGS}
    check_arguments(look, settings, given=("data", "task"))
    check_seed(sections["seed"])
    task = build_task(sections)
    data = build(sections["data"], "data", TextDataModule, **FIRST, seed=sections["seed"], task=task)
    look(**settings, task=task, data=data)
    say(f"next: {typed('train', *map(as_typed, shared_with_training(request.overrides)))}")


def shared_with_training(overrides: list[str]) -> list[str]:
    """Return the overrides that `molino train` takes too, without the quotes that the command adds for Hydra itself."""
    shared = [override for override in overrides if override.lstrip("+~").partition("=")[0] not in OWN]
    return [QUOTED.sub(r"=\1", override) for override in shared]


def look(
    data: TextDataModule,
    task: Task,
    lines: int,
    top: int,
    prompt: str | None,
    to: str | None,
    paths: dict[str, Any],
) -> None:
    """Print what a corpus is, in characters and in tokens, and the first batch that training would draw of it.

    Args:
        lines: how many of the text's first lines are shown.
        top: how many of the most and the least frequent characters and tokens.
        prompt: what is turned into tokens and back; None for the first line of the corpus.
        to: where a picture is written.

    Raises:
        ConfigError: `lines` or `top` is below 1, or `to` exists or is no .png.
        DataError: the corpus cannot be read, or the prompt is empty.
        ResourceError: matplotlib is missing, which only the picture needs, or it cannot be written.
    """
    for name, value in {"lines": lines, "top": top}.items():
        if value < 1:
            raise ConfigError(f"{name}={value} is too small: choose 1 or more")
    if prompt == "":
        raise DataError('prompt="" is no text to look at: add some, such as prompt="In the beginning"')
    target = check_target(to) if to is not None else None
    data.setup()
    train, tokenizer = data.splits["train"], data.tokenizer
    # Read again where the tokens were cached: they do not tell what a tokenizer has dropped.
    with working(f"reading {data.corpus.name}"):
        texts = data.corpus.read()["train"]
        first, found = corpus.first_lines(texts, lines), characters.survey(texts)
        vocabulary = corpus.count_vocabulary(train, tokenizer, top)
    ends = line_ends(int(found.counts[ord("\n")]), int(found.counts[ord("\r")]), found.line_ends)
    show_corpus(data, ends)
    show_rows("first lines", ("", "text"), ((str(n), line) for n, line in enumerate(first, start=1)), words=("text",))
    show_characters(found, top, tokenizer)
    show_vocabulary(data, task, vocabulary, found.words)
    if prompt is None:
        show_prompt(first_words(first), tokenizer, None)  # as the corpus has it
    else:
        show_prompt(prompt, tokenizer, only_line_end(ends))
    show_batch(data, task)
    if target:
        draw(target, data, vocabulary)
        say(f"picture: {target}")


def check_target(to: str) -> Path:
    """Return where a picture is to be written, before anything is read.

    Raises:
        ConfigError: it exists, or is no .png.
        ResourceError: matplotlib is missing.
    """
    target = Path(to).expanduser()
    if target.suffix.lower() != ".png":
        raise ConfigError(f"to={to} is no name of a picture: choose one that ends with .png")
    if target.exists():
        raise ConfigError(f"{target} exists: choose another name, nothing is overwritten")
    pictures.require_matplotlib()
    return target


def show_corpus(data: TextDataModule, ends: Mapping[str, int]) -> None:
    """Print what the corpus is, which line ends it has if there are \\r among them, and how large its splits are."""
    facts = {"name": data.corpus.name, "licence": data.corpus.licence, "sha256": data.text.sha256}
    if said := remark_on_returns(ends, data.tokenizer.source, data.corpus):
        facts["line ends"] = said
    show_facts("corpus", facts)
    unknown = data.tokenizer.unknown_id is not None
    header = ["split", "characters", "bytes", "documents", "tokens", *(["of them <unk>"] if unknown else [])]
    show_rows("splits", header, (list(_sizes(split, unknown)) for split in data.splits.values()))


def _sizes(split: Split, unknown: bool) -> Iterator[str]:
    yield split.name
    for number in (split.characters, split.bytes, len(split.marks) - 1, len(split.tokens)):
        yield f"{number:,}"
    if unknown:
        yield f"{split.unknown / len(split.tokens):.2%}"


def show_characters(found: characters.Survey, top: int, tokenizer: Tokenizer) -> None:
    """Print the characters of the training split: the most frequent, and whatever is unusual among them."""
    total = int(found.counts.sum())
    rows = [
        (corpus.visible(repr(character)[1:-1]), characters.name_of(character), f"{count:,}", f"{count / total:.2%}")
        for character, count in found.most_frequent(top)
    ]
    header = ("", "the most frequent", "count", "share")
    show_rows(f"characters of train: {found.distinct:,} distinct", header, rows, words=("the most frequent",))
    unusual = characters.unusual(found, tokenizer)
    if not unusual:
        say("unusual characters: none\n")
        return
    rows = [(f"U+{ord(each.character):04X}", each.name, f"{each.count:,}", each.remark) for each in unusual]
    show_rows("unusual characters", ("", "name", "count", "what it means"), rows, words=("name", "what it means"))


def show_vocabulary(data: TextDataModule, task: Task, vocabulary: corpus.Vocabulary, words: int) -> None:
    """Print the tokens that occur most and least in the training split, and what one comes to."""
    tokenizer, train, counts_V = data.tokenizer, data.splits["train"], vocabulary.counts_V

    def cells(id: int) -> tuple[str, str]:
        return corpus.shown(tokenizer, id), f"{counts_V[id]:,}"

    pairs = zip(vocabulary.most, vocabulary.least, strict=True)
    rows = [(str(n), *cells(most), *cells(least)) for n, (most, least) in enumerate(pairs, start=1)]
    header = ("", "most frequent", "count", "least frequent", "count")
    show_rows(f"vocabulary: {tokenizer.size:,} tokens", header, rows, words=("most frequent", "least frequent"))
    tokens, never = corpus.tokens_of_text(data.text, train), vocabulary.never
    listed = " ".join(corpus.shown(tokenizer, id) for id in never[:FEW]) + (" ..." if len(never) > FEW else "")
    facts = {
        "never occur": f"{len(never):,}" + (f": {listed}" if never else ""),
        "occur once": f"{vocabulary.once:,}",
        "tokens a word": f"{tokens / words:.2f} (of {words:,} words, parted by white space)" if words else "no words",
        "characters a token": f"{train.characters / tokens:.2f}",
        "bytes a token": f"{train.bytes / tokens:.2f}",
    }
    if data.batches == "documents":
        share = corpus.padding(data.draw, task.inputs, len(train.marks) - 1, tokenizer.padding_id)
        facts["<pad> in training batches"] = f"{share:.2%}, for documents shorter than data.block_size"
    show_facts("tokens in train", facts)


def first_words(lines: list[str]) -> str:
    """Return the first of some lines that is not blank, or of a long one its first whole words."""
    line = next((line for line in lines if line.strip()), lines[0])
    if len(line) <= LONGEST_PROMPT:
        return line
    return line[:LONGEST_PROMPT].rpartition(" ")[0] or line[:LONGEST_PROMPT]


def show_prompt(prompt: str, tokenizer: Tokenizer, line_end: str | None) -> None:
    """Print the tokens of a prompt, and whether it comes back from them."""
    ids = encode_prompt(prompt, tokenizer, (), line_end)
    decoded = tokenizer.decode(ids)
    show_facts("a prompt", {"text": repr(prompt), "tokens": f"{len(ids):,}"})
    if ids:
        show_aligned({"token": [corpus.shown(tokenizer, id) for id in ids], "id": list(map(str, ids))})
    differs = corpus.difference(prompt, decoded)
    if differs is None:
        say("decoded: it comes back as it was\n")
        return
    place, before, after = differs
    say(f"decoded: {decoded!r}")
    say(f"it does not come back as it was: from character {place} on {before!r} is {after!r}\n")


def show_batch(data: TextDataModule, task: Task) -> None:
    """Print the first rows of the batch that step 0 of training draws."""
    fields = next(data.block(np.arange(1)).steps())[0].fields
    facts = {name: " x ".join(map(str, field.shape)) for name, field in fields.items()}
    if ignored := sum(int((field == IGNORE_INDEX).sum()) for field in fields.values()):
        facts["ignored targets"] = f"{ignored:,}, shown as {corpus.IGNORED}"
    show_facts("first batch", facts)
    for row in corpus.batch_rows(fields, task.inputs, data.tokenizer, ROWS):
        show_aligned(row, MOST_LINES)
        say("")


def show_aligned(rows: dict[str, list[str]], most: int | None = None) -> None:
    """Print rows of cells under one another, in as many lines as the width needs, or the first lines of each row."""
    groups = list(islice(corpus.aligned(rows, min(console.width, WIDEST)), most))
    for _, group in groups:
        for line in group:
            say(line)
    if more := max(map(len, rows.values())) - groups[-1][0]:
        say(f"... and {more:,} more")


def draw(target: Path, data: TextDataModule, vocabulary: corpus.Vocabulary) -> None:
    """Write the picture of frequencies and lengths, whole or not at all."""
    lengths = corpus.lengths(data.splits["train"], vocabulary.counts_V, data.tokenizer)
    title = f"{data.corpus.name}: {data.tokenizer.size:,} tokens"
    with working("drawing"), atomic_write(target) as file:
        pictures.save(pictures.draw_corpus(title, vocabulary.counts_V, *lengths), file)
