"""Compare finished runs in a table, and in pictures. `molino results --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command("results")
