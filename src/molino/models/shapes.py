"""Models without weights: what a configuration makes, before any memory or time is spent on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_only() -> Iterator[None]:
    """Give every tensor that is made in here a shape and a dtype only (device `meta`)."""
    with torch.device("meta"), _Uninitialised():
        yield


class _Uninitialised(TorchFunctionMode):
    """Leaves out torch.nn.init: on the meta device there is nothing to fill, but torch would import hundreds of modules
    for it, for 0.6 s and more."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **kwargs or {})
