"""Write a run as a folder that transformers loads. `python scripts/export.py --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command(__file__)
