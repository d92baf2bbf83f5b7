"""Training loops as one writes them without molino, each a contender in a process of its own.

    python -m benchmarks.loops KIND FOLDER

FOLDER holds case.json (see `benchmarks.training.Case`) and train.npy, the tokens. A line of JSON on the standard
input asks for a turn, {"steps": 100}; a line on the standard output answers, {"seconds": ..., "memory": ...}.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.common import status
from benchmarks.worker import answer

Turn = Callable[[dict[str, Any]], dict[str, Any]]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
CLIP = 1.0


class Data(torch.utils.data.Dataset):
    """Windows of a stream of tokens: input and target."""

    def __init__(self, tokens: torch.Tensor, block_size: int):
        self.tokens, self.block_size = tokens, block_size

    def __len__(self) -> int:
        return len(self.tokens) - self.block_size

    def __getitem__(self, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        window = self.tokens[start : start + self.block_size + 1]
        return window[:-1], window[1:]


def our_model(case: dict[str, Any]) -> tuple[nn.Module, Loss]:
    """Return the case's model of molino, with nothing in it that is there for speed."""
    from molino.models.attention import choose_path
    from molino.models.bigram import Bigram
    from molino.models.dropout import Dropout
    from molino.models.gpt import GPT

    family = Bigram if case["family"] == "bigram" else GPT
    model = family(case["vocab_size"], case["block_size"], **case["model"])
    choose_path(model, "fused")
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.p))

    def loss(inputs_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(inputs_BT).flatten(0, 1), targets_BT.flatten())

    return model, loss


def their_model(case: dict[str, Any]) -> tuple[nn.Module, Loss]:
    """Return a GPT-2 of `transformers` of the case's shape."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes, dropout = case["model"], case["model"].get("dropout", 0.0)
    names = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd"}
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=case["vocab_size"],
            n_positions=case["block_size"],
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            tie_word_embeddings=sizes.get("tie_weights", True),
            **{theirs: sizes[ours] for ours, theirs in names.items()},
        )
    )

    def loss(inputs_BT: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(input_ids=inputs_BT, use_cache=False).logits.flatten(0, 1), targets_BT.flatten())

    return model.train(), loss


def plain(folder: Path, case: dict[str, Any], build: Callable, fused: bool = False) -> Turn:
    """The loop of nanoGPT: a batch put together row by row, AdamW as torch chooses it, the loss asked for now and then.

    Args:
        fused: the same at its best: batches by one look-up, and the fused AdamW.
    """
    data = _tokens(folder)
    model, loss_of = build(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, fused=fused or None)
    T, offsets = case["block_size"], torch.arange(case["block_size"] + 1)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        starts = torch.randint(len(data) - T, (case["batch_size"],))
        if fused:
            windows = data[starts[:, None] + offsets]
            return windows[:, :-1], windows[:, 1:]
        rows = [(data[i : i + T], data[i + 1 : i + T + 1]) for i in starts]
        return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])

    def turn(request: dict[str, Any]) -> dict[str, Any]:
        for step in range(request["steps"] + request["warm"]):
            if step == request["warm"]:
                began = time.perf_counter()
            loss = loss_of(*batch())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if case["clip"]:
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            if step % case["log_every"] == 0:
                loss.item()
        return {"seconds": time.perf_counter() - began, "memory": status("VmHWM")}

    return turn


def lightning(folder: Path, case: dict[str, Any]) -> Turn:
    """Lightning's Trainer with its defaults: automatic optimization, shuffling DataLoader, logger, bar, checkpoint."""
    from lightning.pytorch import Callback, LightningModule, Trainer
    from torch.utils.data import DataLoader

    model, loss_of = our_model(case)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            loss = loss_of(*batch)
            self.log("train/loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)

    class Clock(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == self.warm:
                self.began = time.perf_counter()

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.ended = time.perf_counter()

    loader = DataLoader(Data(_tokens(folder), case["block_size"]), case["batch_size"], shuffle=True)

    def turn(request: dict[str, Any]) -> dict[str, Any]:
        clock = Clock()
        clock.warm = request["warm"]
        trainer = Trainer(
            max_steps=request["steps"] + request["warm"],
            accelerator="cpu",
            gradient_clip_val=CLIP if case["clip"] else None,
            default_root_dir=folder,
            callbacks=[clock],
        )
        trainer.fit(Module(), loader)
        return {"seconds": clock.ended - clock.began, "memory": status("VmHWM")}

    return turn


def peak(folder: Path, case: dict[str, Any]) -> Turn:
    """Operations a second of square matrix products, of 2,048 rows, in fp32 and, if the CPU knows it, in bf16."""
    from molino.machine.policy import multiplies_bf16

    def speed(dtype: torch.dtype) -> float:
        n = 2048
        a, b = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype)
        seconds = []
        for _ in range(8):
            began = time.perf_counter()
            torch.mm(a, b)
            seconds.append(time.perf_counter() - began)
        return 2 * n**3 / min(seconds)

    kinds = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if multiplies_bf16() else {})
    return lambda request: {name: speed(dtype) for name, dtype in kinds.items()}


def _tokens(folder: Path) -> torch.Tensor:
    return torch.from_numpy(np.load(folder / "train.npy").astype(np.int64))


KINDS: dict[str, Callable[[Path, dict[str, Any]], Turn]] = {
    "plain": partial(plain, build=our_model),
    "fused": partial(plain, build=our_model, fused=True),
    "transformers": partial(plain, build=their_model),
    "lightning": lightning,
    "peak": peak,
}

if __name__ == "__main__":
    kind, place = sys.argv[1:]
    answer(lambda: KINDS[kind](Path(place), json.loads((Path(place) / "case.json").read_text("utf-8"))))
