"""Ask a language model what it was never trained to tell. `molino score --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command("score")
