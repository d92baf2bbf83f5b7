"""Tokens a second in training a translation, and sentences a second in writing, beside torch.nn.Transformer and
`generate` of transformers.

All train the transformer of 2017 of one size on Multi30k, German to English, with the same tokens; tokens are counted
without padding. One plain loop trains on the very batches that molino draws, in which sentences are of near-equal
lengths; another one shuffles them into batches of equally many, as loops without such care have it. All write with the
weights of one exported folder, `generate` in batches of 64 sentences, in the order of the file, and sorted by length.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.classification import show

SIZES = {"n_layer": 3, "n_head": 8, "n_embd": 256, "n_inner": 512}
VOCABULARY, TOKENS, DROPOUT = 8000, 4096, 0.1
STEPS = (10, 40)  # of a short and of a long turn
BEFORE = 200  # steps of training before anything is written
BATCH = 64  # sentences that `generate` is given at once
BEAMS = 4
MODULE = "benchmarks.translation"
OURS, SAME, SHUFFLED = "molino", "plain loop, the same batches", "plain loop, shuffled"
GREEDY, BEAM = "greedy", f"{BEAMS} beams"
GENERATE, SORTED = "generate", "generate, sorted"


def translation(train: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Print three tables; return the figures.

    Args:
        train: scripts/train.py.
        folder: an existing one, for whatever is written.
    """
    common.need("translation", "transformers", "sacrebleu")
    source, found = prepare(train, folder), {}
    for what, kinds, reference in (
        ("training", (OURS, SAME, SHUFFLED), SAME),
        (GREEDY, (OURS, GENERATE, SORTED), SORTED),
        (BEAM, (OURS, GENERATE, SORTED), SORTED),
    ):
        with ExitStack() as stack:
            turns = {}
            for number, kind in enumerate(kinds):
                log = folder / f"{what}-{number}.log"
                contender = common.Contender(f"{what}: {kind}", source, log, dict(os.environ), MODULE)
                stack.callback(contender.stop)
                turns[kind] = lambda contender=contender: contender.turn()["per_second"]
            for turn in turns.values():
                turn()  # the first one pays for imports
            found[what] = common.take_turns(turns, rounds)
        unit = "tokens a second, padding aside" if what == "training" else "sentences a second"
        show(f"{what}, {unit}", found[what], reference)
    return found


def settings_of(folder: Path) -> list[str]:
    """Return what is trained, as molino is told."""
    sizes = [f"model.{name}={value}" for name, value in SIZES.items()]
    return [
        "data=multi30k_de_en", "task=sequence_to_sequence", "model=transformer", *sizes, "task.written=0",
        f"model.dropout={DROPOUT}", f"data.tokenizer.size={VOCABULARY}", f"data.batch_tokens={TOKENS}", "hardware=cpu",
        "trainer.val_every=100000", "trainer.checkpoint_every=100000", "trainer.log_every=10",
        "trainer.sample_tokens=0", "optimizer.lr=2e-3", f"paths.cache={folder / 'cache'}",
        f"paths.outputs={folder / 'outputs'}",
    ]  # fmt: skip


def prepare(train: str, folder: Path) -> Path:
    """Train for some steps, and return the folder of the model and its tokenizer, with the cache beside it."""
    more = [each for each in settings_of(folder) if not each.startswith("paths.")]
    run = common.train_run(train, folder, folder / "cache", *more, f"trainer.max_steps={BEFORE}")
    target = folder / "model"
    common.run([sys.executable, str(Path(train).with_name("export.py")), f"run={run}", f"to={target}"])
    return target


def batches(source: Path, count: int) -> Iterator[dict[str, Any]]:
    """Yield the first batches that molino trains on."""
    from molino.configuration.composer import compose
    from molino.training.parts import build_parts

    parts = build_parts(compose("train", settings_of(source.parent)).settings)
    parts.data.setup()
    for micro_batches in parts.data.block(np.arange(count)).steps():
        yield micro_batches[0].fields


# The contenders, each in a process of its own: they return the seconds that so many steps took, and the tokens


def molino_trains(source: Path) -> Callable[[int], tuple[float, int]]:
    import molino

    settings = settings_of(source.parent)
    tokens = [tokens_in(batch) for batch in batches(source, STEPS[1])]

    def train(steps: int) -> tuple[float, int]:
        began = time.perf_counter()
        molino.train([*settings, f"trainer.max_steps={steps}"], quiet=True)
        return time.perf_counter() - began, sum(tokens[:steps])

    return train


def tokens_in(batch: dict[str, Any]) -> int:
    """Return how many tokens of sources and targets there are in a batch, padding aside."""
    return int(batch["seen"].sum()) + int((batch["targets"] >= 0).sum())


def shuffled(drawn: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the sentences of some batches in batches of equally many, by chance, each padded to its longest."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    kept = {"source": "seen", "tokens": "targets", "targets": "targets"}
    rows = [
        {name: batch[name][row][batch[mask][row] >= (1 if mask == "seen" else 0)] for name, mask in kept.items()}
        for batch in drawn
        for row in range(len(batch["source"]))
    ]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    size = -(-len(rows) // len(drawn))
    found = []
    for first in range(0, len(order), size):
        few = [rows[number] for number in order[first : first + size]]
        batch = {name: pad_sequence([row[name] for row in few], True, -100) for name in kept}
        batch["seen"] = batch["source"] >= 0
        found.append({name: each if name == "targets" else each.clamp(min=0) for name, each in batch.items()})
    return found


def plain_loop(source: Path, arrange: Callable[[list], list]) -> Callable[[int], tuple[float, int]]:
    import torch
    from torch.nn import functional as F

    drawn = arrange(list(batches(source, STEPS[1])))
    model = plain_model(max(int(each.max()) for batch in drawn for each in batch.values()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)

    def train(steps: int) -> tuple[float, int]:
        model.train()
        began = time.perf_counter()
        for batch in drawn[:steps]:
            optimizer.zero_grad()
            logits_BTV = model(batch["source"], batch["tokens"], ~batch["seen"].bool())
            F.cross_entropy(logits_BTV.flatten(0, 1), batch["targets"].flatten()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return time.perf_counter() - began, sum(map(tokens_in, drawn[:steps]))

    return train


def plain_model(vocab_size: int) -> Any:
    """Return torch's transformer with a table of tokens, which is the head too, and sinusoids."""
    import torch
    from torch import nn

    from molino.models.gpt import SinusoidalPositions

    C = SIZES["n_embd"]

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.places = nn.Embedding(vocab_size, C), SinusoidalPositions(200, C)
            nn.init.normal_(self.table.weight, std=C**-0.5)
            self.drop = nn.Dropout(DROPOUT)
            layers = SIZES["n_layer"]
            self.transformer = nn.Transformer(
                C, SIZES["n_head"], layers, layers, SIZES["n_inner"], DROPOUT, batch_first=True, norm_first=True
            )

        def forward(self, source_BS, tokens_BT, padding_BS):
            x, y = (
                self.drop(self.table(ids) * C**0.5 + self.places(torch.arange(ids.shape[1])))
                for ids in (source_BS, tokens_BT)
            )
            causal = nn.Transformer.generate_square_subsequent_mask(tokens_BT.shape[1])
            masks = {"src_key_padding_mask": padding_BS, "memory_key_padding_mask": padding_BS}
            return nn.functional.linear(self.transformer(x, y, tgt_mask=causal, **masks), self.table.weight)

    return Plain()


def sentences(source: Path) -> list[str]:
    """Return the German sentences of the test split."""
    from molino.configuration.build import build
    from molino.configuration.composer import compose
    from molino.data.corpus import Corpus

    data = compose("train", settings_of(source.parent)).settings["data"]
    return [each.text for each in build(data["corpus"], "data.corpus", Corpus).examples()["test"]]


def molino_writes(source: Path, beams: int) -> Callable[[], list[str]]:
    from molino.api.run import load
    from molino.trained.predicting import told_to_write

    run, texts = load(source, device="cpu"), sentences(source)
    run._loaded = told_to_write(run._loaded, {"beams": beams})
    return lambda: [each["translation_text"] for each in run.predict(texts)]


def generate_writes(source: Path, beams: int, by_length: bool) -> Callable[[], list[str]]:
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    model, texts = AutoModelForSeq2SeqLM.from_pretrained(source).eval(), sentences(source)
    order = sorted(range(len(texts)), key=lambda n: len(texts[n])) if by_length else list(range(len(texts)))

    @torch.inference_mode()
    def write() -> list[str]:
        found = [""] * len(texts)
        for first in range(0, len(order), BATCH):
            few = order[first : first + BATCH]
            read = tokenizer([texts[number] for number in few], padding=True, return_tensors="pt")
            rows = model.generate(**read, num_beams=beams)
            for number, row in zip(few, rows, strict=True):
                found[number] = tokenizer.decode(row, skip_special_tokens=True).strip()
        return found

    return write


TRAINING: dict[str, Callable[[Path], Callable[[int], tuple[float, int]]]] = {
    OURS: molino_trains,
    SAME: lambda source: plain_loop(source, list),
    SHUFFLED: lambda source: plain_loop(source, shuffled),
}
WRITING: dict[str, Callable[[Path, int], Callable[[], list[str]]]] = {
    OURS: molino_writes,
    GENERATE: lambda source, beams: generate_writes(source, beams, False),
    SORTED: lambda source, beams: generate_writes(source, beams, True),
}


def main(kind: str, folder: str) -> None:
    """Take the turns of a contender."""
    from benchmarks.worker import answer

    what, _, name = kind.partition(": ")

    def begin() -> Callable[[dict[str, Any]], dict[str, Any]]:
        if what == "training":
            train = TRAINING[name](Path(folder))

            def trained(request: dict[str, Any]) -> dict[str, Any]:
                (short, few), (long, many) = (train(steps) for steps in STEPS)
                return {"per_second": (many - few) / (long - short)}

            return trained
        write = WRITING[name](Path(folder), 1 if what == GREEDY else BEAMS)

        def written(request: dict[str, Any]) -> dict[str, Any]:
            began = time.perf_counter()
            return {"per_second": len(write()) / (time.perf_counter() - began)}

        return written

    answer(begin)


if __name__ == "__main__":
    main(*sys.argv[1:])
