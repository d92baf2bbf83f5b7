"""What a run records of itself before it starts: its settings, the code and the machine it ran on."""

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from molino.base.files import read_text, write_text
from molino.runs.directory import CONFIG

PACKAGES = ("molino-lm", "torch", "lightning", "hydra-core", "omegaconf", "tokenizers", "numpy")


def record(run: Path, config: dict[str, Any], overrides: list[str], choices: dict[str, Any]) -> None:
    """Write `overrides.yaml` (what was typed), `environment.json` (also: the choice of each group), `changes.patch`
    (if the source differs from its commit) and, last, `config.yaml` (resolved), which makes the directory a run."""
    write_text(run / "overrides.yaml", yaml.safe_dump(overrides))
    commit, changes = _source_state()
    write_text(
        run / "environment.json", json.dumps(environment(commit, bool(changes)) | {"choices": choices}, indent=2) + "\n"
    )
    if changes:
        write_text(run / "changes.patch", changes)
    write_text(run / CONFIG, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def read_choices(run: Path) -> dict[str, Any]:
    """Return the choice that a run has taken of each group; of one that has not recorded them, none."""
    try:
        choices = json.loads(read_text(run / "environment.json")).get("choices")
    except (OSError, ValueError, AttributeError):
        return {}
    return choices if isinstance(choices, dict) else {}


def environment(commit: str | None, changed: bool) -> dict[str, Any]:
    """Return versions and machine as plain values. Environment variables stay out: they hold secrets."""
    return {
        "command": ["molino", "train", *sys.argv[1:]],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": commit,
        "git_changed": changed,
        "host": platform.node(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _source_state() -> tuple[str | None, str]:
    """Return the commit of the checkout this code lies in and its differences from it; (None, '') outside of one."""
    source = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=source, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return (commit.strip(), git("diff", "HEAD") or "") if commit else (None, "")
