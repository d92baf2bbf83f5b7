"""Examples a second in fine-tuning and in predicting, beside the Trainer of transformers and a plain PyTorch loop.

All train the same model, from the same folder of weights, on the sentences of SST-2 with the same tokens, batch and
longest sequence. Each is a process that lives through all rounds and is asked for so many steps a turn; molino trains
by its own command from Python, whole, and what a turn of few steps takes is taken off one of many, so that neither
start nor validation count. The Trainer pads each batch to its longest, as its users have it; asked for, it groups
lengths too.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import common

BATCH, LONGEST = 32, 64
LAYERS = {"n_layer": 4, "n_head": 4, "n_embd": 128}
STEPS = (20, 120)  # of a short and of a long turn
MODULE = "benchmarks.classification"
OURS, PLAIN, TRAINER, GROUPED = "molino", "plain loop", "Trainer", "Trainer, lengths grouped"
OURS_AS_IT_COMES = "molino, hardware=auto"
PIPELINE = "pipeline of transformers"


def classification(train: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Print two tables; return the figures.

    Args:
        train: scripts/train.py.
        folder: an existing one, for whatever is written.
    """
    common.need("classification", "transformers", "accelerate")
    source = prepare(train, folder)
    found: dict[str, Any] = {}
    for what, kinds, reference in (
        ("training", (OURS, OURS_AS_IT_COMES, PLAIN, TRAINER, GROUPED), TRAINER),
        ("predicting", (OURS, PIPELINE), PIPELINE),
    ):
        with ExitStack() as stack:
            taking_part = {}
            for number, kind in enumerate(kinds):
                log = folder / f"{what}-{number}.log"
                contender = common.Contender(f"{what}: {kind}", source, log, dict(os.environ), MODULE)
                stack.callback(contender.stop)
                taking_part[kind] = contender
            turns = {kind: (lambda each=each: each.turn()["per_second"]) for kind, each in taking_part.items()}
            for turn in turns.values():
                turn()  # the first one pays for imports and compilation
            found[what] = common.take_turns(turns, rounds)
        show(f"{what}, examples a second", found[what], reference)
    return found


def show(title: str, found: dict[str, list[float]], reference: str) -> None:
    """Print medians, ranges, and how many times as fast as the reference each is, round by round."""
    rows = []
    for name, values in found.items():
        ratios = [mine / other for mine, other in zip(values, found[reference], strict=True)]
        rows.append((name, f"{statistics.median(values):,.0f}", f"{min(values):,.0f} to {max(values):,.0f}",
                     f"{statistics.median(ratios):.2f}"))  # fmt: skip
    common.show_rows(f"{title}; ratio: this / {reference}", ("", "median", "range", "ratio"), rows)


def prepare(train: str, folder: Path) -> Path:
    """Train nothing for a step, and return the folder of a model with a head and its tokenizer, with the cache."""
    sizes = [f"model.{name}={value}" for name, value in LAYERS.items()]
    more = ["model=gpt", *sizes, f"data.block_size={LONGEST}", "data/tokenizer=bpe", "data.tokenizer.size=4096"]
    more += ["model.activation=gelu_tanh", "trainer.max_steps=0", "trainer.sample_tokens=0", "task.lm_coef=0"]
    run = common.train_run(train, folder, folder / "cache", "data=sst2", "task=classification", *more)
    target = folder / "model"
    export = str(Path(train).with_name("export.py"))
    common.run([sys.executable, export, f"run={run}", f"to={target}"])
    return target


# The contenders, each in a process of its own


def sentences(source: Path, split: str) -> list[tuple[str, int]]:
    """Return the sentences of SST-2 and the numbers of their classes."""
    from molino.configuration.build import build
    from molino.configuration.composer import compose
    from molino.data.corpus import Corpus

    data = compose("train", ["data=sst2", f"paths.cache={source.parent / 'cache'}"]).settings["data"]
    examples = build(data["corpus"], "data.corpus", Corpus).examples()[split]
    return [(each.text, int(each.label == "positive")) for each in examples]


def molino_trains(source: Path, *more: str) -> Callable[[int], float]:
    import molino

    places = [f"paths.cache={source.parent / 'cache'}", f"paths.outputs={source.parent / 'outputs'}"]
    settings = [
        "model=pretrained", f"model.source={source}", "data=sst2", "task=classification", "task.lm_coef=0",
        f"data.batch_size={BATCH}", f"data.block_size={LONGEST}", "trainer.val_every=100000", "trainer.log_every=20",
        "trainer.checkpoint_every=100000", "trainer.sample_tokens=0", "optimizer.lr=1e-4", *places, *more,
    ]  # fmt: skip

    def train(steps: int) -> float:
        began = time.perf_counter()
        molino.train([*settings, f"trainer.max_steps={steps}"], quiet=True)
        return time.perf_counter() - began

    return train


def batches_of(source: Path) -> tuple[Any, Any, list[tuple[list[int], int]]]:
    """Return model and tokenizer of transformers, and the training sentences as ids with their classes."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(source)
    texts = sentences(source, "train")
    ids = tokenizer([text for text, _ in texts], truncation=True, max_length=LONGEST)["input_ids"]
    return model, tokenizer, list(zip(ids, (label for _, label in texts), strict=True))


def plain_loop(source: Path) -> Callable[[int], float]:
    import torch
    from torch.utils.data import DataLoader

    model, tokenizer, examples = batches_of(source)

    def collate(rows: list[tuple[list[int], int]]) -> dict[str, Any]:
        padded = tokenizer.pad({"input_ids": [ids for ids, _ in rows]}, return_tensors="pt")
        return {**padded, "labels": torch.tensor([label for _, label in rows])}

    def train(steps: int) -> float:
        optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
        loader = iter(DataLoader(examples, BATCH, shuffle=True, collate_fn=collate, drop_last=True))
        model.train()
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            model(**next(loader)).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return time.perf_counter() - began

    return train


def trainer(source: Path, **more: Any) -> Callable[[int], float]:
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    model, tokenizer, examples = batches_of(source)
    rows = [{"input_ids": ids, "labels": label} for ids, label in examples]

    def train(steps: int) -> float:
        arguments = TrainingArguments(
            str(source.parent / "trainer"), max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-4,
            report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, logging_steps=20, **more,
        )  # fmt: skip
        own = Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))
        began = time.perf_counter()
        own.train()
        return time.perf_counter() - began

    return train


def molino_predicts(source: Path) -> Callable[[], None]:
    import molino

    run, texts = molino.load(source), [text for text, _ in sentences(source, "test")]
    return lambda: run.predict(texts)


def pipeline_predicts(source: Path) -> Callable[[], None]:
    from transformers import pipeline

    classify, texts = (
        pipeline("text-classification", str(source), device=-1),
        [text for text, _ in sentences(source, "test")],
    )
    return lambda: classify(texts, batch_size=BATCH, truncation=True, max_length=LONGEST)


TRAINING: dict[str, Callable[[Path], Callable[[int], float]]] = {
    OURS: lambda source: molino_trains(source, "hardware=cpu"),
    OURS_AS_IT_COMES: molino_trains,
    PLAIN: plain_loop,
    TRAINER: trainer,
    GROUPED: lambda source: trainer(source, train_sampling_strategy="group_by_length"),
}
PREDICTING = {OURS: molino_predicts, PIPELINE: pipeline_predicts}


def main(kind: str, folder: str) -> None:
    """Take the turns of a contender."""
    from benchmarks.worker import answer

    what, _, name = kind.partition(": ")

    def begin() -> Callable[[dict[str, Any]], dict[str, Any]]:
        if what == "training":
            train = TRAINING[name](Path(folder))

            def turn(request: dict[str, Any]) -> dict[str, Any]:
                short, long = (train(steps) for steps in STEPS)
                return {"per_second": (STEPS[1] - STEPS[0]) * BATCH / (long - short)}

            return turn
        predict, count = PREDICTING[name](Path(folder)), len(sentences(Path(folder), "test"))

        def asked(request: dict[str, Any]) -> dict[str, Any]:
            began = time.perf_counter()
            predict()
            return {"per_second": count / (time.perf_counter() - began)}

        return asked

    answer(begin)


if __name__ == "__main__":
    main(*sys.argv[1:])
