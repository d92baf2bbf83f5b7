"""The batch script of a submission: what is asked of Slurm, line by line, and what a job does."""

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from molino.base.errors import ConfigError
from molino.base.files import read_text
from molino.base.messages import suggest
from molino.configuration.door import ALLOW

# The parts of a template of one's own.
DIRECTIVES, SETUP, COMMAND = "{{directives}}", "{{setup}}", "{{command}}"
PLAIN = f"#!/bin/bash\n{DIRECTIVES}\n\n{SETUP}\n\n{COMMAND}\n"
KEPT = ("SLURM_CONF", "SLURM_JWT")  # of the environment
UNSAID = ("SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_ERROR")
OWN = "how molino asks for jobs"
# Options of sbatch that follow from the runs, or by which molino knows its jobs again.
OURS = {
    "array": "hydra.launcher.at_once", "signal": "hydra.launcher.signal_seconds", "output": "hydra.launcher.logs",
    "error": "hydra.launcher.logs", "ntasks": "hardware.devices", "ntasks-per-node": "hardware.devices",
    "nodes": "hardware.num_nodes", "wrap": "hydra.launcher.setup", "chdir": "the folder where you type the command",
    "wait": "hydra.launcher.wait", "test-only": "hydra.launcher.print", "open-mode": OWN, "parsable": OWN, "quiet": OWN,
    "help": OWN, "usage": OWN, "version": OWN,
}  # fmt: skip
# By the names of the launcher's settings.
NAMED = {
    "partition": "partition", "account": "account", "qos": "qos", "constraint": "constraint", "exclude": "exclude",
    "reservation": "reservation", "comment": "comment", "job_name": "job-name", "minutes": "time",
    "cpus": "cpus-per-task", "memory": "mem", "memory_per_cpu": "mem-per-cpu", "memory_per_gpu": "mem-per-gpu",
    "gpus": "gpus-per-node", "gpus_per_task": "gpus-per-task", "gres": "gres", "mail_user": "mail-user",
    "mail_type": "mail-type",
}  # fmt: skip
GIGABYTES = ("memory", "memory_per_cpu", "memory_per_gpu")
Options = list[tuple[str, str | None]]
CARRIED = ("PYTHONPATH", ALLOW, "MOLINO_CACHE", "MOLINO_MIRROR")


def sbatch_options(asked: dict[str, Any], shape: dict[str, Any], options: dict[str, Any]) -> Options:
    """Return the options of sbatch, and the value of each that has one.

    Args:
        asked: settings of the launcher, by the names in NAMED; None is not said.
        shape: further options that follow from the runs.
        options: what a person adds; true for an option without a value, false for none.
    """
    found = {"requeue": True}
    for name, option in NAMED.items():
        if (value := asked.get(name)) is not None:
            found[option] = f"{round(value * 1024)}M" if name in GIGABYTES else value
    found |= shape | {str(name): value for name, value in options.items()}
    if not found["requeue"]:
        found["no-requeue"] = True
    said = {name: value for name, value in found.items() if value is not None and value is not False}
    return [(name, None if value is True else str(value)) for name, value in said.items()]


def directives(options: Options) -> list[str]:
    """Return options of sbatch as a script says them."""
    return [f"#SBATCH --{name}" + ("" if value is None else f"={_quoted(value)}") for name, value in options]


def arguments(options: Options) -> list[str]:
    """Return options of sbatch as a command says them, which counts more than SBATCH_* of the environment."""
    return [f"--{name}" + ("" if value is None else f"={value}") for name, value in options]


def environment() -> dict[str, str]:
    """Return the environment for sbatch: of a job in which a command is typed nothing is said to those it submits."""
    return {
        name: value
        for name, value in os.environ.items()
        if (not name.startswith("SLURM_") or name in KEPT) and name not in UNSAID
    }


def check_options(options: dict[str, Any], asked: dict[str, Any]) -> None:
    """Refuse options of sbatch that are said otherwise.

    Raises:
        ConfigError: there are some.
    """
    said = {option: name for name, option in NAMED.items() if asked.get(name) is not None}
    for name, value in options.items():
        # sbatch takes the beginning of a name for the whole.
        if ours := next((each for each in OURS if each.startswith(str(name))), None):
            raise ConfigError(f"hydra.launcher.options.{name}={value}: this follows from {OURS[ours]}; leave it out")
        if name in said:
            raise ConfigError(f"hydra.launcher.options.{name} says what hydra.launcher.{said[name]} does: give one")
        if "_" in str(name):
            raise ConfigError(f"hydra.launcher.options.{name} is no option of sbatch: write {name.replace('_', '-')}")


def compose(lines: list[str], setup: list[str], job: Path, folder: str, threads: int, template: str | None) -> str:
    """Return a batch script.

    Args:
        lines: the options of sbatch.
        setup: shell commands before the job; the first that fails ends it.
        job: the folder of the submission.
        folder: where the sweep's command was typed.
        threads: of each process.
        template: the text of a script of one's own, with places for these.
    """
    carried = [f"export {name}={shlex.quote(os.environ[name])}" for name in CARRIED if os.environ.get(name)]
    command = [
        "# So many threads in every process, whatever cores it finds.",
        f"export OMP_NUM_THREADS={threads}",
        *carried,
        f"cd {shlex.quote(folder)}",
        f"exec {shlex.quote(sys.executable)} -m molino.sweeps.slurm.inside {shlex.quote(str(job))}",
    ]
    before = "\n".join(["# What fails from here on ends the job.", "set -e", *setup])
    text = (template or PLAIN).replace(DIRECTIVES, "\n".join(lines))
    return text.replace(SETUP, before).replace(COMMAND, "\n".join(command))


def read_template(path: str | None, setup: list[str]) -> str | None:
    """Return the text of a template.

    Raises:
        ConfigError: it is not there, is no shell script, or lacks one of its parts.
    """
    if path is None:
        return None
    try:
        text = read_text(Path(path).expanduser())
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"hydra.launcher.template={path} cannot be read: {' '.join(str(error).split())}") from error
    if not text.startswith("#!"):
        raise ConfigError(f"hydra.launcher.template={path} is no script: begin it with #!/bin/bash")
    for part in (DIRECTIVES, COMMAND, *([SETUP] if setup else [])):
        if text.count(part) != 1:
            raise ConfigError(f"hydra.launcher.template={path} must say {part} once, on a line of its own")
    return text


def unknown(name: str, known: list[str]) -> str:
    """Return what may have been meant by the name of a partition."""
    return suggest(name, known) or f"; there are {', '.join(known)}"


def _quoted(text: str) -> str:
    """Return a value as sbatch reads it in a script.

    Raises:
        ConfigError: it has lines.
    """
    if "\n" in text:
        raise ConfigError(f"{text.splitlines()[0]!r} goes on in further lines: sbatch takes one")
    if re.fullmatch(r"[\w./:=,@%+*|&!()\[\]-]*", text):
        return text
    escaped = re.sub(r'(["\\])', r"\\\1", text)
    return f'"{escaped}"'
