"""A device that is not there: on a CPU, what PyTorch refuses on a GPU.

Whatever is moved by `.to(device)`, or made with `device=`, counts as elsewhere, and so does what is computed of it.
What a GPU would refuse raises: to mix it with tensors that were made without a device, to hand these to other
processes, to take it for an array, to draw it by a generator of the CPU. Values are those of the CPU, so whole runs go
through.
"""

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

MARK = "_is_elsewhere"
# Between devices on purpose; indices may lie on either.
ACROSS = {"copy_", "__getitem__", "__setitem__", "__get__", "item", "tolist", "load_state_dict", "__repr__", "__len__"}
# Asked about kinds, not about values.
QUESTIONS = "_has_compatible_shallow_copy_type"
ARRAYS = {"numpy", "__array__"}


def is_elsewhere(tensor: Tensor) -> bool:
    return getattr(tensor, MARK, False)


def marked(value):
    """Return a value with all of its tensors elsewhere."""
    for tensor in tree_leaves(value):
        if isinstance(tensor, Tensor):
            setattr(tensor, MARK, True)
    return value


def alias(tensor: Tensor) -> Tensor:
    """Return the same numbers as another object."""
    return tensor.view_as(tensor)


class Elsewhere(TorchFunctionMode):
    """See above."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [is_elsewhere(tensor) for tensor in tensors]
        if name == "__set__":
            if len(there) == 2 and there[1]:
                marked(tensors[0])
            return func(*args, **kwargs)
        if name == "cpu":
            return alias(func(*args, **kwargs))
        if name == "to" and tensors:
            return self._to(func, args, kwargs, there[0])
        if any(there) and name in ARRAYS:
            raise TypeError("can't convert a tensor elsewhere to numpy: use Tensor.cpu() first")
        # The CPU that code names is the CPU.
        device = None if kwargs.get("device") == "cpu" else kwargs.get("device")
        if (any(there) or device is not None) and kwargs.get("generator") is not None:
            raise RuntimeError("expected a generator of the device")
        alone = [tensor for tensor, is_there in zip(tensors, there, strict=True) if not is_there and tensor.dim()]
        if any(there) and alone and name not in ACROSS and name != QUESTIONS:
            raise RuntimeError(f"expected all tensors to be on the same device: {name} of {[t.shape for t in tensors]}")
        found = func(*args, **kwargs)
        if name == "__setitem__" or not (any(there) or device is not None):
            return found
        return tree_map(lambda leaf: marked(leaf) if isinstance(leaf, Tensor) else leaf, found)

    def _to(self, func, args, kwargs, there):
        moved = "device" in kwargs or any(isinstance(each, torch.device) for each in args[1:])
        moved |= any(isinstance(each, Tensor) and is_elsewhere(each) for each in args[1:])
        found = func(*args, **kwargs)
        if not (moved or there):
            return found
        return marked(alias(found) if found is args[0] and not there else found)


def to_others(tensor, *args, **kwargs):
    """Stand in for what sums up, or gathers, over processes."""
    if isinstance(tensor, Tensor) and not is_elsewhere(tensor):
        raise RuntimeError("No backend type associated with device type cpu")
    return tensor


@contextmanager
def elsewhere(monkeypatch):
    """Compute elsewhere meanwhile."""
    from lightning.pytorch.strategies import SingleDeviceStrategy

    monkeypatch.setattr(SingleDeviceStrategy, "reduce", lambda self, tensor, *a, **k: to_others(tensor))
    monkeypatch.setattr(SingleDeviceStrategy, "all_gather", lambda self, tensor, *a, **k: to_others(tensor)[None])
    with Elsewhere():
        yield
