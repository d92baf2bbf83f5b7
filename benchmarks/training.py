"""Tokens a second in training, beside the same work by other loops, with memory and the share of the matrix peak.

molino trains by scripts/train.py, with logging, checkpoints and progress, as `hardware=auto` has it; the others are
those of `benchmarks.loops`, as their users have them. All take turns; of each the first steps do not count.

Operations are those of linear layers and attention, forward and backward (`molino.models.cost`), whoever computes them.
The peak is that of a square matrix product, measured beside the rounds. Memory is the most that a process has held.
"""

import json
import os
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import common
from molino.base.console import say, show_rows

LOOPS = "benchmarks.loops"
OURS, PLAIN = "molino", "plain loop"
CONTENDERS = {
    PLAIN: "plain",
    "plain loop, fused AdamW": "fused",
    "transformers' GPT-2, plain loop": "transformers",
    "Lightning's defaults": "lightning",
}
WORDS = 33_000


@dataclass(frozen=True)
class Case:
    """A model, its batches, and how many steps a turn takes.

    Attributes:
        settings: overrides of scripts/train.py beside those that follow from the rest.
        steps: that count, a multiple of log_every; as many as log_every come before them.
        vocab_size: filled in when the corpus is prepared.
    """

    about: str
    family: str
    model: dict[str, Any]
    batch_size: int
    block_size: int
    steps: int
    log_every: int
    settings: tuple[str, ...] = ()
    clip: bool = True
    vocab_size: int = 0
    data: tuple[str, ...] = ("data=pydocs",)

    def overrides(self) -> list[str]:
        sizes = [f"model.{name}={str(value).lower()}" for name, value in self.model.items()]
        batches = [f"data.batch_size={self.batch_size}", f"data.block_size={self.block_size}"]
        clip = "1.0" if self.clip else "null"
        return [*self.data, f"model={self.family}", *sizes, *batches, f"trainer.clip={clip}", *self.settings]


CASES = {
    "small": Case(
        "GPT, 4 layers of 128, batch 12 x 64",
        "gpt",
        {"n_layer": 4, "n_head": 4, "n_embd": 128},
        12,
        64,
        steps=200,
        log_every=50,
    ),
    "deep": Case(
        "GPT, 6 layers of 384, dropout 0.2, batch 16 x 256",
        "gpt",
        {"n_layer": 6, "n_head": 6, "n_embd": 384, "dropout": 0.2},
        16,
        256,
        steps=4,
        log_every=2,
    ),
    "bigram": Case("bigram, batch 32 x 8", "bigram", {}, 32, 8, steps=9_000, log_every=500, clip=False),
    "words": Case(
        f"GPT, 2 layers of 200, {WORDS:,} words, batch 32 x 64",
        "gpt",
        {"n_layer": 2, "n_head": 2, "n_embd": 200, "tie_weights": False},
        32,
        64,
        steps=8,
        log_every=2,
        data=("data=text", "data/tokenizer=whitespace", "data.tokenizer.end_of_line=null"),
    ),
}


@dataclass
class Figures:
    """What the rounds gave, by contender: tokens a second, MiB; and the peak, operations a second by precision."""

    speeds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    peak: dict[str, float] = field(default_factory=dict)


def training(train: str, folder: Path, rounds: int, names: list[str]) -> dict[str, Any]:
    """Print a table for each case; return what they show.

    Args:
        train: path of scripts/train.py.
        folder: an existing one, for what is written on the way.
        names: in CASES.
    """
    shown = {}
    for name in names:
        place = folder / name
        place.mkdir()
        case, cache = prepare(train, place, CASES[name])
        figures = measure(train, place, cache, case, rounds)
        shown[name] = show(name, case, figures, rounds)
    return shown


def prepare(train: str, place: Path, case: Case) -> tuple[Case, Path]:
    """Prepare a case's tokens once and lay them where the loops look for them; return the case and the cache."""
    import numpy as np

    data = case.data
    if "data=text" in data:
        text = place / "words.txt"
        text.write_text(words(WORDS), "utf-8")
        data = (*data, f"data.path={text}")
    cache = place / "cache"
    # A bigram of so many words would write a checkpoint of 13 GB.
    small = ("model=gpt", "model.n_layer=1", "model.n_head=1", "model.n_embd=8", "data.block_size=8")
    run = common.train_run(train, place, cache, *data, *small, "debug=fast", "trainer.sample_tokens=0")
    tokens = np.load(next(cache.glob("tokens/*/train.npy")))
    vocabulary = json.loads((run / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    case = Case(**{**asdict(case), "data": data, "vocab_size": len(vocabulary)})
    np.save(place / "train.npy", tokens)
    (place / "case.json").write_text(json.dumps(asdict(case)), "utf-8")
    return case, cache


def words(count: int) -> str:
    """Return a text of `count` distinct words, which first come one by one and then as unevenly as in a language."""
    import numpy as np

    draws = np.random.default_rng(0).zipf(1.2, 400_000) % count
    return " ".join(f"w{number}" for number in [*range(count), *draws.tolist()])


def measure(train: str, place: Path, cache: Path, case: Case, rounds: int) -> Figures:
    """Let all contenders train each round, and the peak be measured before."""
    kinds = {name: kind for name, kind in CONTENDERS.items() if case.family == "gpt" or kind != "transformers"}
    as_used = {name: value for name, value in os.environ.items() if name not in common.WAITING}
    figures = Figures({name: [] for name in (OURS, *kinds)})
    peaks: list[dict[str, float]] = []
    with ExitStack() as stack:
        loops = {}
        for number, kind in enumerate((*kinds.values(), "peak")):
            loops[kind] = common.Contender(kind, place, place / f"{number}.log", as_used, LOOPS)
            stack.callback(loops[kind].stop)
        turns: dict[str, Callable[[], tuple[float, float | None]]] = {
            OURS: lambda: _our_turn(train, place, cache, case),
            **{name: lambda loop=loops[kind]: _their_turn(loop, case) for name, kind in kinds.items()},
        }
        for number in range(rounds):
            peaks.append(loops["peak"].turn())
            for name, turn in turns.items():
                seconds, memory = turn()
                figures.speeds[name].append(case.steps * case.batch_size * case.block_size / seconds)
                figures.memory[name] = max(memory or 0.0, figures.memory.get(name, 0.0))
                common.tell(number, rounds, f"{case.about}: {name}", figures.speeds[name][-1])
    figures.peak = {precision: max(peak[precision] for peak in peaks) for precision in peaks[0]}
    return figures


def _our_turn(train: str, place: Path, cache: Path, case: Case) -> tuple[float, float | None]:
    last = case.steps + case.log_every
    lengths = [f"trainer.max_steps={last}", f"trainer.val_every={last}", f"trainer.log_every={case.log_every}"]
    more = [*lengths, f"trainer.checkpoint_every={last}", "trainer.sample_tokens=0", "scheduler.warmup_steps=0"]
    memory: list[float | None] = []
    run = common.train_run(train, place, cache, *case.overrides(), *more, memory=memory)
    times = {step: moment for step, _, moment in common.logged(run)}
    return times[last] - times[case.log_every], memory[0]


def _their_turn(loop: common.Contender, case: Case) -> tuple[float, float | None]:
    answer = loop.turn(steps=case.steps, warm=case.log_every)
    return answer["seconds"], answer["memory"]


def operations(case: Case) -> float:
    """Return the operations of training on one token, the mean over a window."""
    # Here, so that --help need not wait for torch.
    from molino.machine.policy import training_flops
    from molino.models.bigram import Bigram
    from molino.models.gpt import GPT
    from molino.models.shapes import shapes_only

    with shapes_only():
        family = Bigram if case.family == "bigram" else GPT
        model = family(case.vocab_size, case.block_size, **case.model)
    return training_flops(model, case.block_size)


def show(name: str, case: Case, figures: Figures, rounds: int) -> dict[str, Any]:
    """Print the table of a case; return it as plain values."""
    each, rows, values = operations(case), [], {}
    best = max(figures.peak.values())
    for contender, speeds in figures.speeds.items():
        median, spread, ratio = common.summary(speeds, figures.speeds[OURS], "{:,.0f}")
        computed = statistics.median(speeds) * each
        share = f"{computed / best:.0%}" if each else "-"
        rows.append(
            (contender, median, spread, ratio, f"{computed / 1e9:,.0f}", share, f"{figures.memory[contender]:,.0f}")
        )
        values[contender] = {
            "tokens_per_second": statistics.median(speeds),
            "all_rounds": speeds,
            "molino_is_faster_by": float(ratio),
            "operations_per_second": computed,
            "memory_mib": figures.memory[contender],
        }
    title = f"tokens a second, {name}: {case.about}; {rounds} rounds; ratio: {OURS} / this"
    show_rows(title, ("", "median", "range", "ratio", "GFLOP/s", "of peak", "MiB"), rows)
    told = ", ".join(f"{speed / 1e9:,.0f} GFLOP/s in {precision}" for precision, speed in figures.peak.items())
    say(f"peak measured: {told}\n")
    return {"case": asdict(case), "peak": figures.peak, "contenders": values}
