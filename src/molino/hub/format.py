"""How an architecture of `transformers` is described, and what the descriptions share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from molino.base.errors import CheckpointError, ConfigError

# Our names of activations by theirs.
ACTIVATIONS = {
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu",
    "swish": "silu",
}  # fmt: skip

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Stored:
    """How a weight of ours is stored: under these names, its rows one below the other.

    Attributes:
        transposed: as (in, out).
        one_row: a vector, as a matrix of one row.
    """

    names: tuple[str, ...]
    transposed: bool = False
    one_row: bool = False


@dataclass(frozen=True)
class Format:
    """An architecture of `transformers`.

    Attributes:
        model_type: its name in config.json.
        architecture: the class that loads it there.
        target: the class here.
        read: config.json as settings of that class, where it leaves nothing out; see `settings`.
        config: settings as config.json; raises ConfigError, with the reason, where it cannot express them.
        stored: our name of a weight -> how it is stored.
        defaults: what the class there takes for an entry of config.json that is left out.
        prefix: what their names begin with, but for the head's. Some folders leave it out.
        other_names: what some folders call a weight: pattern in our spelling of their name -> what stands for it there.
        unused: pattern of names of weights that some folders have beside these, and that change nothing here.
        computed: our name of a buffer -> the names under which it is stored, though it can be computed.
        again: our name of a weight -> further names under which a file may hold the same.
        again_needed: whether these have to stand there where config.json does not tie the head.
        own_head: settings beside `tie_weights` that follow where a head is of its own although config.json ties it.
    """

    model_type: str
    architecture: str
    target: str
    read: Callable[[Config], dict[str, Any]]
    config: Callable[[Config], dict[str, Any]]
    stored: Callable[[str], Stored]
    defaults: Config
    prefix: str = ""
    other_names: Mapping[str, str] = field(default_factory=dict)
    unused: str = "$^"
    computed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    again: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    again_needed: bool = False
    own_head: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, config: Config) -> dict[str, Any]:
        """Return config.json as settings of the class here.

        Raises:
            CheckpointError: it says what the class cannot express.
        """
        return self.read({**self.defaults, **config})


def expect(config: Config, **expected: Any) -> None:
    """Raise CheckpointError unless the config has these values, or says nothing of them."""
    for name, value in expected.items():
        if config.get(name) not in (value, None):
            raise CheckpointError(f"says {name}={config[name]}, which molino cannot express: only {name}={value}")


def require(settings: Config, model_type: str, **required: Any) -> None:
    """Raise ConfigError unless the settings have these values."""
    for name, value in required.items():
        if settings[name] != value:
            raise ConfigError(f"model.{name}={settings[name]} has no counterpart in {model_type}, only {value}")


def activation_of(config: Config, key: str, known: Mapping[str, str]) -> str:
    """Return our name of the activation that a config has under `key`, or raise CheckpointError for another one."""
    value = config[key]
    if value not in known:
        raise CheckpointError(f"says {key}={value}, which molino cannot express: only {', '.join(known)}")
    return known[value]


def named_activation(settings: Config, known: Mapping[str, str], model_type: str) -> str:
    """Return their name of the activation of settings, or raise ConfigError where they have none."""
    for theirs, ours in known.items():
        if ours == settings["activation"]:
            return theirs
    raise ConfigError(f"model.activation={settings['activation']} has no counterpart in {model_type}")
