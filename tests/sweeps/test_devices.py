"""How GPUs and cores are shared by runs that train at the same time."""

from pathlib import Path

import pytest

from molino.base.errors import ConfigError, ResourceError
from molino.configuration.request import Request
from molino.sweeps import devices
from molino.sweeps.devices import gpus, most_demanding, share
from molino.sweeps.local import Local


def wanting(count: int = 1, accelerator: str = "auto") -> Request:
    return Request({"hardware": {"devices": count, "num_nodes": 1, "accelerator": accelerator}}, [], {}, Path("x"))


@pytest.fixture
def machine(monkeypatch):
    def make(cards: int, cores: int) -> None:
        monkeypatch.setattr(devices, "gpus", lambda: [str(number) for number in range(cards)])
        monkeypatch.setattr(devices, "cores", lambda: cores)

    return make


def visible(shares: list[dict[str, str]]) -> list[str | None]:
    return [each.get("CUDA_VISIBLE_DEVICES") for each in shares]


def threads(shares: list[dict[str, str]]) -> list[int]:
    return [int(each["OMP_NUM_THREADS"]) for each in shares]


def test_a_run_for_each_gpu(machine):
    machine(4, 16)
    shares = share(wanting(), 100, None, 1, None)
    assert visible(shares) == ["0", "1", "2", "3"] and threads(shares) == [4] * 4
    assert visible(share(wanting(), 100, None, 2, None)) == ["0", "1", "2", "3"] * 2
    assert visible(share(wanting(), 100, 2, 1, None)) == ["0", "1"]
    assert visible(share(wanting(), 100, 6, 1, None)) == ["0", "1", "2", "3", "0", "1"]
    assert visible(share(wanting(), 3, None, 1, None)) == ["0", "1", "2"]


def test_runs_of_several_gpus_get_neighbours(machine):
    machine(5, 16)
    shares = share(wanting(2), 100, None, 1, None)
    assert visible(shares) == ["0,1", "2,3"] and threads(shares) == [4, 4]
    with pytest.raises(ResourceError, match=r"hardware\.devices=6, but there are 5 GPUs"):
        share(wanting(6), 100, None, 1, None)


def test_processors_alone(machine):
    machine(0, 8)
    shares = share(wanting(), 100, None, 1, None)
    assert visible(shares) == [None] * 8 and threads(shares) == [1] * 8
    assert threads(share(wanting(), 3, None, 1, None)) == [2, 2, 2]
    assert threads(share(wanting(), 100, 2, 1, None)) == [4, 4]
    assert threads(share(wanting(), 100, 2, 1, 3)) == [3, 3]
    assert threads(share(wanting(2), 100, None, 1, None)) == [1] * 4
    assert threads(share(wanting(), 100, 20, 1, None)) == [1] * 20


def test_runs_on_the_processor_leave_gpus_alone(machine):
    machine(4, 8)
    assert visible(share(wanting(accelerator="cpu"), 100, None, 1, None)) == [None] * 8


@pytest.mark.parametrize("wrong", [(0, 1, None), (None, 0, None), (None, 1, -1)])
def test_numbers_below_one(wrong):
    with pytest.raises(ConfigError, match="must be at least 1"):
        Local(None, *wrong)


def test_gpus_are_found_without_torch(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: H100 (UUID: GPU-1)'\necho 'GPU 1: H100 (UUID: GPU-2)'\n")
    program.chmod(0o755)
    assert gpus() == ["0", "1"]


def test_the_run_that_wants_most(machine):
    one, two, processor = wanting(), wanting(2), wanting(3, "cpu")
    assert most_demanding([one, processor, two]) is two and most_demanding([processor, one]) is one
