"""Measure molino against plain PyTorch and transformers. `python scripts/benchmark.py --help` lists the benchmarks."""

from molino.benchmark import main

if __name__ == "__main__":
    main(__file__)
