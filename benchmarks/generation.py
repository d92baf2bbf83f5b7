"""Tokens a second with and without KV cache, beside `transformers` with the same weights. CPU only, fp32.

Every contender is a process that lives through all rounds: it has its own memory, and pays for its imports once. A text
is a prompt of four tokens and exactly so many new ones, chosen greedily; its time includes reading the prompt.

Memory is the most a process has held since its imports; a compiled model's holds the compiler. Linux only.

The share of the bandwidth is what decoding with a cache has to read for each token (the weights but for tables of which
a token takes a row, and the keys and values so far) times the tokens a second, divided by what the machine reads when
it sums a tensor far larger than its caches. It is above 1 where a cache of the processor holds the model.
"""

import os
import statistics
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Contender
from benchmarks.worker import PROMPT
from molino.base.console import say, show_rows

VOCABULARY, CONTEXT = 65, 2048
SIZES = {"vocab_size": VOCABULARY, "block_size": CONTEXT, "n_layer": 6, "n_head": 6, "n_embd": 384}
# About 10 million parameters each.
MODELS = {
    "gpt": ("molino.models.gpt.GPT", SIZES | {"activation": "gelu_tanh"}),
    "llama": ("molino.models.llama.Llama", SIZES | {"n_kv_head": 2}),
}
OURS, COMPILED, UNCACHED = "molino, cached", "molino, cached and compiled", "molino, without cache"
THEIRS, THEIRS_AS_USED = "transformers, cached", "transformers, cached, threads as its users have them"
BANDWIDTH = "memory bandwidth"
KINDS = {
    OURS: "molino",
    COMPILED: "compiled",
    UNCACHED: "uncached",
    THEIRS: "transformers",
    THEIRS_AS_USED: "transformers",
    BANDWIDTH: "bandwidth",
}
LONG = 300  # tokens; a longer text without cache is written only once
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Reads:
    """What decoding a token reads, in bytes: of the weights, and of the cache for each token it holds."""

    weights: int
    cache: int

    def per_token(self, new_tokens: int) -> float:
        """Return the mean over the tokens of a text; the first sees the prompt, each further one a token more."""
        return self.weights + self.cache * (len(PROMPT) + (new_tokens - 1) / 2)


@dataclass(frozen=True)
class Figures:
    """What the rounds at one length gave, by contender; `bandwidth` in bytes a second."""

    speeds: dict[str, list[float]]
    memory: dict[str, float | None]
    texts: dict[str, list[list[int]]]
    bandwidth: float
    first_text: dict[str, float]  # seconds of the text before the rounds, which pays for compiling


def generation(folder: Path, models: list[str], lengths: list[int], rounds: int, compiled: bool) -> None:
    """Print a table for each model and length.

    Args:
        folder: an existing one, for weights and logs.
        models: names in MODELS.
        lengths: new tokens of a text.
        compiled: whether a compiled model of ours takes part.
    """
    common.need("generation", "transformers")
    names = [name for name in KINDS if compiled or name != COMPILED]
    for name in models:
        target, settings = MODELS[name]
        source = folder / name
        reads = write(source, target, settings)
        with contenders(source, names) as taking_part:
            # From short to long: the memory a process has used so far is that of its longest text.
            for new_tokens in sorted(set(lengths)):
                show(name, new_tokens, rounds, measure(taking_part, new_tokens, rounds, name), reads)


def write(folder: Path, target: str, settings: dict[str, Any]) -> Reads:
    """Write a model with random weights as a Hugging Face folder; return what decoding it reads."""
    import torch
    from torch import nn

    from molino.hub.read import FAMILIES
    from molino.hub.write import find_format, write_model

    torch.manual_seed(0)
    model = FAMILIES[target](**settings)
    with torch.no_grad():
        # Initial weights repeat one token for ever, by which no error would be noticed.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    folder.mkdir()
    never = {"bos_token_id": None, "eos_token_id": None}
    write_model(folder, model, find_format(model, settings), settings, never)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    tables -= {id(model.lm_head.weight)}  # which, if it is tied, is read whole
    weights = sum(parameter.nbytes for parameter in model.parameters() if id(parameter) not in tables)
    return Reads(weights, FLOAT_BYTES * model.capabilities.cache.numbers_per_token)


@contextmanager
def contenders(folder: Path, names: Collection[str]) -> Iterator[dict[str, Contender]]:
    """Start these processes of KINDS on the model in `folder`, all at once, and end them afterwards."""
    same = os.environ | {"HF_HUB_OFFLINE": "1"}
    as_used = {name: value for name, value in same.items() if name not in common.WAITING}
    with ExitStack() as stack:
        started = {}
        for number, name in enumerate(names):
            environment = as_used if name == THEIRS_AS_USED else same
            started[name] = Contender(KINDS[name], folder, folder / f"{number}.log", environment)
            stack.callback(started[name].stop)
        yield started


def measure(taking_part: dict[str, Contender], new_tokens: int, rounds: int, title: str) -> Figures:
    """Let all contenders write a text each round, and the bandwidth be measured beside them."""
    names = [name for name in taking_part if name != BANDWIDTH]
    speeds, texts = {name: [] for name in names}, {name: [] for name in names}
    memory, bandwidths, first_text = {}, [], {}
    for name in names:
        # Compiled code may be compiled again for texts longer than those it has seen.
        first = taking_part[name].turn(new_tokens=new_tokens if name == COMPILED else min(new_tokens, 16))
        first_text[name] = first["seconds"]
    for number in range(rounds):
        bandwidths.append(taking_part[BANDWIDTH].turn(new_tokens=0)["bytes_per_second"])
        for name in names:
            if name == UNCACHED and new_tokens > LONG and number > 0:
                continue
            answer = taking_part[name].turn(new_tokens=new_tokens)
            speeds[name].append(len(answer["tokens"]) / answer["seconds"])
            texts[name].append(answer["tokens"])
            memory[name] = answer["memory"]
            common.tell(number, rounds, f"{title}, {new_tokens} tokens: {name}", speeds[name][-1])
    return Figures(speeds, memory, texts, statistics.median(bandwidths), first_text)


def disagreements(texts: dict[str, list[list[int]]]) -> list[str]:
    """Return a line for each contender that ever wrote other tokens than ours with a cache did in the first round."""
    reference, lines = texts[OURS][0], []
    for name, written in texts.items():
        different = next((tokens for tokens in written if tokens != reference), None)
        if different is not None:
            pairs = zip(different, reference, strict=False)
            shorter = min(len(different), len(reference))
            place = next((place for place, (mine, other) in enumerate(pairs) if mine != other), shorter)
            lines.append(f"greedy tokens DIFFER: {name} leaves {OURS} at token {place + 1} of {len(reference)}")
    return lines


def bandwidth_share(reads: Reads, new_tokens: int, speed: float, bandwidth: float) -> float:
    """Return the part of `bandwidth` (bytes a second) that `speed` (tokens a second) needs."""
    return reads.per_token(new_tokens) * speed / bandwidth


def show(name: str, new_tokens: int, rounds: int, figures: Figures, reads: Reads) -> None:
    """Print the table of a model at one length, whether all wrote the same, and what the cache is worth."""
    rows = []
    for contender, speeds in figures.speeds.items():
        note = f" ({len(speeds)} round)" if len(speeds) < rounds else ""
        memory = figures.memory[contender]
        share = bandwidth_share(reads, new_tokens, statistics.median(speeds), figures.bandwidth)
        mebibytes = "-" if memory is None else f"{memory:,.0f}"
        texts = common.summary(speeds, figures.speeds[OURS], "{:,.0f}")
        rows.append((contender + note, *texts, mebibytes, f"{share:.0%}"))
    title = f"tokens a second, {name}, {new_tokens} tokens, {rounds} rounds; ratio: {OURS} / this"
    show_rows(title, ("", "median", "range", "ratio", "MiB", "of bandwidth"), rows)
    speed_up = common.summary(figures.speeds[UNCACHED], figures.speeds[OURS], "{:,.0f}")[2]
    say(f"the cache makes {name} {speed_up} times as fast at {new_tokens} tokens")
    megabytes = reads.per_token(new_tokens) / 1e6
    say(f"bandwidth measured: {figures.bandwidth / 1e9:.1f} GB/s; a token reads {megabytes:.1f} MB")
    if COMPILED in figures.first_text:
        say(f"first text of the compiled model, with what was compiled for it: {figures.first_text[COMPILED]:.1f} s")
    for line in disagreements(figures.texts) or ["greedy tokens of all contenders agree"]:
        say(line)
    say("")
