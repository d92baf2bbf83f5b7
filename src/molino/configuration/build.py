"""From nodes of a configuration to what they name: checked as a whole before any of it is built.

Whoever builds says of which kind the part is to be; below that the annotations of constructors say it (see `door.py`).
Every name is a parameter of its target, every value has the annotated type, and a `_target_` stands only where a part
belongs. So a misspelt, mistyped or hostile setting, also one of a run of somebody else's, ends in one line that names
the key, before anything is read, built or written.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from molino.base.errors import ConfigError, MolinoError
from molino.base.messages import suggest
from molino.configuration.door import (
    Kind,
    arguments_of,
    current_name,
    find_callable,
    find_part,
    is_protocol,
    makes_later,
    named_in_environment,
)

# No setting is larger; what is would overflow somewhere below.
LARGEST = 2**32
UNIONS = (typing.Union, types.UnionType)
PLAIN = (bool, int, float, str, dict, list, tuple, set, type, object, type(None))


def build(node: Any, key: str, kind: Kind, **runtime: Any) -> Any:
    """Build a part with `runtime` arguments known only now (such as the vocabulary size).

    Args:
        node: a plain dict with `_target_`, resolved.
        key: where the node stands in the configuration, for messages.
        kind: what belongs there. A function comes as a functools.partial that waits for its first arguments.

    Raises:
        ConfigError: a target is not allowed there, a name or type does not fit, or the constructor refuses a value.
    """
    check_node(node, key, kind, runtime)
    built = _construct(node, key, kind, runtime)
    if lacking := [name for name in _attributes(kind) if not hasattr(built, name)]:
        raise ConfigError(f"{key}._target_={node['_target_']} is no {kind.__name__}: it has no {', '.join(lacking)}")
    return built


def bind(node: Any, key: str, kind: type, given: Iterable[str]) -> functools.partial:
    """Return what makes a part once it is called with the arguments `given`; as `build`."""
    check_node(node, key, kind, given, later=True)
    return _construct(node, key, kind, {}, later=True)


def check_node(node: Any, key: str, kind: Kind, given: Iterable[str] = (), later: bool = False) -> None:
    """Check a part and all parts below it.

    Args:
        given: names of arguments that are passed in plain Python, and so are no settings.
        later: it waits for them.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{key}={node} says nothing that can be built: it needs a _target_")
    target = find_part(node["_target_"], join(key, "_target_"), kind)
    if makes_later(kind):
        given, later = [*given, *arguments_of(kind)], True
    for name in filter(_is_directive, node):
        if name == "_target_" or (name == "_partial_" and later and node[name] is True):
            continue
        raise ConfigError(f"{join(key, name)}={node[name]} is not allowed: a part is its _target_ and its settings")
    check_arguments(target, _arguments(node), key, given, later)


def check_arguments(
    target: Callable, arguments: Mapping[str, Any], key: str = "", given: Iterable[str] = (), later: bool = False
) -> None:
    """Check settings that something of molino's own is to be called with; as `check_node`."""
    given, parameters = dict.fromkeys(given), inspect.signature(target).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        check_names(arguments, [name for name in parameters if name not in given], prefix=join(key, ""))
        # What waits may leave some of it alone, but not all.
        absent = [name for name in given if name not in parameters]
        if absent and not (later and len(absent) < len(given)):
            raise ConfigError(f"{key}: {_name(target)} has no parameter {absent[0]}, which molino passes")
    hints = _type_hints(target)
    for name, value in arguments.items():
        if value is not None and target.__module__.startswith("lightning.") and _is_path(hints.get(name)):
            raise ConfigError(f"{join(key, name)}={value} is not taken: a run writes into its own directory alone")
        _check_value(value, join(key, name), hints.get(name, Any))
    for name, parameter in parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if parameter.default is parameter.empty and not variadic and name not in arguments and name not in given:
            raise ConfigError(f"{join(key, name)} is missing: add {join(key, name)}=<value>")


def construct_arguments(target: Callable, arguments: Mapping[str, Any], key: str = "") -> dict[str, Any]:
    """Return the checked arguments for something of molino's own, with its parts built."""
    check_arguments(target, arguments, key)
    return _built(target, arguments, key)


def check_names(given: Iterable[str], known: Iterable[str], prefix: str = "") -> None:
    """Refuse names that are not known, with the nearest one that is."""
    known = list(known)
    for name in given:
        if name not in known:
            raise ConfigError(f"{prefix}{name} is not a setting{suggest(str(name), known, prefix)}")


def defaults_of(path: str) -> dict[str, Any]:
    """Return the plain values that a target takes where nothing is said; none of one that is not there."""
    return _defaults(path, named_in_environment())


@functools.cache
def _defaults(path: str, let_in: tuple[str, ...]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(find_callable(path, "_target_")).parameters.values()
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


def _construct(node: Mapping[str, Any], key: str, kind: Kind, runtime: dict[str, Any], later: bool = False) -> Any:
    target = find_part(node["_target_"], join(key, "_target_"), kind)
    arguments = _built(target, _arguments(node), key)
    if later or makes_later(kind):
        return functools.partial(target, **arguments, **runtime)
    try:
        return target(**arguments, **runtime)
    except MolinoError:
        raise
    except Exception as error:
        known = isinstance(error, ValueError | TypeError | ImportError)
        if known or type(error).__name__ == "MisconfigurationException":
            raise ConfigError(f"{key}: {str(error) or type(error).__name__}") from error
        raise


def _built(target: Callable, arguments: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return arguments with the parts among them built, those of an earlier place first."""
    hints = _type_hints(target)
    return {
        name: build(value, join(key, name), _part_kind(value, join(key, name), hints[name]))
        if _is_node(value)
        else _unshared(value)
        for name, value in arguments.items()
    }


def _part_kind(node: Mapping[str, Any], key: str, annotation: Any) -> type:
    """Return which of the kinds that an annotation takes a node is of.

    Raises:
        ConfigError: it is of none.
    """
    options = typing.get_args(annotation) if typing.get_origin(annotation) in UNIONS else (annotation,)
    kinds = [option for option in options if inspect.isclass(option) and option not in PLAIN]
    refused: ConfigError | None = None
    for kind in kinds:
        try:
            find_part(node["_target_"], join(key, "_target_"), kind)
            return kind
        except ConfigError as error:
            refused = error
    raise refused or ConfigError(
        f"{join(key, '_target_')}={node['_target_']} is not allowed: {key} is a plain value, not a part"
    )


def _check_value(value: Any, key: str, annotation: Any) -> None:
    if _is_node(value):
        check_node(value, key, _part_kind(value, key, annotation))
        return
    _check_plain(value, key)
    if annotation is not Any and not _fits(value, annotation):
        raise ConfigError(f"{key} must be {_describe(annotation)}, but it is {value!r}")


def _check_plain(value: Any, key: str) -> None:
    """Refuse calls within a plain value, values that are missing, and numbers out of all proportion."""
    if isinstance(value, Mapping):
        for name, child in value.items():
            if _is_directive(name):
                raise ConfigError(f"{join(key, name)}={child} is not allowed: {key} is a plain value, not a part")
            _check_plain(child, join(key, str(name)))
    elif isinstance(value, list | tuple):
        for child in value:
            _check_plain(child, key)
    elif value == "???":
        raise ConfigError(f"{key} has no value yet: add {key}=<value>")
    elif isinstance(value, int) and abs(value) > LARGEST:
        raise ConfigError(f"{key}={value} is out of range: settings end at {LARGEST:,}")


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _is_directive(name: Any) -> bool:
    """Tell whether a name is one of those that Hydra gives a meaning to, such as _target_."""
    return isinstance(name, str) and name.startswith("_") and name.endswith("_")


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if not _is_directive(name)}


def _unshared(value: Any) -> Any:
    """Return a plain value that may be changed without changing the configuration."""
    if isinstance(value, Mapping):
        return {name: _unshared(child) for name, child in value.items()}
    return [_unshared(child) for child in value] if isinstance(value, list | tuple) else value


def _attributes(kind: Kind) -> list[str]:
    """Return the attributes that a protocol asks for."""
    return list(inspect.get_annotations(kind)) if is_protocol(kind) else []


def _name(target: Callable) -> str:
    return f"{target.__module__}.{target.__name__}"


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


def _is_path(annotation: Any) -> bool:
    return any(inspect.isclass(each) and issubclass(each, Path) for each in (annotation, *typing.get_args(annotation)))


def _is_torch(annotation: Any) -> bool:
    return inspect.isclass(annotation) and annotation.__module__.startswith("torch")


def _fits(value: Any, annotation: Any) -> bool:
    """Tell whether a plain value fits an annotation. Annotations of classes of objects are left to the call."""
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
    if annotation in (bool, str, dict, list):
        return isinstance(value, annotation)
    # A class such as Path takes no plain value, nor does what is to be called; Any or a protocol decides itself.
    decides = is_protocol(annotation) or annotation is object or not inspect.isclass(annotation)
    return origin is not Callable and decides
