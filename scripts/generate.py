"""Sample text from a run. `python scripts/generate.py --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command(__file__)
