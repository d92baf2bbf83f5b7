"""Run directories as training leaves them, written without training anything."""

import copy
import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import yaml

MODELS = {
    "gpt": {"_target_": "molino.models.gpt.GPT", "n_layer": 4, "n_embd": 128, "dropout": 0.0, "norm": "pre"},
    "custom_gpt": {"_target_": "molino.models.gpt.GPT", "n_layer": 2, "n_embd": 200, "dropout": 0.2, "norm": "post"},
    "bigram": {"_target_": "molino.models.bigram.Bigram"},
}
CORPORA = {
    "quijote": {"_target_": "molino.data.corpora.remote.RemoteText", "name": "quijote", "train_fraction": 0.9},
    "pydocs": {"_target_": "molino.data.corpora.pydocs.PyDocs", "train_fraction": 0.9},
    "shakespeare": {"_target_": "molino.data.corpora.remote.RemoteText", "name": "shakespeare", "train_fraction": 0.9},
}
TOKENIZERS = {
    "char": {"_target_": "molino.data.tokenizers.train_char", "_partial_": True},
    "bpe": {"_target_": "molino.data.tokenizers.train_bpe", "_partial_": True, "size": 2048},
}
FLOORS = {"floor/unigram": 3.1, "floor/bigram": 2.24, "floor/ngram": 1.43, "floor/ngram_order": 5}


def compose(home: Path, choices: dict[str, str], settings: dict[str, Any]) -> dict[str, Any]:
    """The resolved settings of a run."""
    config = {
        "name": f"{choices['data']}-{choices['model']}",
        "seed": 0,
        "weights": None,
        "resume": None,
        "data": {
            "block_size": 64,
            "batch_size": 32,
            "cache": str(home / "cache"),
            "tokenizer": TOKENIZERS[choices["data/tokenizer"]],
            "corpus": {**CORPORA[choices["data"]], "cache": str(home / "cache"), "mirror": None},
        },
        "model": {**MODELS[choices["model"]], "block_size": 64},
        "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 3e-3, "betas": [0.9, 0.95]},
        "scheduler": {"_target_": "molino.training.schedules.cosine", "_partial_": True, "warmup_steps": 100},
        "trainer": {"_target_": "molino.training.plan.Plan", "max_steps": 1000, "val_every": 250},
        "hardware": {"_target_": "molino.machine.hardware.Hardware", "accelerator": "auto", "threads": None},
        "logger": {"csv": {"_target_": "molino.training.loggers.MetricsFile"}},
        "callbacks": {},
        "paths": {"outputs": str(home / "outputs"), "cache": str(home / "cache"), "mirror": None},
    }
    config = copy.deepcopy(config)
    for key, value in settings.items():
        *sections, name = key.split(".")
        node = config
        for section in sections:
            node = node[section]
        node[name] = value
    return config


def make_run(
    path: Path,
    *typed: str,
    loss: float | None = None,
    summary: dict[str, Any] | None = None,
    status: dict[str, Any] | None = None,
    config: bool = True,
    choices: bool = True,
    curve: list[tuple[int, float, float | None]] | None = None,
) -> Path:
    """Write a run for which `typed` was typed; done if it has a `loss` or a `summary`.

    Args:
        config: whether it has been composed.
        choices: whether it has recorded its choices; older runs have not.
        curve: step, held-out loss and seconds of each validation, for metrics.csv.
    """
    path.mkdir(parents=True)
    taken = {"data": "pydocs", "data/tokenizer": "char", "model": "gpt", "optimizer": "adamw", "experiment": None}
    settings = {}
    for override in typed:
        key, _, value = override.partition("=")
        if key in taken:
            taken[key] = value
        else:
            settings[key] = yaml.safe_load(value) if "e-" not in value else float(value)
    if config:
        composed = compose(path.parent, taken, settings)
        (path / "config.yaml").write_text(yaml.safe_dump(composed, sort_keys=False))
        (path / "overrides.yaml").write_text(yaml.safe_dump(list(typed)))
        recorded = {"python": "3.11"} | ({"choices": {**taken, "hydra/launcher": "basic"}} if choices else {})
        (path / "environment.json").write_text(json.dumps(recorded))
    if status is not None:
        (path / "status.json").write_text(json.dumps({"overrides": list(typed), **status}))
    if loss is not None or summary is not None:
        known = {
            "val/loss": loss,
            "val/perplexity": None if loss is None or loss > 700 else 2.718281828459045**loss,
            "val/bits_per_byte": None if loss is None else loss / 0.69,
            **FLOORS,
            "steps": 1000,
            "tokens_per_second": 2000.0,
            "seconds": 60.0,
            "parameters": 800_000,
            "corpus": taken["data"],
            "corpus_sha256": hashlib.sha256(taken["data"].encode()).hexdigest(),
        }
        (path / "summary.json").write_text(json.dumps({**known, **(summary or {})}))
    if curve is not None:
        with (path / "metrics.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", "train/loss", "val/loss", "seconds"])
            for step, value, seconds in curve:
                writer.writerow([step - 50, value + 0.2, "", ""])
                writer.writerow([step, value + 0.1, value, "" if seconds is None else seconds])
    return path


def age(path: Path, seconds: int) -> None:
    """Date a run's summary back."""
    stamp = (path / "summary.json").stat().st_mtime - seconds
    os.utime(path / "summary.json", (stamp, stamp))
