"""What is installed, and what it computes on: `molino --version`."""

import platform
from importlib import metadata

from molino.machine.hardware import Hardware

PACKAGES = ("molino-lm", "torch", "lightning", "hydra-core")


def versions() -> str:
    """Return versions and device on one line."""
    named = ", ".join(f"{package} {metadata.version(package)}" for package in PACKAGES)
    return f"{named}, Python {platform.python_version()}; device: {Hardware().describe()}"
