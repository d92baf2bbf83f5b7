"""The door: which classes and functions a configuration may name, and where.

A run's config.yaml travels, and a `_target_` in it is a call. So what it names has to be of this package, of
torch.optim, of Lightning, or of a package that the person at the keyboard has let in, and it is taken only where a part
of its kind belongs. Kinds are what the code asks for:

- a class: the target is one that is derived from it
- a protocol: the target is a class with all its methods
- a protocol of functions (it has `__call__`): the target is a function whose first parameters bear the same names. What
  is built of it waits for these
- several of them at once: all hold
"""

import difflib
import functools
import importlib
import inspect
import os
import pkgutil
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from molino.base.errors import ConfigError
from molino.base.messages import suggest

BUILT_IN = ("molino", "torch.optim", "lightning.pytorch")
# How people let in packages of their own: this variable, or an entry point of an installed package.
ALLOW = "MOLINO_ALLOW"
PLUGINS = "molino.plugins"
# Runs of before these moved bear the names on the left.
MOVED = {
    "molino.training.hardware.Hardware": "molino.machine.hardware.Hardware",
    "molino.models.hub.read.architecture": "molino.hub.read.architecture",
}
Kind = type | tuple[type, ...]


def find_part(path: Any, place: str, kind: Kind) -> Callable[..., Any]:
    """Return the class or function that `path` names.

    Args:
        place: where that is said, such as `model._target_`, for messages.
        kind: what belongs there.

    Raises:
        ConfigError: it is not let in, is not there, or is not of this kind. Nothing is imported that is not let in.
    """
    module, name, target = _locate(path, place)
    if target is None:
        known = [each for each in _public(module) if not _lacks(getattr(module, each), kind)]
        raise ConfigError(f"{place}={path} is not there{suggest(name, known, f'{module.__name__}.')}")
    if lack := _lacks(target, kind):
        raise ConfigError(f"{place}={path} is no {name_of(kind)}: {lack}")
    return target


def find_callable(path: Any, place: str) -> Callable[..., Any]:
    """Return what `path` names, of whatever kind, to look at its signature; as `find_part`."""
    target = _locate(path, place)[2]
    if target is None:
        raise ConfigError(f"{place}={path} is not there")
    return target


def makes_later(kind: Any) -> bool:
    """Tell whether a kind is one of functions."""
    return is_protocol(kind) and "__call__" in vars(kind)


def arguments_of(kind: Any) -> list[str]:
    """Return the names of the first parameters of a function of this kind."""
    return list(inspect.signature(vars(kind)["__call__"]).parameters)[1:]


def name_of(kind: Kind) -> str:
    """Return what a kind is called."""
    return kind[-1].__name__ if isinstance(kind, tuple) else kind.__name__


def current_name(path: Any) -> Any:
    """Return what a target is called today; as it is where that is no name."""
    return MOVED.get(path, path) if isinstance(path, str) else path


def let_in() -> tuple[str, ...]:
    """Return the packages of people's own that are let in.

    Raises:
        ConfigError: MOLINO_ALLOW holds what is no name of a package.
    """
    named = named_in_environment()
    for name in named:
        if not all(map(str.isidentifier, name.split("."))):
            raise ConfigError(f"{ALLOW} names {name}, which is no package: list them as in {ALLOW}=mylab,other")
    if named and not any(isinstance(finder, WorkingDirectory) for finder in sys.meta_path):
        sys.meta_path.append(WorkingDirectory())
    return named + _plugins()


class WorkingDirectory:
    """Finds packages that MOLINO_ALLOW names in the working directory, if they are nowhere else."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        # Nothing else there takes the place of a package that is missing.
        here = path is None and name in {each.partition(".")[0] for each in named_in_environment()}
        return PathFinder.find_spec(name, [str(Path.cwd())]) if here else None


def named_in_environment() -> tuple[str, ...]:
    """Return what MOLINO_ALLOW lists."""
    return tuple(name for name in re.split(r"[,\s]+", os.environ.get(ALLOW, "")) if name)


@functools.cache
def _plugins() -> tuple[str, ...]:
    """Return the packages that are installed as plugins of molino."""
    return tuple(entry.value.partition(":")[0].strip() for entry in entry_points(group=PLUGINS))


def _locate(path: Any, place: str) -> tuple[ModuleType, str, Any]:
    """Return the module that `path` names something of, what that is called, and the thing; None if it is not there."""
    if not isinstance(path, str) or not all(map(str.isidentifier, path.split("."))) or "." not in path:
        raise ConfigError(f"{place}={path} names no class and no function: it has to read package.module.Name")
    path = current_name(path)
    _check_root(path, place)
    module, name = path.rpartition(".")[::2]
    if name.startswith("_"):
        raise ConfigError(f"{place}={path} is not allowed: a name that begins with _ is private")
    module = _import(module, path, place)
    target = getattr(module, name, None)
    if target is not None:
        if not (inspect.isclass(target) or inspect.isfunction(target)):
            raise ConfigError(f"{place}={path} is not allowed: it is a {type(target).__name__}, no class or function")
        # What a module imports from elsewhere is not its own.
        if not _is_within(target.__module__, BUILT_IN) and not _is_within(target.__module__, let_in()):
            raise ConfigError(f"{place}={path} is not allowed: it is {target.__module__}'s, which is not let in")
    return module, name, target


def _check_root(path: str, place: str) -> None:
    # To ask which packages are installed takes a while.
    if _is_within(path, BUILT_IN) or _is_within(path, own := let_in()):
        return
    package = path.partition(".")[0]
    near = difflib.get_close_matches(package, own, n=1, cutoff=0.5)
    advice = f"; if the code is yours, or you trust it, set {ALLOW}={package} in the environment"
    if near:
        advice = f": did you mean {near[0]}?"
    elif package in (*sys.stdlib_module_names, "torch", "lightning"):
        advice = ""  # never a part, but a way to do harm
    raise ConfigError(f"{place}={path} is not allowed: {package} is not let in{advice}")


def _import(module: str, path: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not _is_within(module, (error.name,)):
            raise ConfigError(f"{place}={path} cannot be imported: {error}") from error
        parent, _, missing = error.name.rpartition(".")
        if not parent:
            raise ConfigError(
                f"{place}={path} is not there: Python finds no package {missing}, neither installed nor in {Path.cwd()}"
            ) from error
        paths = getattr(sys.modules[parent], "__path__", ())
        known = [found.name for found in pkgutil.iter_modules(paths) if not found.name.startswith("_")]
        advice = suggest(missing, known, f"{parent}.") if known else f": {parent} is a module, not a package"
        raise ConfigError(f"{place}={path} is not there{advice}") from error
    except (Exception, SystemExit) as error:
        reason, last = " ".join(str(error).split()), traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, SyntaxError) else f" ({last.filename}, line {last.lineno})"
        raise ConfigError(f"{place}={path} cannot be imported: {type(error).__name__}: {reason}{where}") from error


def _public(module: ModuleType) -> Iterator[str]:
    return (name for name in vars(module) if not name.startswith("_"))


def _is_within(path: str, packages: tuple[str, ...]) -> bool:
    return any(path == package or path.startswith(f"{package}.") for package in packages)


def is_protocol(kind: Any) -> bool:
    """Tell whether a kind is a protocol."""
    return bool(getattr(kind, "_is_protocol", False))


def _lacks(target: Any, kind: Kind) -> str:
    """Return what a target lacks to be of a kind, in words; empty if nothing."""
    if isinstance(kind, tuple):
        return next((lack for each in kind if (lack := _lacks(target, each))), "") or _lacks_own(target, *kind)
    if makes_later(kind):
        return _lacks_as_function(target, kind)
    if not inspect.isclass(target):
        return f"it is a {type(target).__name__}, not a class"
    if not is_protocol(kind):
        return "" if issubclass(target, kind) else f"it is not derived from {kind.__module__}.{kind.__name__}"
    return _has_no({name: each for name, each in _methods(kind).items() if not callable(getattr(target, name, None))})


def _lacks_own(target: type, base: type, protocol: type) -> str:
    """Return which methods of a protocol a class has from its base alone, as torch.nn.Module's stub of `forward`."""
    stubs = {name: getattr(base, name, None) for name in _methods(protocol)}
    return _has_no({n: each for n, each in _methods(protocol).items() if getattr(target, n, None) is stubs[n]})


def _methods(protocol: type) -> dict[str, Callable]:
    return {n: each for n, each in vars(protocol).items() if inspect.isfunction(each) and not n.startswith("_")}


def _has_no(methods: dict[str, Callable]) -> str:
    return f"it has no {' and no '.join(map(_described, methods, methods.values()))}" if methods else ""


def _lacks_as_function(target: Any, kind: type) -> str:
    if not inspect.isfunction(target):
        return f"it is a {type(target).__name__}, not a function"
    wanted, given = arguments_of(kind), list(inspect.signature(target).parameters)
    if given[: len(wanted)] != wanted:
        return f"its first parameters are not {', '.join(wanted)}"
    returns = typing.get_type_hints(vars(kind)["__call__"])["return"]
    try:
        returned = typing.get_type_hints(target).get("return", returns)
    except NameError:
        returned = returns
    return "" if returned == returns else f"it returns {getattr(returned, '__name__', returned)}"


def _described(name: str, method: Callable) -> str:
    return f"{name}({', '.join(list(inspect.signature(method).parameters)[1:])})"
