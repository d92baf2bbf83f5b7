"""Megabytes of text a second from a file to a vocabulary and token arrays, and the memory it takes."""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from molino.benchmarks import common
from molino.benchmarks.preparing import write_text
from molino.console import show_rows

KINDS = ("char", "word", "whitespace", "bpe")
NAMES = {"ours": "molino", "library": "tokenizers, line by line", "tutorial": "lists and dictionaries"}
SECONDS_BETWEEN_LOOKS = 0.02
# A bigram table of all the words of the text would take tens of gigabytes.
SMALL = {"word": "max_size=500", "whitespace": "max_size=500", "bpe": "size=500"}


def preparation(train: str, folder: Path, rounds: int, megabytes: float, gigabytes: float | None) -> None:
    """Print figures of each kind of tokenizer; with `gigabytes` those of whole runs on so much text instead."""
    text = folder / "text.txt"
    write_text(text, round(gigabytes * 1e9 if gigabytes else megabytes * 1e6))
    if gigabytes:
        whole_runs(train, folder, text)
    else:
        for kind in KINDS:
            compare(kind, folder, text, rounds)


def compare(kind: str, folder: Path, text: Path, rounds: int) -> None:
    """Print megabytes a second of each way to prepare a text for one kind of tokenizer, in turns."""
    size = text.stat().st_size / 1e6
    ways = [way for way in NAMES if (way, kind) != ("tutorial", "bpe")]
    total, parts, memory = {way: [] for way in ways}, {way: [] for way in ways}, dict.fromkeys(ways, 0.0)
    for number in range(rounds):
        for way in ways:
            with tempfile.TemporaryDirectory(dir=folder) as target:
                command = [sys.executable, "-m", "molino.benchmarks.preparing", way, kind, str(text), target]
                printed, peak = watch(command)
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
    header = ("", "median", "range", "ratio", "vocabulary", "encoding", "MB of memory")
    show_rows(f"{kind}: MB of text a second, {size:.0f} MB, {rounds} rounds; ratio: molino / this", header, rows)


def whole_runs(train: str, folder: Path, text: Path) -> None:
    """Print seconds and memory of a whole run of each kind of tokenizer on a large text."""
    size, rows = text.stat().st_size / 1e6, []
    for kind in KINDS:
        settings = (f"paths.outputs={folder / 'outputs'}", f"paths.cache={folder / kind}", f"data/tokenizer={kind}")
        small = (f"data.tokenizer.{SMALL[kind]}",) if kind in SMALL else ()
        began = time.perf_counter()
        chosen = ("data=text", f"data.path={text}", "debug=fast", "model=bigram", *settings, *small)
        _, peak = watch([sys.executable, train, *chosen])
        seconds = time.perf_counter() - began
        rows.append((kind, f"{seconds:.0f}", f"{size / seconds:.1f}", f"{peak:,.0f}"))
        common.tell(0, 1, kind, peak)
    header = ("", "seconds", "MB of text a second", "MB of memory")
    show_rows(f"whole runs on {size:,.0f} MB of text, debug=fast model=bigram", header, rows)


def watch(command: list[str]) -> tuple[str, float]:
    """Return what a command prints and the most memory that it had, in MB: its own, without mapped files.

    Raises SystemExit, with the end of what it said, if it failed.
    """
    peak = 0.0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err)
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(SECONDS_BETWEEN_LOOKS)
        for file in (out, err):
            file.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(command[:3])} ... failed: {err.read().strip()[-500:]}")
        return out.read(), peak


def anonymous_memory(pid: int) -> float:
    """Return the memory of a process that is no part of a file, in MB; 0 where there is no Linux to ask."""
    try:
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        found = None
    return int(found[1]) * 1024 / 1e6 if found else 0.0
