"""Write a run as a folder that transformers loads. `molino export --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command("export")
