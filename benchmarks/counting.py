"""What counting costs: seconds and memory from tokens to floors, and to what a network on counts is trained with.

    python -m benchmarks.counting CORPUS

Prints, as JSON, what one corpus takes in a process of its own, once its tokens are in the cache.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.common import FINDS_US
from molino.base.console import show_rows

# The word tokenizer's vocabulary in experiment=imdb_custom_gpt.
MORE = {"imdb": ["data.tokenizer.max_size=10000"]}


def counting(corpora: list[str]) -> dict[str, Any]:
    """Measure each corpus and print a table."""
    figures = {}
    for corpus in corpora:
        command = [sys.executable, "-m", "benchmarks.counting", corpus]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | FINDS_US, check=False)
        if done.returncode:
            sys.exit(done.stderr.strip())
        figures[corpus] = json.loads(done.stdout.splitlines()[-1])
    seconds, memory = ("order", "floors", "tables", "parts"), ("floors MiB", "MiB")
    header = ["corpus", "tokens", *(f"{name}, s" for name in seconds), "MiB with floors", "MiB"]
    rows = []
    for corpus, each in figures.items():
        times, sizes = (f"{each[name]:.1f}" for name in seconds), (f"{each[name]:,.0f}" for name in memory)
        rows.append([corpus, f"{each['tokens']:,}", *times, *sizes])
    show_rows("counting", header, rows)
    return figures


def measure(corpus: str) -> dict[str, float]:
    """Return seconds and peak memory of one corpus, all orders tried, the held-out split scored, nothing cached."""
    from molino.configuration.build import build
    from molino.configuration.composer import compose
    from molino.data.counts import best_order, count_parts, count_whole
    from molino.data.module import TextDataModule
    from molino.tasks.language_model import LanguageModel

    with tempfile.TemporaryDirectory() as cache:
        request = compose("train", [f"data={corpus}", *MORE.get(corpus, []), f"paths.cache={cache}"])
        given = {"task": LanguageModel(), "accumulate": 1, "steps_per_block": 1, "seed": 0}
        data = build(request.settings["data"], "data", TextDataModule, **given)
        data.setup()
        text, found = data.text, {"tokens": len(data.text.splits["train"].tokens)}
        for way, do in (
            ("order", lambda: best_order(text)),
            ("floors", lambda: LanguageModel().floors(text, "val", 64)),
            ("tables", lambda: count_whole(text, best_order(text))),
            ("parts", lambda: count_parts(text, best_order(text))),
        ):
            began = time.perf_counter()
            do()
            found[way] = time.perf_counter() - began
            found[f"{way} MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return found | {"MiB": found["parts MiB"]}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
