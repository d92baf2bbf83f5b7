"""Measure a run exactly on a whole split. `molino evaluate --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command("evaluate")
