"""A contender of the generation benchmark, in a process of its own that stays for all its turns.

    python -m benchmarks.worker KIND FOLDER

A line of JSON on its standard input asks for a turn, {"new_tokens": 100}; a line on its standard output answers.
"""

import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import status

PROMPT = (1, 2, 3, 4)
SUMMED = 100_000_000  # numbers of float32: far more than any cache of a processor holds
Turn = Callable[[int], dict[str, Any]]


def ours(folder: str, cached: bool, compiled: bool) -> Turn:
    """Return the turn of a model of molino."""
    import torch

    from molino.generation.decode import generate
    from molino.hub.read import load_model

    # The first operation on the meta device imports hundreds of modules; that is not the model's memory.
    torch.nn.init.normal_(torch.empty(1, device="meta"))
    before = after_imports()
    model = load_model(folder)
    if compiled:
        model.compile(dynamic=True)
    prompt_T = torch.tensor(PROMPT)

    def text(new_tokens: int) -> Iterator[int]:
        return (int(token_B[0]) for token_B in generate(model, prompt_T, new_tokens, temperature=0, cached=cached))

    return lambda new_tokens: decode(text, new_tokens, before)


def theirs(folder: str) -> Turn:
    """Return the turn of `transformers`, with its cache."""
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    # Classes are imported when they are first asked for; that is not the model's memory.
    family = MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.from_pretrained(folder))]
    before = after_imports()
    model = family.from_pretrained(folder, dtype=torch.float32).eval()
    prompt_1T = torch.tensor([PROMPT])
    settings = {"do_sample": False, "use_cache": True, "eos_token_id": None, "pad_token_id": 0}

    def text(new_tokens: int) -> list[int]:
        attention = torch.ones_like(prompt_1T)
        tokens_1T = model.generate(prompt_1T, attention_mask=attention, max_new_tokens=new_tokens, **settings)
        return tokens_1T[0, len(PROMPT) :].tolist()

    return lambda new_tokens: decode(text, new_tokens, before)


def memory_bandwidth(folder: str) -> Turn:
    """Return the turn that measures how many bytes a second the machine reads, with all threads."""
    import torch

    numbers = torch.ones(SUMMED)

    def once() -> float:
        began = time.perf_counter()
        numbers.sum()
        return numbers.nbytes / (time.perf_counter() - began)

    return lambda new_tokens: {"bytes_per_second": statistics.median(once() for _ in range(5))}


KINDS = {
    "molino": partial(ours, cached=True, compiled=False),
    "compiled": partial(ours, cached=True, compiled=True),
    "uncached": partial(ours, cached=False, compiled=False),
    "transformers": theirs,
    "bandwidth": memory_bandwidth,
}


def decode(text: Callable[[int], Any], new_tokens: int, before: float | None) -> dict[str, Any]:
    """Write a text; return its tokens, the seconds it took, and the most memory (MiB) the process has used so far."""
    began = time.perf_counter()
    tokens = list(text(new_tokens))
    seconds = time.perf_counter() - began
    peak = status("VmHWM")
    return {"tokens": tokens, "seconds": seconds, "memory": None if peak is None else peak - before}


def after_imports() -> float | None:
    """Return the process's memory (MiB) and let its peak be counted from here."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def answer(begin: Callable[[], Callable[[dict[str, Any]], dict[str, Any]]]) -> None:
    """Begin, then answer requests until the input ends."""
    # Whatever a library prints must not come between the answers.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        turn = begin()
        for line in sys.stdin:
            print(json.dumps(turn(json.loads(line))), file=answers, flush=True)


def main(kind: str, folder: str) -> None:
    """Take the turns of a contender."""

    def begin() -> Callable[[dict[str, Any]], dict[str, Any]]:
        turn = KINDS[kind](folder)
        return lambda request: turn(request["new_tokens"])

    answer(begin)


if __name__ == "__main__":
    main(*sys.argv[1:])
