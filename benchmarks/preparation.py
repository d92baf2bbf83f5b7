"""Megabytes of text a second from a file to a vocabulary and token arrays, and the memory it takes."""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.preparing import write_text
from molino.base.console import show_rows

KINDS = ("char", "word", "whitespace", "bpe")
NAMES = {"ours": "molino", "library": "tokenizers, line by line", "tutorial": "lists and dictionaries"}
# A bigram table of all the words of the text would take tens of gigabytes.
SMALL = {"word": "max_size=500", "whitespace": "max_size=500", "bpe": "size=500"}


def preparation(train: str, folder: Path, rounds: int, megabytes: float, gigabytes: float | None) -> dict[str, Any]:
    """Print, and return, figures of each kind of tokenizer; with `gigabytes` those of whole runs on so much text."""
    text = folder / "text.txt"
    write_text(text, round(gigabytes * 1e9 if gigabytes else megabytes * 1e6))
    if gigabytes:
        return whole_runs(train, folder, text)
    return {kind: compare(kind, folder, text, rounds) for kind in KINDS}


def compare(kind: str, folder: Path, text: Path, rounds: int) -> dict[str, Any]:
    """Print, and return, megabytes a second of each way to prepare a text for one kind of tokenizer, in turns."""
    size = text.stat().st_size / 1e6
    ways = [way for way in NAMES if (way, kind) != ("tutorial", "bpe")]
    total, parts, memory = {way: [] for way in ways}, {way: [] for way in ways}, dict.fromkeys(ways, 0.0)
    for number in range(rounds):
        for way in ways:
            with tempfile.TemporaryDirectory(dir=folder) as target:
                command = [sys.executable, "-m", "benchmarks.preparing", way, kind, str(text), target]
                printed, peak = watched(command)
            seconds = json.loads(printed.splitlines()[-1])
            parts[way].append([size / part for part in seconds])
            total[way].append(size / sum(seconds))
            memory[way] = max(memory[way], peak)
            common.tell(number, rounds, f"{kind}, {NAMES[way]}", total[way][-1])
    rows = []
    for way in ways:
        median, spread, ratio = common.summary(total[way], total["ours"], "{:.1f}")
        stages = [f"{statistics.median(speeds):.1f}" for speeds in zip(*parts[way], strict=True)]
        rows.append((NAMES[way], median, spread, ratio, *stages, f"{memory[way]:,.0f}"))
    header = ("", "median", "range", "ratio", "vocabulary", "encoding", "MiB of memory")
    show_rows(f"{kind}: MB of text a second, {size:.0f} MB, {rounds} rounds; ratio: molino / this", header, rows)
    return {NAMES[way]: {"megabytes_per_second": total[way], "memory_mib": memory[way]} for way in ways}


def whole_runs(train: str, folder: Path, text: Path) -> dict[str, Any]:
    """Print, and return, seconds and memory of a whole run of each kind of tokenizer on a large text."""
    size, rows, found = text.stat().st_size / 1e6, [], {}
    for kind in KINDS:
        settings = (f"paths.outputs={folder / 'outputs'}", f"paths.cache={folder / kind}", f"data/tokenizer={kind}")
        small = (f"data.tokenizer.{SMALL[kind]}",) if kind in SMALL else ()
        began = time.perf_counter()
        chosen = ("data=text", f"data.path={text}", "debug=fast", "model=bigram", *settings, *small)
        _, peak = watched([sys.executable, train, *chosen])
        seconds = time.perf_counter() - began
        rows.append((kind, f"{seconds:.0f}", f"{size / seconds:.1f}", f"{peak:,.0f}"))
        found[kind] = {"seconds": seconds, "memory_mib": peak}
        common.tell(0, 1, kind, peak)
    header = ("", "seconds", "MB of text a second", "MiB of memory")
    show_rows(f"whole runs on {size:,.0f} MB of text, debug=fast model=bigram", header, rows)
    return found


def watched(command: list[str]) -> tuple[str, float]:
    """Return what a command prints and the most memory of its own (no mapped files) that it had, in MiB."""
    memory: list[float | None] = []
    printed = common.run(command, memory, key="RssAnon")
    return printed, memory[0] or 0.0
