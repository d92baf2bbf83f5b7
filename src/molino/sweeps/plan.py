"""From what was typed to the runs of a sweep: their overrides and the names of their directories.

A run's directory follows from what was asked, never from a counter or the clock, so that the same command finds the
same runs: `<sweep>/<what differs>`, where a sweep is called as the person says (`sweep=...`) or else after the settings
it varies and a digest of those it does not.
"""

import hashlib
import itertools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from molino.base.errors import ConfigError
from molino.base.messages import suggest
from molino.configuration.identity import is_indifferent
from molino.configuration.internals import every_combination
from molino.configuration.overrides import quote, quote_value
from molino.runs.directory import readable_name


def parse(arguments: list[str], params: dict[str, Any] | None, loader: Any) -> list[Override]:
    """Return what was typed, and before it what the sweeper's `params` say, as Hydra's overrides."""
    given = {key: "null" if value is None else value for key, value in (params or {}).items()}
    texts = [*(f"{key}={value}" for key, value in given.items()), *arguments]
    return OverridesParser.create(config_loader=loader).parse_overrides(texts)


def split(overrides: list[Override]) -> tuple[list[str], list[str]]:
    """Return the settings that a sweep varies, and the overrides that all of its runs share.

    Raises:
        ConfigError: the name of the sweep is among those that vary.
    """
    swept = [override.get_key_element() for override in overrides if override.is_sweep_override()]
    fixed = [override.input_line for override in overrides if not override.is_sweep_override()]
    if "sweep" in swept:
        raise ConfigError("sweep= takes one name: give each sweep a command of its own")
    return swept, fixed


def combine(overrides: list[Override]) -> list[list[str]]:
    """Return the overrides of each run: every combination of the values listed.

    Raises:
        ConfigError: a setting has no list of values but an interval, or an empty list.
    """
    for override in overrides:
        if override.is_interval_sweep():
            raise ConfigError(
                f"{override.input_line} has no values to try one by one: list some, or search with hydra/sweeper=optuna"
            )
    combined = every_combination(overrides)
    if not combined:
        empty = next((o.input_line for o in overrides if o.is_sweep_override()), "the command")
        raise ConfigError(f"{empty} lists no values: there is nothing to train")
    return combined


Cases = dict[str, dict[str, list[str]]]


def parse_cases(cases: dict[str, Any] | None) -> Cases:
    """Return the overrides of each case of each name.

    Raises:
        ConfigError: there are none, or they are no settings.
    """
    found: Cases = {}
    for name, each in (cases or {}).items():
        if not isinstance(each, dict) or not each or not all(isinstance(text, str) for text in each.values()):
            raise ConfigError(f"hydra.sweeper.cases.{name} must name cases and their settings: {{one: 'a=1 b=2', ...}}")
        found[str(name)] = {str(case): [quote(word) for word in shlex.split(text)] for case, text in each.items()}
    return found


def told(cases: Cases) -> list[str]:
    """Return texts that tell cases from others."""
    return [f"{name}={case}:{' '.join(settings)}" for name, each in cases.items() for case, settings in each.items()]


def every_case(cases: Cases, without: Sequence[Mapping[str, str]] = ()) -> list[tuple[list[str], list[str]]]:
    """Return every combination of cases: what they are called, as in a run's name, and their settings.

    Args:
        without: cases, by their names, that do not go together: combinations that have all of one are left out.

    Raises:
        ConfigError: there is no such case.
    """
    for name, case in (pair for each in without for pair in each.items()):
        if case not in cases.get(name, {}):
            there = suggest(name, cases) if name not in cases else suggest(case, cases[name])
            raise ConfigError(f"hydra.sweeper.without: {name}={case} is no case{there}")
    combined = itertools.product(*([(name, case) for case in each] for name, each in cases.items()))
    combined = (each for each in combined if not any(one.items() <= dict(each).items() for one in without))
    return [
        ([f"{name}={case}" for name, case in each], [text for name, case in each for text in cases[name][case]])
        for each in combined
    ]


def called(names: list[str]) -> list[str]:
    """Return the setting by which a run knows what its cases are called."""
    pairs = (name.partition("=")[::2] for name in names)
    return [f"case={{{','.join(f'{name}:{quote_value(case)}' for name, case in pairs)}}}"] if names else []


def sweep_names(swept: list[str], fixed: list[str], prefix: str = "") -> list[str]:
    """Return the name of a sweep that was given none, then the name that an earlier version gave it."""
    earlier = [o for o in fixed if not o.lstrip("+").startswith(("paths.", "sweep="))]
    telling = [o for o in earlier if not _is_indifferent(o)]
    return [f"{prefix}{readable_name(sorted(swept))}-{_digest(sorted(texts))}" for texts in (telling, earlier)]


def varied(overrides: list[str], swept: list[str]) -> list[str]:
    """Return what tells a run from the others: in alphabetical order but for the seed, which comes last."""
    found = [override for override in overrides if override.partition("=")[0] in swept]
    return sorted(found, key=lambda override: (override.startswith("seed="), override))


def run_name(overrides: list[str], swept: list[str]) -> str:
    """Return the name of a run: what differs."""
    told = varied(overrides, swept)
    name = readable_name(told)
    if any(mark in override.partition("=")[2] for override in told for mark in "/ "):
        # A directory's name cannot hold them, and a/b is not a-b.
        return f"{name}-{_digest(told, between=',')}"
    return name


def _is_indifferent(override: str) -> bool:
    key, _, value = override.lstrip("+~").partition("=")
    # The choices of `debug` but one change the plan of a run.
    return value == "traceback" if key == "debug" else is_indifferent(key)


def _digest(texts: list[str], between: str = "\n") -> str:
    return hashlib.sha256(between.join(texts).encode()).hexdigest()[:8]
