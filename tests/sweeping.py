"""Small sweeps, for the tests of whatever deals with many runs."""

from pathlib import Path

import torch
from conftest import CPU, TinyRun

from molino.runs import directory
from molino.trained.load import load_checkpoint

# Runs of 20 steps, a fraction of a second each.
SMALL = (
    "data=text", "data.block_size=16", "data.batch_size=4", "model.n_layer=1", "model.n_head=2", "model.n_embd=16",
    "debug=fast", *CPU,
)  # fmt: skip


def places(tiny: TinyRun, home: Path) -> list[str]:
    """Settings that keep a sweep on the text of `tiny` and below `home`."""
    return [f"data.path={tiny.file}", f"paths.outputs={home / 'outputs'}", f"paths.cache={tiny.cache}"]


def sweep_dir(home: Path) -> Path:
    """The only sweep below `home`."""
    (sweep,) = (home / "outputs" / "sweeps").iterdir()
    return sweep


def runs_of(sweep: Path) -> list[Path]:
    """The runs of a sweep that have begun."""
    return sorted(path.parent for path in sweep.glob("*/config.yaml"))


def run_of(home: Path, name: str) -> Path:
    return sweep_dir(home) / name


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / directory.LAST)["state_dict"]
