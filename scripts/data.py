"""Look at a corpus before anything is trained on it. `molino data --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command("data")
