"""Train a language model. `molino train --help` lists what can be composed."""

from molino.command.entry import command

if __name__ == "__main__":
    command("train")
