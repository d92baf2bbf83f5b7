"""Compare finished runs in a table, and in pictures. `python scripts/results.py --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command(__file__)
