"""What a command asks for: plain settings, and how they were said."""

import functools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from molino.base.errors import ConfigError
from molino.configuration.identity import digest

# In the environment of a process that is started by a command: the request that it is to train, in place of what its
# command says.
HANDED = "MOLINO_REQUEST"


@dataclass(frozen=True)
class Request:
    """What is asked of a verb. It is plain, and goes to other processes as it stands.

    Attributes:
        settings: all of them, nested, by name.
        overrides: what was typed, but for Hydra's own settings.
        choices: the choice taken of each group: {"model": "gpt", ...}.
        path: the directory that a sweep has for the run; None for a run of its own.
        settled: these are the settings that another process trains the run with already; they are not read again.
    """

    settings: dict[str, Any]
    overrides: list[str]
    choices: dict[str, str | None]
    path: Path | None = None
    settled: bool = False

    @property
    def name(self) -> str:
        """What tells the run from the others of its sweep."""
        return self.path.name if self.path else ",".join(self.overrides)

    @functools.cached_property
    def asked(self) -> str:
        """Equal of requests for the same run, wherever it lies."""
        return digest(self.settings)

    @property
    def processes(self) -> int:
        """How many processes train the run.

        Raises:
            ConfigError: its hardware does not say.
        """
        devices, nodes = (self.settings["hardware"].get(name) for name in ("devices", "num_nodes"))
        if not (isinstance(devices, int) and isinstance(nodes, int)):
            raise ConfigError(f"hardware.devices={devices} and hardware.num_nodes={nodes} must be whole numbers")
        return devices * nodes

    def at(self, path: Path) -> "Request":
        """Return the same request for a directory."""
        return replace(self, path=path)

    def to_text(self) -> str:
        """Return the request as text, for a process that is started by a command."""
        return yaml.safe_dump(asdict(self) | {"path": str(self.path) if self.path else None})

    @classmethod
    def from_text(cls, text: str) -> "Request":
        """Return what `to_text` was called on."""
        content = yaml.safe_load(text)
        return cls(**content | {"path": Path(content["path"]) if content["path"] else None})
