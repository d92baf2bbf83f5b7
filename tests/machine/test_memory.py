"""Freed memory is used again."""

import platform
import subprocess
import sys

import pytest

# Page faults of a tensor of 64 MB that is made and freed again and again: 16,384 pages of 4 kB each time, or none, once
# the heap has found its shape, which takes about ten of them.
CODE = """
import resource, torch
from molino.machine.hardware import Hardware
{apply}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(32):
    faults()
print(faults() + faults())
"""


def faults(apply: str) -> int:
    done = subprocess.run([sys.executable, "-c", CODE.format(apply=apply)], capture_output=True, text=True, check=True)
    return int(done.stdout)


glibc_only = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told what to keep")


@glibc_only
def test_freed_memory_is_used_again():
    assert faults("") > 50  # even where pages are of 2 MB
    assert faults("Hardware(accelerator='cpu').apply()") < 50


@glibc_only
def test_what_an_earlier_run_kept_is_given_back():
    code = """
import torch
from pathlib import Path
from molino.machine.hardware import Hardware
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
class Run:
    def __init__(self):
        self.weights, self.itself = torch.ones(1 << 26), self
Hardware(accelerator="cpu").apply()
run = Run()
del run
kept = resident()
Hardware(accelerator="cpu").apply()
print(kept - resident())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(256, abs=20)
