"""Sample text from a run. `molino generate --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command("generate")
