"""Measure molino against plain PyTorch and transformers. `python scripts/benchmark.py --help` lists the benchmarks."""

import sys
from pathlib import Path

# They lie beside the package, which does not need them.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.command import main

if __name__ == "__main__":
    main(__file__)
