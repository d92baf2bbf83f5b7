"""`weights=` that names settings, in place of a run: `weights="experiment=gpt1_pretrain model=lstm"`.

The run of these settings has a place of its own, which follows from them: below <outputs>/weights. Whoever needs its
weights first trains it there, unless a run of the same settings is done elsewhere (verbs/train.py). So runs that begin
from others are composed, planned and told apart before any of these exists.
"""

import hashlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from molino.base.errors import ConfigError
from molino.configuration.identity import NAMED, canonical, essential, without_seed
from molino.configuration.overrides import quote_value, take_config_dir
from molino.configuration.request import Request

NOT_TAKEN = ("resume", "continue", "sweep", "paths")
Compose = Callable[[str, list[str]], Request]

_composed: dict[tuple[str, ...], Request] = {}


def names_settings(weights: Any) -> bool:
    """Tell whether `weights` names settings; what is there by that name is a run or a folder."""
    return isinstance(weights, str) and re.match(r"[+~]*[\w./@]+=", weights) is not None and not Path(weights).exists()


def request_of_weights(weights: str, settings: dict[str, Any], compose: Compose) -> Request:
    """Return the run whose weights are meant, in its place. The seed is that of the run that begins from it, unless
    another one is said.

    Args:
        settings: of the run that begins from it.
        compose: what makes a request of a verb and what is typed for it.

    Raises:
        ConfigError: these settings make no such run.
    """
    try:
        words = shlex.split(weights)
    except ValueError as error:
        raise ConfigError(f"weights={weights}: a quotation mark is not closed") from error
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key.partition(".")[0] in NOT_TAKEN:
            raise ConfigError(f"weights={weights}: {key} has no use there, the run lies below paths.outputs/{NAMED}")
        if word == "weights=latest":
            raise ConfigError(f"weights={weights}: latest is another run each time; name one")
    if not any(word.startswith("seed=") for word in words):
        words.append(f"seed={settings['seed']}")
    words += [f"paths.{name}={quote_value(str(path))}" for name, path in settings["paths"].items() if path is not None]
    own = take_config_dir(sys.argv[1:])[0]
    words += ["--config-dir", own] if own else []
    if tuple(words) not in _composed:
        _composed[tuple(words)] = _placed(compose("train", words))
    return _composed[tuple(words)]


def _placed(request: Request) -> Request:
    settings = request.settings
    digest = hashlib.sha256(canonical(without_seed(essential(settings))).encode()).hexdigest()[:12]
    folder = Path(settings["paths"]["outputs"]) / NAMED / f"{settings['name']}-{digest}"
    return request.at(folder / f"seed={settings['seed']}")
