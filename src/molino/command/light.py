"""Imports that others do for nothing, left out: more than half of the seconds of a start.

Where another version of a package does things differently, it is imported as it wants to be: as well, only slower.
"""

import builtins
import functools
import gc
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

LEFT_OUT = ("transformers", "matplotlib", "scipy")
DYNAMO = "torch._dynamo"


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage while modules are imported, and never again among what they are made of.

    They leave hardly any, and looking takes a fifth of the time. For what stays as long as the process: whatever
    garbage there was when this ends stays too.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if collects:
            gc.enable()


def import_lightning() -> None:
    """Import Lightning without what nothing here uses of what it imports; whoever wants that still imports it.

    It imports torchmetrics, and that LEFT_OUT for metrics and plots, where they are installed: two seconds.

    It imports torch._dynamo, the compiler behind torch.compile, to ask whether a module is compiled and to exempt two
    functions from compilation; optimizers import it to be exempted themselves: 0.6 s. While nobody else has imported
    it, nothing is compiled, and all of that can wait. Who compiles something imports it, and finds everything as if it
    had been there from the beginning.
    """
    if "lightning" in sys.modules:
        return
    _keep_torchmetrics_light()
    from torch import compiler

    import_, disable = builtins.__import__, compiler.disable
    builtins.__import__, compiler.disable = _without_optimized_module(import_), _disable_later(disable)
    try:
        import lightning.pytorch  # noqa: F401
    finally:
        builtins.__import__, compiler.disable = import_, disable
    _exempt_optimizers_later()


def _keep_torchmetrics_light() -> None:
    from lightning_utilities.core import imports
    from lightning_utilities.core.imports import RequirementCache

    check, available = RequirementCache._check_requirement, imports.package_available

    def check_unless_left_out(cache: RequirementCache) -> None:
        if re.match(r"\w+", cache.requirement)[0] in LEFT_OUT:
            cache.available, cache.message = False, "left out by molino"
        else:
            check(cache)

    RequirementCache._check_requirement = check_unless_left_out
    imports.package_available = lambda name: name not in LEFT_OUT and available(name)


class _IsCompiled(type):
    def __instancecheck__(cls, thing: Any) -> bool:
        return isinstance(thing, getattr(sys.modules.get(DYNAMO), "OptimizedModule", ()))


class OptimizedModule(metaclass=_IsCompiled):
    """Stands in Lightning for torch._dynamo's class of this name: has the same instances."""


def _without_optimized_module(import_: Callable[..., Any]) -> Callable[..., Any]:
    """Return `import_` with one exception: Lightning's `from torch._dynamo import OptimizedModule`."""

    def spare(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        importer = (globals or {}).get("__name__", "")
        if name == DYNAMO and fromlist == ("OptimizedModule",) and importer.startswith("lightning."):
            return SimpleNamespace(OptimizedModule=OptimizedModule)
        return import_(name, globals, locals, fromlist, level)

    return spare


def _disable_later(disable: Callable[..., Any]) -> Callable[..., Any]:
    """Return `torch.compiler.disable` such that it imports torch._dynamo no more where it decorates a function."""
    import torch

    # Torch's own: the same, but only when the function is called.
    disable_when_called = getattr(torch, "_disable_dynamo", disable)

    def later(function: Any = None, *args: Any, **kwargs: Any) -> Any:
        if function is None or args or kwargs:
            return disable(function, *args, **kwargs)
        return _unless_dynamo(disable_when_called(function), function)

    return later


def _exempt_optimizers_later() -> None:
    from torch.optim import Optimizer

    for name, method in list(vars(Optimizer).items()):
        if _comes_from(method, "torch._compile"):
            setattr(Optimizer, name, _unless_dynamo(method, method.__wrapped__))
    # This wraps the steps of each class when the first optimizer of it is made.
    if wrap := getattr(Optimizer, "profile_hook_step", None):
        Optimizer.profile_hook_step = staticmethod(lambda step: wrap(_without_graph_breaks(step)))


def _comes_from(method: Any, module: str) -> bool:
    """Tell whether a function was wrapped by a decorator of `module`."""
    return hasattr(method, "__wrapped__") and getattr(method, "__globals__", {}).get("__name__") == module


def _unless_dynamo(wrapped: Callable[..., Any], bare: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is `bare` as long as nobody has imported torch._dynamo, and `wrapped` from then on."""

    @functools.wraps(wrapped)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (wrapped if DYNAMO in sys.modules else bare)(*args, **kwargs)

    return call


def _without_graph_breaks(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return the step of an optimizer without the two breaks that torch.compile is to make around it."""
    if not (_comes_from(step, "torch.optim.optimizer") and step.__code__.co_name == "_use_grad"):
        return step
    from torch import set_grad_enabled

    def bare(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        with set_grad_enabled(optimizer.defaults["differentiable"]):
            return step.__wrapped__(optimizer, *args, **kwargs)

    return _unless_dynamo(step, bare)
