"""Seconds from the command to a held-out loss on Tiny Shakespeare, of experiment=shakespeare_fast and the plain recipe.

    python -m benchmarks.recipe TRAIN.npy VAL.npy STEPS        the plain recipe, in a process of its own

The plain recipe is that of nanoGPT for CPUs: 4 layers of 128, 2,000 steps of 12 windows of 64 characters, AdamW at 1e-3
with a cosine down to 1e-4, fp32, as a plain loop. Both are judged by the exact loss of the whole held-out split.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import common
from molino.base.console import show_rows

# What nanoGPT's own CPU run ends at, and where simple 5-grams (absolute discounting) stand; Kneser-Ney is below both.
TARGETS = (1.8857, 1.6922)
STEPS, WARMUP, RATE, FLOOR = 2000, 100, 1e-3, 1e-4
BATCH, BLOCK = 12, 64
FAST = "experiment=shakespeare_fast"


def recipe(train: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Print, and return, seconds to each of TARGETS, of the plain recipe and of ours, in turns."""
    cache = common.prepare(train, folder, "shakespeare")
    tokens = [str(next(cache.glob(f"tokens/*/{name}.npy"))) for name in ("train", "val")]
    as_used = {name: value for name, value in os.environ.items() if name not in common.WAITING}
    plain: dict[str, list[float]] = {"seconds": [], "loss": []}
    fast: dict[str, list[float]] = {"seconds": [], "loss": [], **{str(target): [] for target in TARGETS}}
    for number in range(rounds):
        began = time.time()
        command = [sys.executable, "-m", "benchmarks.recipe", *tokens, str(STEPS)]
        printed = subprocess.run(command, env=as_used, check=True, stdout=subprocess.PIPE, text=True).stdout
        plain["seconds"].append(time.time() - began)
        plain["loss"].append(json.loads(printed)["loss"])
        common.tell(number, rounds, "plain recipe, seconds", plain["seconds"][-1])
        began = time.time()
        run = common.train_run(train, folder, cache, FAST)
        fast["seconds"].append(time.time() - began)
        losses = common.logged(run, "val/loss")
        fast["loss"].append(losses[-1][1])
        for target in TARGETS:
            reached = (moment - began for _, loss, moment in losses if loss <= target)
            fast[str(target)].append(next(reached, float("inf")))
        common.tell(number, rounds, "ours, seconds", fast["seconds"][-1])
    rows = [("plain recipe, whole", *_row(plain["seconds"], plain["seconds"]), _mean(plain["loss"]))]
    for target in TARGETS:
        rows.append((f"{FAST} to {target}", *_row(fast[str(target)], plain["seconds"]), f"<= {target}"))
    rows.append((f"{FAST}, whole", *_row(fast["seconds"], plain["seconds"]), _mean(fast["loss"])))
    title = f"seconds from the command, {rounds} rounds; ratio: plain recipe / this"
    show_rows(title, ("", "median", "range", "ratio", "held-out loss"), rows)
    return {"plain": plain, "fast": fast}


def _row(seconds: list[float], plain: list[float]) -> tuple[str, str, str]:
    return common.summary(seconds, plain, "{:.1f}")


def _mean(losses: list[float]) -> str:
    return f"{sum(losses) / len(losses):.4f}"


def plain_recipe(train: str, val: str, steps: int) -> float:
    """Train by the plain recipe for so many steps; return the exact held-out loss."""
    import math

    import numpy as np
    import torch
    import torch.nn.functional as F

    from benchmarks.loops import our_model

    torch.manual_seed(0)
    data, held_out = (torch.from_numpy(np.load(path).astype(np.int64)) for path in (train, val))
    sizes = {"n_layer": 4, "n_head": 4, "n_embd": 128, "bias": False}
    model, loss_of = our_model(
        {"family": "gpt", "vocab_size": int(data.max()) + 1, "block_size": BLOCK, "model": sizes}
    )
    decayed = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    others = {"params": [parameter for parameter in model.parameters() if parameter.dim() < 2], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([{"params": decayed}, others], lr=RATE, betas=(0.9, 0.99), weight_decay=0.1)
    for step in range(steps):
        progress = max(step - WARMUP, 0) / (steps - WARMUP)
        cosine = FLOOR + 0.5 * (1 + math.cos(math.pi * progress)) * (RATE - FLOOR)
        for group in optimizer.param_groups:
            group["lr"] = min((step + 1) / WARMUP, 1.0) * cosine
        starts = torch.randint(len(data) - BLOCK, (BATCH,))
        inputs = torch.stack([data[i : i + BLOCK] for i in starts])
        targets = torch.stack([data[i + 1 : i + BLOCK + 1] for i in starts])
        loss = loss_of(inputs, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for at in range(0, len(held_out) - 1, 256 * BLOCK):
            piece = held_out[at : at + 256 * BLOCK + 1]
            full = (len(piece) - 1) // BLOCK * BLOCK
            for start, stop in ((0, full), (full, len(piece) - 1)):
                if stop > start:
                    rows = (-1, BLOCK) if stop == full else (1, -1)
                    logits = model(piece[start:stop].view(rows)).flatten(0, 1)
                    total += F.cross_entropy(logits, piece[start + 1 : stop + 1], reduction="sum").item()
    return total / (len(held_out) - 1)


if __name__ == "__main__":
    print(json.dumps({"loss": plain_recipe(*sys.argv[1:3], int(sys.argv[3]))}))
