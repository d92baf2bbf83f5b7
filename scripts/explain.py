"""Look inside a trained model. `python scripts/explain.py --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command(__file__)
