"""Fixtures that several test files share."""

import contextlib
import io
import os
import random
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from molino.command.light import import_lightning, uncollected

# As the scripts do: before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Tests run side by side, and threads that wait for each other would wait for other tests as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a script starts in the background ignores it, and so would the commands that tests start and then stop.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Thousands of small files, most of them flushed to a disk: in memory, where there is much, that takes a quarter less.
MEMORY, ROOM = Path("/dev/shm"), 12 * 2**30
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

ROOT = Path(__file__).resolve().parent.parent
PIECES = ("en un lugar ", "de la Mancha, ", "de cuyo nombre ", "no quiero\n", "acordarme. ", "¡señor! ")
# Tiny products are faster on one thread.
CPU = ("hardware=cpu", "hardware.threads=1")


def pytest_collectstart() -> None:
    """Import Lightning as the scripts do, before a test imports it; not where no tests are collected, as in the process
    that distributes them."""
    if "lightning" not in sys.modules:
        with uncollected():
            import_lightning()


def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `-n logical` means: one more than there are cores, for some tests wait for a Slurm."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder with raw/<corpus>/<file>: MOLINO_MIRROR, or shared/data beside the checkout."""
    for candidate in (os.environ.get("MOLINO_MIRROR"), ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "raw").is_dir():
            return Path(candidate)
    pytest.skip("no mirror of the corpora: set MOLINO_MIRROR to a folder with raw/<corpus>/<file>")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """A cache that all processes of the suite share, so that a published corpus is prepared, and counted, once."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-cache"
    folder.mkdir(exist_ok=True)
    return folder


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit status and what it wrote."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def molino() -> Callable[..., Outcome]:
    """Run `molino <verb>` with these arguments in this process, many times faster than in one of its own."""
    return run_command


def run_command(verb: str, *arguments: str) -> Outcome:
    import torch
    from hydra.core.global_hydra import GlobalHydra

    from molino.command import entry as cli

    out, err, status, threads = io.StringIO(), io.StringIO(), 0, torch.get_num_threads()
    GlobalHydra.instance().clear()
    try:
        # What the command and Lightning put into the environment ends with the command.
        with (
            mock.patch.dict(os.environ),
            mock.patch.object(sys, "argv", ["molino", *arguments]),
            mock.patch.object(sys, "stdin", io.StringIO()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            cli.command(verb)
    except SystemExit as left:
        status = left.code or 0
    finally:
        GlobalHydra.instance().clear()
        torch.set_num_threads(threads)
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return Outcome(status, out.getvalue(), err.getvalue())


@pytest.fixture
def loader():
    """Hydra's loader of what lies below conf/."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()
    HydraConfig.instance().cfg = None


def without_pace(err: str) -> str:
    """What was said but for the last line, which tells how fast it went."""
    said = err.splitlines(keepends=True)
    assert re.fullmatch(r"molino: [\d,]+ new tokens in \d+\.\d\d s: [\d,]+ a second\n", said[-1])
    return "".join(said[:-1])


def small_text(seed: int, pieces: int) -> str:
    """A text with some structure, capitals, accents and line ends."""
    return "".join(random.Random(seed).choices(PIECES, k=pieces))


@dataclass(frozen=True)
class TinyRun:
    """A run of 20 steps of a small transformer on a small text, and what it was made with.

    `settings` are the overrides that every later command about it needs.
    """

    path: Path
    text: str
    file: Path
    outputs: Path
    cache: Path

    @property
    def settings(self) -> list[str]:
        return [f"paths.outputs={self.outputs}", f"paths.cache={self.cache}", *CPU]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, molino) -> TinyRun:
    """One trained run, made once. Tests must not change it: those that damage something work on a copy."""
    home = tmp_path_factory.mktemp("tiny")
    text, file = small_text(0, 400), home / "mancha.txt"
    file.write_text(text, "utf-8")
    run = train(molino, home, f"data.path={file}")
    return TinyRun(run, text, file, home / "outputs", home / "cache")


@pytest.fixture(scope="session")
def tiny_documents(tmp_path_factory, molino) -> TinyRun:
    """As `tiny`, but for a folder of short documents, after which the model knows <|endoftext|>."""
    home = tmp_path_factory.mktemp("tiny_documents")
    folder = home / "texts"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02}.txt").write_text(small_text(number, 2), "utf-8")
    run = train(molino, home, f"data.path={folder}", "data.batches=documents", "optimizer.lr=0.05", "model.n_layer=1")
    return TinyRun(run, "", folder, home / "outputs", home / "cache")


def train(molino: Callable[..., Outcome], home: Path, *settings: str) -> Path:
    sizes = ("data.block_size=16", "data.batch_size=4", "model.n_layer=2", "model.n_head=2", "model.n_embd=16")
    places = (f"paths.outputs={home / 'outputs'}", f"paths.cache={home / 'cache'}")
    done = molino("train", "data=text", *CPU, "debug=fast", *sizes, *places, *settings)
    assert done.status == 0, done.err
    (run,) = [path for path in (home / "outputs").iterdir() if path.is_dir()]
    return run
