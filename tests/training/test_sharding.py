"""Weights in pieces over two processes, on CPUs: the losses, and the checkpoints, of one process."""

import csv
import shutil
from pathlib import Path

import pytest
import torch
from running import assert_same_run, finish, only_run, start, wait_for_step

from molino.base.errors import ConfigError, ResourceError
from molino.machine.hardware import Hardware
from molino.models.gpt import GPT
from molino.runs.directory import read_summary
from molino.trained.load import load_checkpoint
from molino.training.muon import split
from molino.training.optimizers import hidden_weights
from molino.training.sharding import ShardedStrategy, in_pieces, shard, whole
from molino.training.trainer import trainer_arguments

SIZES = (
    "debug=fast", "model=gpt", "model.dropout=0", "model.n_layer=2", "model.n_head=2", "model.n_embd=16",
    "data.block_size=16", "data.batch_size=8", "trainer.max_steps=60", "trainer.val_every=20", "trainer.val_windows=40",
    "trainer.log_every=10", "optimizer.lr=1e-3", "trainer.checkpoint_every=2", "trainer.clip=0.5",
    "trainer.sample_tokens=20",
)  # fmt: skip
STEPS = 60
LOSSES = ("train/loss", "val_partial/loss", "val/loss")
ALIKE = ("hardware.threads=1", "hardware.precision=32-true")
PIECES = ("hardware=fsdp", "hardware.accelerator=cpu")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("pieces")


@pytest.fixture(scope="module")
def one(home):
    finish(start(home / "one", *SIZES, *ALIKE, "hardware=cpu"))
    return only_run(home / "one")


@pytest.fixture(scope="module")
def two(home):
    finish(start(home / "two", *SIZES, *ALIKE, *PIECES))
    return only_run(home / "two")


def figures(run: Path, *tags: str) -> list[list[float]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [[float(row[tag]) for tag in tags if row[tag]] for row in csv.DictReader(file)]


def content(run: Path) -> dict:
    return load_checkpoint(run / "checkpoints" / "last.ckpt")


@pytest.mark.xdist_group("pieces")
def test_it_trains_to_the_losses_of_one_process(one, two):
    pairs = zip(figures(two, *LOSSES), figures(one, *LOSSES), strict=True)
    for own, wanted in pairs:
        assert own == pytest.approx(wanted, abs=1e-5)
    norms = zip(figures(two, "train/gradient_norm"), figures(one, "train/gradient_norm"), strict=True)
    assert all(own == pytest.approx(wanted, rel=1e-3) for own, wanted in norms)
    assert read_summary(two)["parameters"] == read_summary(one)["parameters"]
    assert (two / "samples.txt").read_text().count("--- step ") == 3


@pytest.mark.xdist_group("pieces")
def test_a_checkpoint_is_whole(one, two):
    own, wanted = content(two), content(one)
    assert own.keys() == wanted.keys() and own["state_dict"].keys() == wanted["state_dict"].keys()
    for name, value in own["state_dict"].items():
        assert type(value) is torch.Tensor
        assert torch.allclose(value, wanted["state_dict"][name], atol=1e-4), name
    (state,), (expected,) = own["optimizer_states"], wanted["optimizer_states"]
    assert state["param_groups"] == expected["param_groups"] and state["state"].keys() == expected["state"].keys()
    for number, each in state["state"].items():
        for name, value in each.items():
            assert torch.allclose(value, expected["state"][number][name], atol=1e-3)


def killed(folder: Path, *settings: str) -> Path:
    """Return a run that was killed on its way."""
    process = start(folder, *SIZES, *ALIKE, *settings)
    wait_for_step(process, folder, 5)
    process.kill()
    process.wait()
    process.communicate()
    assert 0 < content(only_run(folder))["global_step"] < STEPS
    return only_run(folder)


@pytest.mark.xdist_group("pieces")
def test_killed_it_goes_on_bit_for_bit_and_one_process_goes_on_with_it(one, two, tmp_path):
    run = killed(tmp_path / "killed", *PIECES)
    shutil.copytree(tmp_path / "killed", tmp_path / "alone")
    finish(start(tmp_path / "killed", "resume=latest"))
    assert_same_run(run, two)
    finish(start(tmp_path / "alone", "resume=latest", "hardware=cpu", *ALIKE))
    assert_near(only_run(tmp_path / "alone"), one)


@pytest.mark.xdist_group("pieces")
def test_it_goes_on_with_what_one_process_has_left(one, tmp_path):
    run = killed(tmp_path / "x", "hardware=cpu")
    finish(start(tmp_path / "x", "resume=latest", *PIECES, *ALIKE))
    assert_near(run, one)


def assert_near(run: Path, other: Path) -> None:
    own, wanted = read_summary(run), read_summary(other)
    for tag in ("val/loss", "val/best_loss", "train/loss"):
        assert own[tag] == pytest.approx(wanted[tag], abs=2e-5)


@pytest.fixture
def mesh(tmp_path):
    """A mesh of this process alone."""
    from torch.distributed.device_mesh import init_device_mesh

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_pieces_and_wholes(mesh):
    torch.manual_seed(0)
    model = GPT(30, 8, n_layer=1, n_head=2, n_embd=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tokens_BT = torch.randint(30, (2, 8))
    wanted = model.loss(tokens_BT, tokens_BT)
    shard(model, mesh)
    assert model.loss(tokens_BT, tokens_BT).item() == wanted.item()
    for name, value in model.state_dict().items():
        assert type(value) is not torch.Tensor and torch.equal(whole(value), before[name])
        again = in_pieces(before[name] + 1, value)
        assert type(again) is type(value) and torch.equal(whole(again), before[name] + 1)
    scalar = torch.tensor(3.0)
    assert whole(scalar) is scalar and in_pieces(scalar, value) is scalar and whole("x") == "x"


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"precision": "16-mixed", "accelerator": "auto"}, ConfigError, "16-mixed"),
        ({"accelerator": "gpu"}, ResourceError, "torch finds none here"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_it_cannot_do_is_refused(settings, error, says):
    with pytest.raises(error, match=says):
        Hardware(strategy="fsdp", devices=2, **settings)


def test_it_is_a_strategy_of_our_own():
    sharded = trainer_arguments(Hardware(strategy="fsdp", accelerator="cpu", devices=2))
    assert type(sharded["strategy"]) is ShardedStrategy and sharded["inference_mode"] is False
    assert trainer_arguments(Hardware(strategy="ddp", accelerator="cpu", devices=2))["strategy"] == "ddp"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("trainer.ema=0.9", "trainer.ema=0.9 needs whole weights in each process"),
        ("optimizer=muon", "optimizer=muon trains whole matrices, which hardware=fsdp cuts into pieces"),
        ("task.on_floor=true", "hardware=fsdp cuts weights into pieces, and OnCounts.trust.bias is a single number"),
    ],
)
def test_what_does_not_go_with_it_is_refused_before_there_is_a_directory(molino, tmp_path, setting, says):
    done = molino("train", *SIZES, *PIECES, setting, f"paths.outputs={tmp_path / 'outputs'}")
    assert done.status == 2 and says in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_muon_needs_whole_matrices(mesh):
    model = GPT(30, 8, n_layer=1, n_head=2, n_embd=8)
    shard(model, mesh)
    with pytest.raises(ValueError, match="Muon trains whole matrices, which hardware=fsdp cuts into pieces"):
        split([{"params": list(model.parameters())}], hidden_weights(model), 0.02)
