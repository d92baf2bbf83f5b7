"""What `python scripts/benchmark.py` measures: a module for each benchmark, and what they share."""
