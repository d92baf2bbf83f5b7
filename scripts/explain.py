"""Look inside a trained model. `molino explain --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command("explain")
