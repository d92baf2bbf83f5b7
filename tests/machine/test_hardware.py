"""The hardware section: what `auto` finds, what is refused, and what Lightning and torch are told."""

import subprocess
import sys

import pytest
import torch
from lightning.pytorch import Trainer
from ranks import srun

from molino.base.errors import ConfigError, ResourceError
from molino.machine import policy
from molino.machine.hardware import PRECISIONS, Hardware
from molino.models.bigram import Bigram
from molino.models.gpt import GPT


@pytest.fixture
def machine(monkeypatch):
    """Make torch believe in another machine."""

    def make(gpus: int = 0, bf16: bool = True, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: bf16)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA Mill")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


def test_auto_is_what_torch_finds_on_this_machine():
    hardware = Hardware()
    found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert hardware.kind == hardware.device.type == found
    assert torch.ones(2, device=hardware.device).sum().item() == 2


@pytest.mark.parametrize(
    ("computer", "kind", "precision", "accelerator"),
    [
        ({}, "cpu", "32-true", "cpu"),
        ({"mps": True}, "mps", "32-true", "mps"),
        ({"gpus": 1}, "cuda", "bf16-mixed", "gpu"),
        ({"gpus": 1, "bf16": False}, "cuda", "32-true", "gpu"),
        ({"gpus": 2, "mps": True}, "cuda", "bf16-mixed", "gpu"),
    ],
)
def test_auto_takes_the_best_of_what_is_there(computer, kind, precision, accelerator, machine):
    machine(**computer)
    assert Hardware().kind == kind and Hardware().resolved_precision == precision
    assert Hardware().trainer_arguments() == {
        "accelerator": accelerator,
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "precision": precision,
    }
    # What is asked for by name is not second-guessed.
    assert Hardware(accelerator="cpu").kind == "cpu" and Hardware(accelerator="cpu").resolved_precision == "32-true"
    assert Hardware(precision="32-true").resolved_precision == "32-true"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"precision": "bf16"},
            "hardware.precision=bf16 is unknown: choose auto, 32-true, bf16-mixed, bf16-true, 16-mixed",
        ),
        ({"matmul_precision": "low"}, "hardware.matmul_precision=low is unknown: choose highest, high, medium"),
        ({"accelerator": "tpu"}, "hardware.accelerator=tpu is unknown: choose auto, cpu or gpu"),
        ({"devices": 0}, "hardware.devices=0 must be at least 1"),
        ({"num_nodes": 0}, "hardware.num_nodes=0 must be at least 1"),
        ({"threads": 0}, "hardware.threads=0 must be at least 1"),
        ({"threads": 100_000}, "hardware.threads=100000 must be at most 1024"),
        ({"attention": "flash"}, "hardware.attention=flash is unknown: choose auto, fused, products"),
        ({"compile": "yes"}, "hardware.compile=yes is unknown: choose auto, true, false"),
        ({"strategy": "ddp_spawn"}, "hardware.strategy=ddp_spawn is unknown: choose auto, ddp, fsdp"),
        ({"precision": "16-mixed"}, "hardware.precision=16-mixed needs a GPU"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message, machine):
    machine()
    with pytest.raises(ConfigError, match=message):
        Hardware(**settings)


def test_a_machine_that_lacks_what_is_asked_for_says_so(machine, monkeypatch):
    machine(gpus=0)
    with pytest.raises(ResourceError, match="torch finds none here: choose hardware=cpu or auto"):
        Hardware(accelerator="gpu")
    assert Hardware(strategy="fsdp", devices=2).processes == 2  # CPU processes
    machine(gpus=2)
    assert Hardware(accelerator="gpu", devices=2).devices == 2
    with pytest.raises(ResourceError, match=r"hardware\.devices=3, but there are 2 GPUs here$"):
        Hardware(accelerator="gpu", devices=3)
    for name, value in srun(0, (3,)).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ResourceError, match=r"there are 2 GPUs here: ask Slurm for --gpus-per-node"):
        Hardware(accelerator="gpu", devices=3)
    assert Hardware(accelerator="cpu", devices=3).devices == 3


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_lightning_takes_the_arguments(precision, strategy, tmp_path):
    hardware = Hardware(accelerator="cpu", precision=precision, strategy=strategy)
    trainer = Trainer(logger=False, default_root_dir=tmp_path, **hardware.trainer_arguments())
    assert trainer.precision == precision and trainer.num_devices == 1


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_autocast_computes_products_in_the_precision(precision, dtype):
    assert PRECISIONS[precision] in (None, dtype)
    with Hardware(accelerator="cpu", precision=precision).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_apply_sets_what_torch_keeps():
    # In a process of its own: torch keeps these until it ends.
    code = """
import torch
from molino.machine.hardware import MATMUL, Hardware
before = torch.get_num_threads()
for precision in MATMUL:
    Hardware(accelerator="cpu", matmul_precision=precision).apply()
    print(torch.get_float32_matmul_precision(), torch.get_num_threads() == before)
Hardware(accelerator="cpu", threads=before + 1).apply()
print(torch.get_num_threads() - before, (torch.tensor([1e-40]) * 1.0).item())
Hardware(accelerator="cpu").apply()
print(torch.get_num_threads() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["highest", "True", "high", "True", "medium", "True", "1", "0.0", "0"], done.stderr


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "NVIDIA Mill, bf16-mixed"),
        ({"devices": 2, "num_nodes": 3, "strategy": "ddp"}, "6 x NVIDIA Mill, bf16-mixed, ddp"),
        ({"precision": "32-true", "compile": True}, "NVIDIA Mill, 32-true, compiled"),
        ({"accelerator": "cpu"}, "cpu (3 threads), 32-true"),
        ({"accelerator": "cpu", "attention": "products"}, "cpu (3 threads), 32-true, attention products"),
    ],
)
def test_a_line_says_what_computes(settings, text, machine, monkeypatch):
    machine(gpus=2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert Hardware(**settings).describe() == text


def gpt(dropout: float = 0.0, block_size: int = 64) -> GPT:
    return GPT(65, block_size, n_layer=1, n_head=2, n_embd=64, dropout=dropout)


@pytest.mark.parametrize(
    ("computer", "bf16", "model", "block_size", "chosen"),
    [
        ({}, True, gpt(), 64, ("bf16-mixed", "products", False)),
        ({}, True, gpt(block_size=1024), 1024, ("bf16-mixed", "fused", False)),
        ({}, False, gpt(), 64, ("32-true", "fused", False)),
        ({}, False, gpt(dropout=0.1), 64, ("32-true", "products", False)),
        ({"gpus": 1}, False, gpt(dropout=0.1), 64, ("bf16-mixed", "fused", True)),
        ({"gpus": 1, "bf16": False}, True, gpt(), 64, ("32-true", "fused", True)),
        ({"mps": True}, True, gpt(), 64, ("32-true", "fused", False)),
        ({}, True, Bigram(65, 8), 8, ("32-true", "fused", False)),
    ],
)
def test_training_settles_what_is_left_to_auto(computer, bf16, model, block_size, chosen, machine, monkeypatch):
    machine(**computer)
    monkeypatch.setattr(policy, "multiplies_bf16", lambda: bf16)
    settled = Hardware().settle(model, block_size, 4096, 10**6)
    assert (settled.precision, settled.attention, settled.compile) == chosen
    threads = 1 if isinstance(model, Bigram) and not computer else None
    assert settled.settled == dict(
        zip(("precision", "attention", "compile", "threads"), (*chosen, threads), strict=True)
    )
    # What is asked for stays.
    forced = Hardware(precision="32-true", attention="fused", compile=False, accelerator="cpu", threads=3)
    assert forced.settle(model, block_size, 4096, 10**6) == forced


def test_to_compile_for_a_cpu_takes_a_compiler(machine, monkeypatch):
    machine()
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ResourceError, match=r"hardware\.compile=true needs a C\+\+ compiler"):
        Hardware(compile=True)
    assert Hardware().compile == "auto"


def test_a_prepared_model_is_compiled_in_place(monkeypatch):
    model, compiled = gpt(), []
    keys, tokens_BT = list(model.state_dict()), torch.zeros(1, 4, dtype=torch.long)
    before = model.loss(tokens_BT, tokens_BT), model(tokens_BT)

    def compile(function, *_, **__):
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    Hardware(accelerator="cpu", compile=True, attention="products").prepare(model)
    assert [function.__name__ for function in compiled] == ["loss"]
    torch.testing.assert_close((model.loss(tokens_BT, tokens_BT), model(tokens_BT)), before)
    assert list(model.state_dict()) == keys and model.h[0].attn.attn_path == "products"


def test_the_peak_of_a_gpu_is_told_in_tokens(machine, monkeypatch):
    machine(gpus=2)
    model = gpt()
    assert Hardware().token_peak(model, 64) is None  # of an NVIDIA Mill nothing is known
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA H100 80GB HBM3")
    # One layer of 64 and a head for 65 tokens, forward and backward; attention sees 32 places on average.
    each = 3 * (2 * (64 * 192 + 64 * 64 + 2 * 64 * 256 + 64 * 65) + 4 * 64 * 32)
    assert Hardware(devices=2).token_peak(model, 64) == pytest.approx(2 * 989e12 / each)
    assert Hardware(num_nodes=3).token_peak(model, 64) == pytest.approx(3 * 989e12 / each)
    assert Hardware(devices=2, num_nodes=3).token_peak(model, 64) == pytest.approx(6 * 989e12 / each)
    assert Hardware().token_peak(Bigram(65, 8), 8) is None  # it multiplies nothing
    assert Hardware(accelerator="cpu").token_peak(model, 64) is None
