"""Measure a run exactly on a whole split. `python scripts/evaluate.py --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command(__file__)
