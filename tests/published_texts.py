"""Published translations, summaries and answers, as tests read them from the mirror; what is not there skips a test."""

import gzip
import json
from pathlib import Path

import pytest


def multi30k(mirror: Path, split: str) -> tuple[list[str], list[str]]:
    """German sentences and their English translations; the split is train, val or test_2016_flickr."""
    files = [f"multi30k/data/task1/raw/{split}.{language}.gz" for language in ("de", "en")]
    german, english = (gzip.decompress(_read(mirror, file)).decode().split("\n")[:-1] for file in files)
    return german, english


def dialogsum(mirror: Path) -> tuple[list[str], list[tuple[str, ...]]]:
    """The dialogues of the test split and the three summaries of each."""
    rows = [json.loads(line) for line in _read(mirror, "dialogsum/dialogsum.test.jsonl").splitlines()]
    return [row["dialogue"] for row in rows], [tuple(row[f"summary{n}"] for n in (1, 2, 3)) for row in rows]


def xquad(mirror: Path, language: str) -> tuple[list[str], list[str], list[tuple[str, ...]]]:
    """Questions, the context of each, and its answers."""
    articles = json.loads(_read(mirror, f"xquad/xquad.{language}.json"))["data"]
    found = [
        (one, paragraph["context"]) for each in articles for paragraph in each["paragraphs"] for one in paragraph["qas"]
    ]
    answers = [tuple(answer["text"] for answer in one["answers"]) for one, _ in found]
    return [one["question"] for one, _ in found], [context for _, context in found], answers


def _read(mirror: Path, file: str) -> bytes:
    path = mirror / "raw" / file
    if not path.is_file():
        pytest.skip(f"the mirror has no {file}")
    return path.read_bytes()
