"""What a command asks for: plain settings, and how they were said."""

import functools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from molino.base.errors import ConfigError
from molino.configuration.identity import digest


@dataclass(frozen=True)
class Request:
    """What is asked of a verb. It is plain, and goes to other processes as it stands.

    Attributes:
        settings: all of them, nested, by name.
        overrides: what was typed, but for Hydra's own settings.
        choices: the choice taken of each group: {"model": "gpt", ...}.
        path: the directory that a sweep has for the run; None for a run of its own.
        varied: of what was typed, what tells it from the others of its sweep; None where nobody has said.
        origin: the run that it begins from, where `weights=` names settings: trained first, if it is not done.
        settled: these are the settings that another process trains the run with already; they are not read again.
    """

    settings: dict[str, Any]
    overrides: list[str]
    choices: dict[str, str | None]
    path: Path | None = None
    settled: bool = False
    origin: "Request | None" = None
    varied: list[str] | None = None

    @property
    def name(self) -> str:
        """What tells the run from the others of its sweep."""
        return self.path.name if self.path else ",".join(self.overrides)

    @functools.cached_property
    def asked(self) -> str:
        """Equal of requests for the same run, wherever it lies."""
        return digest(self.settings)

    @property
    def monitor(self) -> str:
        """The tag of the figure that decides; see molino.runs.measures. Empty where the settings name none."""
        task = self.settings.get("task")
        return str(task.get("monitor", "")) if isinstance(task, dict) else ""

    @property
    def devices(self) -> int:
        """How many devices train the run on each machine."""
        return self._hardware("devices", 1, int)

    @property
    def nodes(self) -> int:
        """How many machines train the run."""
        return self._hardware("num_nodes", 1, int)

    @property
    def processes(self) -> int:
        """How many processes train the run."""
        return self.devices * self.nodes

    @property
    def accelerator(self) -> str:
        """What the run is to compute on."""
        return self._hardware("accelerator", "auto", str)

    def _hardware(self, name: str, default: Any, kind: type) -> Any:
        """Return a setting of the hardware, of which nothing has been built yet; the default is its constructor's.

        Raises:
            ConfigError: it is of another kind.
        """
        hardware = self.settings.get("hardware")
        value = hardware.get(name, default) if isinstance(hardware, dict) else hardware
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"hardware.{name}={value} must be {kind.__name__}")
        return value

    def at(self, path: Path) -> "Request":
        """Return the same request for a directory."""
        return replace(self, path=path)

    def to_text(self) -> str:
        """Return the request as text, for a process that is started by a command."""
        return yaml.safe_dump(_plain(self))

    @classmethod
    def from_text(cls, text: str) -> "Request":
        """Return what `to_text` was called on."""
        return _request(yaml.safe_load(text))


def _plain(request: Request | None) -> dict[str, Any] | None:
    if request is None:
        return None
    path = str(request.path) if request.path else None
    return asdict(request) | {"path": path, "origin": _plain(request.origin)}


def _request(content: dict[str, Any] | None) -> Request | None:
    if content is None:
        return None
    path = Path(content["path"]) if content["path"] else None
    return Request(**content | {"path": path, "origin": _request(content.get("origin"))})
