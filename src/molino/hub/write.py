"""One of our models into the files that `transformers` loads: config.json and model.safetensors."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from molino.base.errors import ConfigError
from molino.hub.config import CONFIG, write_json
from molino.hub.format import Format
from molino.hub.formats import FORMATS, LLAMA
from molino.hub.heads import config_of, stored_head, tensors_of
from molino.hub.own import MODEL_TYPE
from molino.hub.read import FAMILIES, SINGLE
from molino.models import choose
from molino.models.capabilities import capabilities_of
from molino.models.llama import default_inner
from molino.models.shapes import shapes_only
from molino.models.trained_head import Head

# Settings that do without what `transformers` always has.
BIASES = {"bias", "head_bias"}


def find_format(model: nn.Module, settings: dict[str, Any], model_type: str | None = None) -> Format:
    """Return the architecture of `transformers` that computes what a model does, one of those that it declares.

    Args:
        settings: the arguments it was made with, `vocab_size` too.
        model_type: a particular one; None for the first that fits.

    Raises:
        ConfigError: there is none, or this one cannot; with the reason.
    """
    names = [choose("format", model_type, FORMATS | {MODEL_TYPE: None}).model_type] if model_type else FORMATS
    candidates = [FORMATS[name] for name in names if name in capabilities_of(model).formats]
    reasons = []
    for form in candidates:
        try:
            form.config(complete(form.target, settings))
        except ConfigError as error:
            reasons.append(str(error))
        else:
            return form
    family = type(model).__name__
    raise ConfigError("; ".join(reasons) or f"{family} has no counterpart in {model_type or 'transformers'}")


def write_model(
    folder: Path,
    model: nn.Module,
    form: Format,
    settings: dict[str, Any],
    extra: dict[str, Any],
    head: Head | None = None,
) -> str:
    """Write config.json and model.safetensors into an existing folder; return the class of `transformers` for it.

    Args:
        form: see `find_format`.
        settings: the arguments the model was made with, `vocab_size` too.
        extra: further entries of config.json, such as the ids of special tokens.
        head: one beside the language model's.
    """
    settings, architecture = complete(form.target, settings), form.architecture
    tensors = {name: tensor.contiguous() for name, tensor in _stored(model, form, settings)}
    if head is not None:
        stored = stored_head(form, head)
        architecture, extra = stored.architecture, extra | config_of(head, stored)
        if stored.language is not None:
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(stored.language)}
        tensors |= tensors_of(head, stored)
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    config = {"architectures": [architecture], "model_type": form.model_type, "dtype": dtype}
    write_json(folder / CONFIG, {**config, **form.config(settings), **extra})
    return architecture


def complete(target: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings of a family, with its defaults for what they leave out."""
    parameters = inspect.signature(FAMILIES[target]).parameters.values()
    settings = {parameter.name: settings.get(parameter.name, parameter.default) for parameter in parameters}
    if settings.get("n_inner") is None and (target == LLAMA or settings.get("gated")):
        settings["n_inner"] = default_inner(settings["n_embd"])
    return settings


def _stored(model: nn.Module, form: Format, settings: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield what the file holds, name by name. Biases that our model does without are zeros there."""
    parameters = dict(model.named_parameters())
    whole = settings | dict.fromkeys(BIASES & settings.keys(), True)
    with shapes_only():
        reference = FAMILIES[form.target](**whole)
    expected_shapes = {name: parameter.shape for name, parameter in reference.named_parameters()}
    for name, parameter in parameters.items():
        if parameter.shape != expected_shapes.get(name):
            raise ConfigError(f"{type(model).__name__} has {name}, which is none of {form.model_type}'s weights")
    for name, expected in reference.named_parameters():
        weight = parameters.get(name)
        weight = torch.zeros(expected.shape) if weight is None else weight.detach().cpu()
        stored = form.stored(name)
        parts = weight.split(_rows(settings, len(stored.names), len(weight)))
        for theirs, part in zip(stored.names, parts, strict=True):
            full = theirs if theirs == "lm_head.weight" else form.prefix + theirs
            # A copy: the file format takes no tensors that share memory.
            yield full, (part.t() if stored.transposed else part[None] if stored.one_row else part).clone()
        for full in form.again.get(name, ()) if form.again_needed and not settings["tie_weights"] else ():
            yield full, weight.clone()
    for name, full in ((name, full) for name, names in form.computed.items() for full in names):
        yield full, model.get_buffer(name).to(next(model.parameters())).clone()


def _rows(settings: dict[str, Any], count: int, total: int) -> list[int]:
    """Return how many rows of a fused weight belong to each of its `count` parts."""
    if count == 3:
        head_size = settings.get("head_size") or settings["n_embd"] // settings["n_head"]
        keys = (settings.get("n_kv_head") or settings["n_head"]) * head_size
        return [total - 2 * keys, keys, keys]
    return [total // count] * count
