"""Ask a run about examples. `molino predict --help` lists the settings."""

from molino.command.entry import command

if __name__ == "__main__":
    command("predict")
