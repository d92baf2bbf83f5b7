"""Train a language model. `python scripts/train.py --help` lists what can be composed."""

from molino.command.entry import command

if __name__ == "__main__":
    command(__file__)
