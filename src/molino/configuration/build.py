"""The one door between Hydra's configuration and constructors.

`build` instantiates a node after it has checked the whole tree: every `_target_` comes from an allow-list, every name
is a parameter of its target, every simple value has the annotated type. So a misspelt or mistyped setting, also one
inside an experiment file, ends in one line that names the key, before anything is read or trained.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from molino.base.errors import ConfigError, MolinoError
from molino.base.messages import suggest

# Where `_target_` may point. Configurations travel with runs, and a target is a call: of a class of one of these
# packages, or of a function of this one. What they import from elsewhere does not count as theirs.
ALLOWED = ("molino.", "torch.optim.", "lightning.pytorch.")
# Runs of before these moved bear the names on the left.
MOVED = {
    "molino.training.hardware.Hardware": "molino.machine.hardware.Hardware",
    "molino.models.hub.read.architecture": "molino.hub.read.architecture",
}
# No setting is larger; what is would overflow somewhere below.
LARGEST = 2**32
UNIONS = (typing.Union, types.UnionType)
DIRECTIVES = {"_target_", "_partial_", "_convert_", "_recursive_"}


def build(node: Mapping[str, Any], key: str = "", **runtime: Any) -> Any:
    """Instantiate `node` with `runtime` arguments known only now (such as the vocabulary size).

    Args:
        node: a plain dict with `_target_`, resolved. With `_partial_: true` a functools.partial comes back.
        key: where the node stands in the configuration, for messages; empty for the root.

    Raises:
        ConfigError: a target is not allowed, a name or type does not fit, or the constructor refuses a value.
    """
    check_node(node, key, runtime)
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    try:
        built = instantiate(with_current_names(node), _convert_="all", **runtime)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, MolinoError):
            raise cause from None
        if isinstance(cause, ValueError | TypeError) or type(cause).__name__ == "MisconfigurationException":
            raise ConfigError(f"{key}: {cause}") from cause
        raise cause from None
    if isinstance(built, functools.partial):
        # Hydra's own kind of partial checks its target again at every call: 0.7 ms, thrice a bigram's training step.
        return functools.partial(built.func, *built.args, **built.keywords)
    return built


def check_node(node: Any, key: str, runtime: Iterable[str] = ()) -> None:
    """Check what is to be built; see `build`."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{key}={node} says nothing that can be built: it needs a _target_")
    check(node, key, runtime)


def check(node: Any, key: str = "", runtime: Iterable[str] = ()) -> None:
    """Check a node and all nodes below it; see `build`."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_call(node, key, set(runtime))
        for name, child in node.items():
            check(child, join(key, name))
    elif node == "???":
        raise ConfigError(f"{key} has no value yet: add {key}=<value>")
    elif isinstance(node, int) and abs(node) > LARGEST:
        raise ConfigError(f"{key}={node} is out of range: settings end at {LARGEST:,}")


def check_names(given: Iterable[str], known: Iterable[str], prefix: str = "") -> None:
    """Refuse names that are not known, with the nearest one that is."""
    known = list(known)
    for name in given:
        if name not in known:
            raise ConfigError(f"{prefix}{name} is not a setting{suggest(name, known, prefix)}")


def current_name(path: Any) -> Any:
    """Return what a target is called today; as it is where that is no name."""
    return MOVED.get(path, path) if isinstance(path, str) else path


def resolve_target(path: str, place: str) -> Callable[..., Any]:
    """Return the class or function that `path` names.

    Args:
        place: where that is said, such as `model._target_`, for messages.

    Raises:
        ConfigError: it is not allowed, or is not there.
    """
    if not (isinstance(path, str) and path.startswith(ALLOWED)):
        raise ConfigError(f"{place}={path} is not allowed: targets begin with {', '.join(ALLOWED)}")
    from hydra.utils import get_object

    try:
        target = get_object(current_name(path))
    except Exception as error:
        raise ConfigError(f"{place}={path} cannot be found: {' '.join(str(error).split())}") from error
    packages = ALLOWED if inspect.isclass(target) else ALLOWED[:1] if inspect.isfunction(target) else ()
    if not packages or not f"{target.__module__}.".startswith(packages):
        raise ConfigError(f"{place}={path} is not allowed: it is no class of these packages")
    return target


@functools.cache
def defaults_of(path: str) -> dict[str, Any]:
    """Return the plain values that a target takes where nothing is said; none of one that is not there."""
    try:
        parameters = inspect.signature(resolve_target(path, "_target_")).parameters.values()
    except (ConfigError, TypeError, ValueError):
        return {}
    return {p.name: p.default for p in parameters if p.default is not p.empty and _is_plain(p.default)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    # Not what only derives from them, such as the strings of an Enum.
    return value is None or type(value) in (bool, int, float, str)


def join(place: str, name: str) -> str:
    """Return the whole name of a setting of a section; the root is called ''."""
    return f"{place}.{name}" if place else name


def with_current_names(node: Any) -> Any:
    """Return a node in which it, and all below it, name their targets as they are called today."""
    if isinstance(node, Mapping):
        return {k: current_name(v) if k == "_target_" else with_current_names(v) for k, v in node.items()}
    return [with_current_names(item) for item in node] if isinstance(node, list | tuple) else node


def _check_call(node: Mapping[str, Any], key: str, runtime: set[str]) -> None:
    target = resolve_target(node["_target_"], join(key, "_target_"))
    parameters = inspect.signature(target).parameters
    given = [name for name in node if name not in DIRECTIVES]
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        check_names(given, set(parameters) - runtime, prefix=join(key, ""))
    hints = _type_hints(target)
    for name in given:
        value = node[name]
        if name in hints and not _fits(value, hints[name]):
            raise ConfigError(f"{join(key, name)} must be {_describe(hints[name])}, but it is {value!r}")
    if not node.get("_partial_"):
        for name, parameter in parameters.items():
            required = parameter.default is parameter.empty and parameter.kind in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            )
            if required and name not in node and name not in runtime:
                raise ConfigError(f"{join(key, name)} is missing: add {join(key, name)}=<value>")


def _type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):
        return {}  # Annotations of other packages may name things that exist only for type checkers.


def _describe(annotation: Any) -> str:
    """Return an annotation as it is written, less what a configuration cannot hold anyway."""
    if typing.get_origin(annotation) in UNIONS:
        return " | ".join(_describe(option) for option in typing.get_args(annotation) if not _is_torch(option))
    if annotation is type(None):
        return "null"
    return annotation.__name__ if inspect.isclass(annotation) and not typing.get_args(annotation) else str(annotation)


def _is_torch(annotation: Any) -> bool:
    return inspect.isclass(annotation) and annotation.__module__.startswith("torch")


def _fits(value: Any, annotation: Any) -> bool:
    """Tell whether a plain value fits an annotation. Annotations of classes of objects are left to the call."""
    if isinstance(value, Mapping) or value == "???":
        return True  # Nodes to be instantiated, or reported as missing, elsewhere.
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in UNIONS:
        return any(_fits(value, option) for option in arguments)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            return False
        if origin is list or arguments[-1] is Ellipsis:
            return all(_fits(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if annotation is type(None):
        return value is None
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (bool, str, dict):
        return isinstance(value, annotation)
    # A class such as torch.Tensor inside a union takes no plain value; alone, Any or a Protocol, it decides itself.
    return not _is_torch(annotation)
