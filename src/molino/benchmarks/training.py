"""Steps a second of `experiment=quijote_bigram`, beside a raw PyTorch loop that does the same work."""

import sys
from collections.abc import Callable
from pathlib import Path

from molino.benchmarks import common

# The raw loop: batches, forward, backward and step as one would write them by hand. Prints steps a second.
RAW_LOOP = """
import sys, time, numpy, torch
import torch.nn.functional as F
tokens = torch.from_numpy(numpy.load(sys.argv[1]).astype("int64"))
steps, fused = int(sys.argv[2]), sys.argv[3] == "fused"
table = torch.nn.Embedding(int(tokens.max()) + 1, int(tokens.max()) + 1)
optimizer = torch.optim.AdamW(table.parameters(), lr=1e-3, fused=fused)
offsets = torch.arange(9)
for step in range(steps):
    if step == 100:
        started = time.perf_counter()
    window = tokens[torch.randint(len(tokens) - 8, (32, 1)) + offsets]
    loss = F.cross_entropy(table(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        loss.item()
print((steps - 100) / (time.perf_counter() - started))
"""


def training(train: str, folder: Path, rounds: int, steps: int) -> None:
    """Print steps a second of molino and of the raw loop, with torch's default optimizer kernel and the fused one."""
    cache = common.prepare(train, folder, "quijote")
    tokens = next(cache.glob("tokens/*/train.npy"))

    def ours() -> float:
        # One validation, after the last logged step: the raw loop has none.
        lengths = (f"trainer.max_steps={steps}", f"trainer.val_every={steps}")
        directory = common.train_run(train, folder, cache, "experiment=quijote_bigram", *lengths)
        times = dict(common.logged(directory))
        return (steps - 100) / (times[steps] - times[100])

    def raw(kernel: str) -> Callable[[], float]:
        return lambda: float(common.run([sys.executable, "-c", RAW_LOOP, str(tokens), str(steps), kernel]))

    contenders = {"molino": ours, "raw loop, fused AdamW": raw("fused"), "raw loop": raw("default")}
    found = common.take_turns(contenders, rounds)
    common.show(f"steps a second, quijote_bigram, {steps:,} steps, {rounds} rounds", found, "molino", "{:,.0f}")
