"""python benchmarks/equality.py record|compare FILE [--checkout DIR]: what a fixed list of runs comes to.

A rebuilding changes no result. `record` trains, resumes, sweeps, searches, exports and samples by the commands of a
checkout and writes into FILE what came out: losses in full precision, sha256 of all weights, summaries, metrics,
samples. `compare` does it again and names whatever is not equal, bit for bit. Both want the same machine, and
MOLINO_MIRROR. About four minutes on two cores.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

TIMED = ("seconds", "tokens_per_second", "mfu")
TINY = ["data.block_size=16", "data.batch_size=4", "debug=fast", "hardware=cpu", "hardware.threads=1"]
GPT = ["model.n_layer=1", "model.n_head=2", "model.n_embd=16"]
DROPOUT = "model.dropout=0.1"
TWO = ["hydra/launcher=local", "hydra.launcher.workers=2"]
# One run each: every family, kind of corpus, tokenizer, optimizer, schedule and way of a step.
RUNS = {
    "bigram": ["data=grammar", "model=bigram"],
    "gpt": ["data=text", "data.path=text.txt", "model=gpt", *GPT, "model.dropout=0.2"],
    "gpt-folder": ["data=text", "data.path=texts", "data.batches=documents", "model=gpt", *GPT],
    "custom_gpt": ["data=quijote", "model=custom_gpt", *GPT, "model.n_inner=24"],
    "gpt1": ["data=shakespeare", "model=gpt1", *GPT, "data/tokenizer=bpe", "data.tokenizer.size=300"],
    "gpt2": ["data=pydocs", "model=gpt2", *GPT, "optimizer=adam", "scheduler=step", "scheduler.step_size=5"],
    "llama": ["data=ptb", "data.tokenizer.max_size=300", "model=llama", *GPT, "model.n_kv_head=1", "model.ngrams=3"],
    "phi3": ["data=wikitext2", "data.tokenizer.max_size=300", "model=phi3", *GPT, "model.n_inner=32", "scheduler=wsd"],
    "imdb": ["data=imdb", "data.tokenizer.max_size=100", "data.batches=documents", "model=bigram", "optimizer=sgd"],
    "text8": ["data=text8", "data/tokenizer=word", "data.tokenizer.max_size=100", "model=bigram", "scheduler=constant"],
    "muon": ["data=shakespeare", "model=llama", *GPT, "model.qk_norm=true", "optimizer=muon", "trainer.clip=null"],
    "accumulated": ["data=quijote", "model=gpt", *GPT, "trainer.accumulate=3", "trainer.max_steps=37", DROPOUT],
    "processes": ["data=grammar", "model=gpt", *GPT, "hardware=ddp", "hardware.accelerator=cpu"],
    "compiled": ["data=grammar", "model=gpt", *GPT, "hardware.compile=true"],
    "bf16": ["data=grammar", "model=gpt", *GPT, "hardware=cpu_bf16"],
    "auto": ["data=grammar", "model=gpt", "hardware=auto", "hardware.threads=2"],
    "overfit": ["data=grammar", "model=gpt", *GPT, "debug=overfit", "trainer.max_steps=40"],
    "stopped": [
        *("data=grammar", "model=gpt", *GPT, "trainer.max_steps=100"),
        "+callbacks.stop={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss, min_delta: 10}",
    ],
}  # fmt: skip
SWEEP = ["sweep=s", "data=grammar", *GPT, "model=gpt,bigram", "optimizer.lr=1e-3,1e-2"]
SWEEP = [setting for setting in SWEEP if not setting.startswith("model.")]
SEARCH = [
    *("sweep=s", "data=grammar", "model=bigram", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=6"),
    *("hydra.sweeper.startup_trials=2", "hydra.sweeper.pruner_startup_trials=2", "seed=3"),
    "optimizer.lr=tag(log,interval(1e-4,1e-1))",
]


class Laboratory:
    """Runs the commands of a checkout in a folder of its own, all with one cache."""

    def __init__(self, checkout: Path, home: Path):
        self.checkout, self.home, self.cache = checkout, home, home / "cache"

    def run(self, folder: Path, verb: str, *arguments: str) -> str:
        """Return what a command prints."""
        done = subprocess.run(self._command(verb, arguments), cwd=folder, env=self._environment(), capture_output=True)
        if done.returncode:
            sys.exit(f"{verb} {' '.join(arguments)}: status {done.returncode}\n{done.stderr.decode()}")
        return done.stdout.decode()

    def kill_after_a_checkpoint(self, folder: Path, *arguments: str) -> None:
        """Train, and end the process by SIGKILL once it has saved twice."""
        command = self._command("train", arguments)
        process = subprocess.Popen(command, cwd=folder, env=self._environment(), stdout=subprocess.DEVNULL)
        seen = set()
        while process.poll() is None and len(seen) < 2:
            seen |= {file.stat().st_mtime_ns for file in folder.glob("outputs/*/checkpoints/last.ckpt")}
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def _command(self, verb: str, arguments: tuple[str, ...]) -> list[str]:
        caches = [f"paths.cache={self.cache}"] if verb in ("train", "evaluate") else []
        return [sys.executable, str(self.checkout / "scripts" / f"{verb}.py"), *caches, *arguments]

    def _environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.checkout / "src"), "COLUMNS": "200"}


def single_runs(lab: Laboratory, new: Callable[[str], Path]) -> Iterator[tuple[str, Any]]:
    for name, settings in RUNS.items():
        own = [setting for setting in TINY if setting.partition("=")[0] not in {s.partition("=")[0] for s in settings}]
        lab.run(folder := new(name), "train", *own, *settings)
        yield name, outcome_of(folder)


def resumed(lab: Laboratory, new: Callable[[str], Path]) -> Iterator[tuple[str, Any]]:
    plan = ["data=grammar", "model=gpt", *GPT, "model.dropout=0.2", *TINY, "trainer.max_steps=400"]
    lab.run(folder := new("undisturbed"), "train", *plan)
    yield "undisturbed", outcome_of(folder)
    lab.kill_after_a_checkpoint(folder := new("resumed"), *plan)
    lab.run(folder, "train", "resume=latest")
    yield "resumed", outcome_of(folder)


def many(lab: Laboratory, new: Callable[[str], Path]) -> Iterator[tuple[str, Any]]:
    for name, settings in (
        ("sweep", SWEEP),
        ("sweep-local", [*SWEEP, *TWO]),
        (
            "sweep-processes",
            ["sweep=s", "data=grammar", "model=bigram", TWO[0], "hardware=ddp", "seed=0,1"],
        ),
        ("search", SEARCH),
    ):
        own = [s for s in TINY if s != "hardware=cpu" or "hardware=ddp" not in settings]
        lab.run(folder := new(name), "train", "-m", *own, *settings)
        yield name, outcome_of(folder)
        yield f"{name} again", lab.run(folder, "train", "-m", *own, *settings).splitlines()[:1]
        # Twice the same settings in another order of columns would not be found by their names.
        table = lab.run(folder, "results", "s", "format=csv", "metric=[val/loss,train/loss,steps]")
        yield f"{name} table", table


def read_back(lab: Laboratory, new: Callable[[str], Path]) -> Iterator[tuple[str, Any]]:
    lab.run(folder := new("source"), "train", "data=grammar", "model=gpt", *GPT, *TINY)
    plain = ["hardware=cpu", "hardware.threads=1"]
    yield "evaluated", lab.run(folder, "evaluate", "run=latest", "split=train", "stride=8", *plain)
    drawn = ["prompt=Cuenta la ", "max_new_tokens=60", "top_k=5", "samples=2", *plain]
    yield "sampled", lab.run(folder, "generate", "run=latest", *drawn)
    yield "explained", lab.run(folder, "explain", "run=latest", "prompt=Cuenta", *plain).replace("\u2026", "")
    lab.run(folder, "export", "run=latest", "to=exported")
    yield "exported", {p.name: sha256(p.read_bytes()) for p in (folder / "exported").iterdir() if p.suffix != ".md"}
    yield "evaluated from a folder", lab.run(folder, "evaluate", "source=exported", "data=grammar", *plain)
    yield "sampled from a folder", lab.run(folder, "generate", "source=exported", *drawn)
    lab.run(
        second := new("pretrained"),
        "train",
        "data=grammar",
        "model=pretrained",
        "model.source=../source/exported",
        *TINY,
    )
    yield "pretrained", outcome_of(second)


PARTS = {"runs": single_runs, "resumed": resumed, "many": many, "back": read_back}


def outcome_of(folder: Path) -> dict[str, Any]:
    """Return all results of the runs below a folder, by their names without the moment they began at."""
    runs = sorted(config.parent for config in (folder / "outputs").rglob("config.yaml"))
    return {run.name.rpartition("_20")[0] or run.name: results_of(run) for run in runs}


def results_of(run: Path) -> dict[str, Any]:
    with (run / "metrics.csv").open(newline="") as file:
        metrics = [{k: v for k, v in row.items() if not k.endswith(TIMED)} for row in csv.DictReader(file)]
    summary = json.loads((run / "summary.json").read_text())
    return {
        "summary": {tag: value for tag, value in summary.items() if not tag.endswith(TIMED)},
        "weights": {path.stem: weights_sha256(path) for path in sorted((run / "checkpoints").glob("*.ckpt"))},
        "metrics": sha256(json.dumps(metrics).encode()),
        "samples": (run / "samples.txt").read_text("utf-8"),
        "tokenizer": sha256((run / "tokenizer.json").read_bytes()),
    }


def weights_sha256(checkpoint: Path) -> str:
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_texts(folder: Path) -> None:
    """Write a text and a folder of texts, the same every time."""
    draw = random.Random(0)
    words = ["en un lugar", "de la Mancha", "de cuyo nombre", "no quiero", "acordarme", "¡señor!", "hidalgo"]

    def text(count: int) -> str:
        return "".join(f"{draw.choice(words)}{draw.choice(' ,.' + chr(10))} " for _ in range(count))

    (folder / "text.txt").write_text(text(2000), "utf-8")
    (folder / "texts").mkdir()
    for number in range(40):
        (folder / "texts" / f"{number:02}.txt").write_text(text(12), "utf-8")


def observe(checkout: Path, parts: list[str]) -> dict[str, Any]:
    """Return what all runs of the parts come to."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        lab = Laboratory(checkout, Path(home))

        def new(name: str) -> Path:
            folder = Path(home) / name
            folder.mkdir()
            write_texts(folder)
            return folder

        for part in parts:
            for name, outcome in PARTS[part](lab, new):
                told = re.sub(r"_\d{8}-\d{6}", "", json.dumps(outcome).replace(home, "HOME"))
                found[f"{part}: {name}"] = json.loads(told)
                print(f"{part}: {name}", flush=True)
    return found


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """Yield a line for each leaf that is not equal."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from differences(before.get(key), after.get(key), f"{place} / {key}" if place else key)
    elif before != after:
        yield f"{place}: {before!r} -> {after!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    arguments = parser.parse_args()
    found = observe(arguments.checkout.resolve(), arguments.only)
    if arguments.action == "record":
        arguments.file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
        return
    before = json.loads(arguments.file.read_text("utf-8"))
    wanted = {name: value for name, value in before.items() if name.partition(":")[0] in arguments.only}
    lines = list(differences(wanted, found))
    print("\n".join(lines) or f"equal: {len(found)} outcomes, bit for bit")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
