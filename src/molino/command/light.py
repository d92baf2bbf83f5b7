"""Imports that others do for nothing, left out: most of the seconds of a start. For the process of a command only."""

import functools
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Lightning imports torchmetrics, which imports these for metrics and plots where they are installed: two seconds.
LEFT_OUT = ("transformers", "matplotlib", "scipy")


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage while modules are imported, which takes a fifth of the time, nor later among them."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if collects:
            gc.enable()


def import_lightning() -> None:
    """Import Lightning as if LEFT_OUT were not installed; when this ends they are again, for whoever imports them."""
    if "lightning" in sys.modules:
        return
    from lightning_utilities.core import imports

    def unless_left_out(ask: Callable[[str], Any], package: str) -> Any:
        if package in LEFT_OUT:
            raise imports.PackageNotFoundError(package)
        return ask(package)

    asked = {name: vars(imports)[name] for name in ("_version", "find_spec")}
    vars(imports).update({name: functools.partial(unless_left_out, ask) for name, ask in asked.items()})
    try:
        import lightning.pytorch  # noqa: F401
    finally:
        vars(imports).update(asked)
        imports.package_available.cache_clear()
        imports.module_available.cache_clear()
