"""molino predict: what a run tells of examples: their class, their score, the right one of several choices, an answer,
or what it writes about them."""

import csv
import io
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from molino.base.console import say
from molino.base.errors import ConfigError
from molino.base.files import write_text
from molino.configuration.build import construct_arguments
from molino.configuration.request import Request
from molino.data.examples import Example, examples_of
from molino.data.tables import Row, read_table
from molino.machine.hardware import Hardware
from molino.trained.load import load
from molino.trained.predicting import answers_of, check_predicts, told_to_write

# How answers are written, by the end of a name.
FORMATS = (".jsonl", ".csv")
UTF8 = "utf-8"  # what tables are in where nothing is said
# What an answer in words is called, as in the pipelines of transformers.
TEXTS = ("translation_text", "summary_text", "generated_text", "answer")
# What is taken of a table where nothing is said, if it is there.
USUAL = {"text": ("text", "question"), "pair": ("pair", "context"), "choices": ("choices",)}


def run(request: Request) -> None:
    """Check the settings and predict."""
    settings = dict(request.settings)
    for name in ("text", "pair", "question", "context"):
        if settings[name] is not None:
            settings[name] = str(settings[name])  # text=1605 is text too
    predict(**construct_arguments(predict, settings))


def predict(
    run: str | None,
    source: str | None,
    checkpoint: str,
    text: str | None,
    pair: str | None,
    question: str | None,
    context: str | None,
    choices: list | None,
    file: str | None,
    columns: dict,
    header: bool,
    quotes: bool,
    encoding: str,
    to: str | None,
    writing: dict,
    hardware: Hardware,
    paths: dict[str, Any],
) -> None:
    """Write what a run tells of one example, or of each in a table.

    Args:
        text, pair, choices: the example; of an answer inside a text
        question, context: in place of text and pair.
        file: a table of them in its place; `columns` says which of its columns is what, the others how it is
            read; see molino.data.tables.
        to: where the answers are written; None for the screen.
        writing: how a run that writes targets is to write them, see molino.generation.targets.Writing.

    Raises:
        ConfigError: both are given or none, the run tells nothing of examples, or of others than these.
        DataError: the table is missing or damaged, or lacks a column.
    """
    target = check_target(to)
    hardware.apply()
    loaded = load(run, source, checkpoint, paths["outputs"], hardware.device, hardware.dtype)
    check_predicts(loaded)
    loaded = told_to_write(loaded, writing)
    text, pair = _one_of("text", text, "question", question), _one_of("pair", pair, "context", context)
    if file is not None:
        if any(each is not None for each in (text, pair, choices)):
            raise ConfigError(f"file={file} and text=, pair= or choices= are two ways to ask: give one")
        rows = read_table(Path(file).expanduser(), header=header, quotes=quotes, encoding=encoding)
        examples = read_examples(rows, columns, Path(file).name)
    else:
        named = [f"columns.{name}" for name, value in columns.items() if value is not None]
        said = {"header": not header, "quotes": not quotes, "encoding": encoding != UTF8}
        if named := [*named, *(name for name, there in said.items() if there)]:
            raise ConfigError(f"{named[0]} is one of a table: add file=<table>, or leave it out")
        given = tuple(map(str, choices or ()))
        if text is None and pair is not None and not sys.stdin.isatty():
            raise ConfigError('there is a context or pair, and nothing to tell of it: add text="..." or question="..."')
        examples = [Example(ask() if text is None else text, pair, given)]
    started = time.perf_counter()
    with hardware.autocast():
        answers = answers_of(loaded, examples)
    seconds = (time.perf_counter() - started) / len(examples)
    if target is not None:
        write_text(target, as_text(target.suffix, examples, answers, seconds))
        say(f"{target}: {len(answers):,} answers, {1 / seconds:,.0f} a second")
    elif file is None:
        show(answers[0])
    else:
        sys.stdout.write(as_text(".jsonl", examples, answers, seconds))


def check_target(to: str | None) -> Path | None:
    """Return where answers are to be written, before anything is computed.

    Raises:
        ConfigError: it exists, or is of no format that is written.
    """
    target = None if to is None else Path(to).expanduser()
    if target is not None and target.suffix.lower() not in FORMATS:
        raise ConfigError(f"to={to} must end with {' or '.join(FORMATS)}")
    if target is not None and target.exists():
        raise ConfigError(f"{target} exists: choose another name, nothing is overwritten")
    return target


def read_examples(rows: list[Row], columns: dict[str, Any], origin: str) -> list[Example]:
    """Return the examples of a table; columns that are not named are those of the usual names."""
    there = {name for row in rows[:100] for name in row}
    usual = {field: name for field, names in USUAL.items() for name in reversed(names) if name in there}
    named = {name: value for name, value in columns.items() if value is not None}
    return examples_of(rows, usual | named, origin, {}, "columns")


def ask() -> str:
    """Ask for a text on a terminal.

    Raises:
        ConfigError: there is no one to ask.
    """
    if not sys.stdin.isatty():
        raise ConfigError('there is nothing to predict of: add text="..." or file=<table>')
    return input("text: ")


def as_text(suffix: str, examples: Sequence[Example], answers: Sequence[dict[str, Any]], seconds: float) -> str:
    """Return answers beside what was asked, as JSON lines or as a CSV."""
    rows = [{**_asked(each), **answer, "seconds": seconds} for each, answer in zip(examples, answers, strict=True)]
    if suffix.lower() == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    flat = [
        {k: json.dumps(v, ensure_ascii=False) if isinstance(v, dict | list) else v for k, v in r.items()} for r in rows
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, flat[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def show(answer: dict[str, Any]) -> None:
    """Print an answer; of several the likeliest first."""
    if (name := next((name for name in TEXTS if name in answer), None)) is not None:
        others = answer.get("others", [])
        for each in (answer, *others):
            print(f"{each['score']:.4f}  {each[name]}" if others else each[name])
        return
    others = answer.get("probabilities")
    if others is None:
        print(f"{answer['score']:.4f}")
        return
    for label, p in sorted(others.items(), key=lambda each: -each[1]):
        print(f"{p:.4f}  {label}")


def _one_of(name: str, value: str | None, other_name: str, other: str | None) -> str | None:
    """Return what is asked about, which has two names."""
    if value is not None and other is not None:
        raise ConfigError(f"{name}= and {other_name}= are two names of one thing: give one")
    return value if other is None else other


def _asked(example: Example) -> dict[str, Any]:
    asked = {"text": example.text, "pair": example.pair, "choices": list(example.choices) or None}
    return {name: value for name, value in asked.items() if value is not None}
