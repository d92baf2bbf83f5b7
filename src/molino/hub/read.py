"""A Hugging Face folder or hub id into one of our models.

Weights are memory-mapped and copied once, to where they belong, in the dtype that is wanted; a file is mapped for one
tensor at a time, so that pages that have been copied do not count as used memory.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from molino.base.errors import CheckpointError, ConfigError, DataError
from molino.hub import encoder_decoders, encoders, formats
from molino.hub.config import read_config
from molino.hub.format import Format
from molino.hub.formats import FORMATS
from molino.hub.heads import LANGUAGE, PAIRS, find_head, names_of
from molino.hub.own import is_own, read_own
from molino.models.bert import BERT
from molino.models.capabilities import capabilities_of
from molino.models.gpt import GPT
from molino.models.llama import Llama
from molino.models.shapes import shapes_only
from molino.models.t5 import T5
from molino.models.trained_head import CLASSES, SPANS, Head
from molino.models.transformer import Transformer

FAMILIES = {
    formats.GPT: GPT,
    formats.LLAMA: Llama,
    encoders.BERT: BERT,
    encoder_decoders.T5: T5,
    encoder_decoders.TRANSFORMER: Transformer,
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FILES = ["*.json", "*.safetensors", "merges.txt", "chat_template.jinja"]
# Tables that some folders carry although they can be computed.
COMPUTED = re.compile(r"(attn\.(masked_)?bias|rotary_emb\.inv_freq)$")


def find_folder(source: str) -> Path:
    """Return the folder `source`, or that of a hub id, downloaded once into huggingface_hub's cache.

    HF_HOME, HF_HUB_OFFLINE and HF_TOKEN in the environment mean what they mean there.

    Raises:
        DataError: there is no such folder, and it is no id that can be fetched.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", source):
        raise DataError(f"there is no folder {source}: name one with config.json and safetensors, or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=FILES))
    except Exception as error:  # The library raises its own, requests' and the operating system's.
        reason = next(line for line in [*str(error).splitlines(), type(error).__name__] if line.strip())
        raise DataError(
            f"{source} is neither a folder nor can it be fetched from the Hugging Face hub ({reason.strip()})"
        ) from error


def architecture(source: str, dropout: float = 0.0) -> dict[str, Any]:
    """Return the family and settings that a folder's config.json describes: {"_target_": ..., "n_layer": ..., ...}.

    Args:
        source: a folder or a hub id.
        dropout: probability of dropping, at all the places the family has.

    Raises:
        CheckpointError: config.json is missing, damaged or of an architecture that molino does not have.
    """
    folder = find_folder(source)
    if is_own(folder):
        model = read_own(folder)["model"]
        return model | ({"dropout": dropout} if dropout or "dropout" in model else {})
    form, settings, _ = _build(folder)
    return {"_target_": form.target, **settings, "dropout": dropout}


def load_model(source: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return the model of a folder or hub id, in eval mode.

    Raises:
        DataError: there is no such folder.
        CheckpointError: its files are missing, damaged or do not fit together.
    """
    _, _, model = _build(find_folder(source))
    materialise(model, device, dtype)
    read_weights(model, source)
    return model.eval()


def read_weights(model: nn.Module, source: str) -> None:
    """Copy the weights of a folder into a model of its architecture, converting them to its dtype.

    Where the model knows more tokens than the folder, the rows of these keep the values they have; and so does the head
    of a language model of which a folder with a head of another kind says nothing.

    Raises:
        CheckpointError: weights are missing, surplus, damaged or of another shape; the message names them.
    """
    folder = find_folder(source)
    form, config = _read_config(folder)
    files, can, head = _index(folder), capabilities_of(model), find_head(config)
    parameters = dict(model.named_parameters())
    if head is not None:
        files = {name: file for name, file in files.items() if name not in (head.weight, head.bias)}
        for name, stored_as in [(name, form.stored(name).names[0]) for name in parameters]:
            if stored_as.startswith(head.language or LANGUAGE) and stored_as not in files:
                del parameters[name]
    parts = {name: _present(form.stored(name).names, form, files) for name in parameters}
    expected = {theirs for names in parts.values() for theirs in names}
    tied = set(can.tied or ()) - parameters.keys()
    no_use = re.compile(f"{COMPUTED.pattern}|{form.unused}")
    surplus = sorted(name for name in files.keys() - expected - tied if not no_use.search(name))
    if missing := sorted(expected - files.keys()):
        count = len(missing)
        raise CheckpointError(f"{folder} lacks {count} weights, such as {missing[0]}, of what config.json describes")
    if surplus:
        raise CheckpointError(f"{folder} has {len(surplus)} weights that {form.model_type} has not: {surplus[0]}, ...")
    _check_tables(model, form, config, files, folder)
    of_tokens = _of_tokens(model)
    for name, parameter in parameters.items():
        shapes = [_shape(files[theirs], theirs) for theirs in parts[name]]
        stored, target = form.stored(name), parameter.data
        if stored.one_row:
            shapes = [shape[1:] if shape[:1] == [1] else shape for shape in shapes]
        if parameter in of_tokens and len(shapes) == 1 and shapes[0][0] < len(target):
            target = target[: shapes[0][0]]
        _copy(target, [files[theirs] for theirs in parts[name]], parts[name], shapes, stored.transposed)


def is_untied(model: nn.Module, source: str) -> bool:
    """Tell whether the model of a folder has a head of its own although config.json ties it, as the weights differ."""
    form, config = _read_config(find_folder(source))
    return form.settings(config)["tie_weights"] is not False and capabilities_of(model).tied is None


def _check_tables(model: nn.Module, form: Format, config: dict[str, Any], files: dict[str, Path], folder: Path) -> None:
    """Refuse weights that transformers would tell apart, and the model does not.

    Raises:
        CheckpointError: the model ties its head, and the file has one of its own; or further names of a weight hold
            something else, or are missing where they count.
    """
    if _has_own_head(model, form, files):
        raise CheckpointError(f"{folder} has a head of its own, and the model has none: set model.tie_weights=false")
    needed = form.again_needed and form.settings(config)["tie_weights"] is False
    for name, others in form.again.items():
        (first,) = _present(form.stored(name).names, form, files)
        for other in others if first in files else ():
            if other in files and not _same(files, first, other):
                raise CheckpointError(f"{folder} has another {other} than {first}, and molino has one of them")
            if other not in files and needed:
                raise CheckpointError(f"{folder} lacks {other}, which has to stand there where the head is not tied")


def _has_own_head(model: nn.Module, form: Format, files: dict[str, Path]) -> bool:
    """Tell whether a file has a head that differs from the table of tokens, where the model has one for both."""
    if (tied := capabilities_of(model).tied) is None:
        return False
    names = _present(tuple(form.stored(name).names[0] for name in tied), form, files)
    return all(name in files for name in names) and not _same(files, *names)


def _same(files: dict[str, Path], *names: str) -> bool:
    """Tell whether two stored tensors are equal."""
    tensors = []
    for name in names:
        with _open(files[name]) as file:
            tensors.append(file.get_tensor(name))
    one, other = tensors
    return one.shape == other.shape and torch.equal(one, other.to(one.dtype))


def read_head(source: str) -> Head | None:
    """Return the head of a folder beside that of a language model; None if it has none.

    Raises:
        CheckpointError: it is damaged.
    """
    folder = find_folder(source)
    _, config = _read_config(folder)
    if (stored := find_head(config)) is None:
        return None
    files = _index(folder)
    if stored.weight not in files:
        raise CheckpointError(f"{folder} lacks {stored.weight}, the head of a {stored.architecture}")
    with _open(files[stored.weight]) as file:
        weight = file.get_tensor(stored.weight).float()
    bias = None
    if stored.kind == SPANS:
        if stored.bias not in files:
            raise CheckpointError(f"{folder} lacks {stored.bias}, a part of the head of a {stored.architecture}")
        with _open(files[stored.bias]) as file:
            bias = file.get_tensor(stored.bias).float()
        if weight.shape[:1] != (2,) or bias.shape != (2,):
            found = f"{stored.weight} {tuple(weight.shape)} and {stored.bias} {tuple(bias.shape)}"
            raise CheckpointError(f"{folder} has a {stored.architecture} that tells no beginning and end: {found}")
    if weight.dim() != 2:
        raise CheckpointError(f"{folder} has a {stored.weight} of shape {tuple(weight.shape)}, which is no matrix")
    names = names_of(config, folder) if stored.kind == CLASSES else None
    if names is not None and len(names) != len(weight):
        raise CheckpointError(f"{folder / 'config.json'} names {len(names)} classes of a head for {len(weight)}")
    return Head(stored.kind, names, weight, config.get(PAIRS) is True, bias=bias)


def materialise(model: nn.Module, device: torch.device | str, dtype: torch.dtype) -> None:
    """Give a model that was built on the meta device memory: weights without values, tables as they should be."""
    made: dict[int, nn.Parameter] = {}  # tied weights stay one
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device=device, dtype=dtype))
            module._parameters[name] = made[id(parameter)]
        if hasattr(module, "reset_buffers"):
            module.reset_buffers(torch.device(device))
            module.to(dtype)


def _read_config(folder: Path) -> tuple[Format, dict[str, Any]]:
    config = read_config(folder)
    model_type = config["model_type"]
    if not isinstance(model_type, str) or model_type not in FORMATS:
        path = folder / "config.json"
        raise CheckpointError(f"{path} is of the architecture {model_type}; molino reads {', '.join(FORMATS)}")
    return FORMATS[model_type], config


def _build(folder: Path) -> tuple[Format, dict[str, Any], nn.Module]:
    """Return format, settings and model of a folder; the model is on the meta device, without memory."""
    form, config = _read_config(folder)
    settings, model = _made(folder, form, lambda: form.settings(config))
    # As transformers has it: a head that differs counts, whatever config.json says of it.
    if capabilities_of(model).tied is not None and _has_own_head(model, form, _index(folder)):
        settings, model = _made(folder, form, lambda: {**settings, "tie_weights": False, **form.own_head})
    return form, settings, model


def _made(folder: Path, form: Format, settings_of: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], nn.Module]:
    """Return settings, and a model of them without memory."""
    try:
        settings = settings_of()
        with shapes_only():
            return settings, FAMILIES[form.target](**settings)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / 'config.json'} {error}") from error
    except (ConfigError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(
            f"{folder / 'config.json'} describes no model that can be built: {type(error).__name__} {reason}"
        ) from error


def _index(folder: Path) -> dict[str, Path]:
    """Return which file holds each weight."""
    if (folder / INDEX).is_file():
        try:
            shards = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
            files = {name: folder / Path(shard).name for name, shard in shards.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / INDEX} is damaged: {type(error).__name__} {error}") from error
        for shard in sorted(set(files.values())):
            if not shard.is_file():
                raise CheckpointError(f"{shard} is missing, but {INDEX} names it")
        return files
    if (folder / SINGLE).is_file():
        with _open(folder / SINGLE) as file:
            return dict.fromkeys(file.keys(), folder / SINGLE)
    if pickles := [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]:
        raise CheckpointError(
            f"{pickles[0]} is a pickle, which may run code: convert it to {SINGLE} "
            "(save_pretrained of transformers writes it)"
        )
    raise CheckpointError(f"{folder} holds no {SINGLE}")


def _of_tokens(model: nn.Module) -> set[nn.Parameter]:
    """Return the parameters of which each token of the vocabulary has a row: of tables and of the head."""
    can = capabilities_of(model)
    owners = {name.rpartition(".")[0] for name in (can.embedding, can.head, "lm_head.weight") if name}
    return {parameter for owner in owners for parameter in model.get_submodule(owner).parameters(recurse=False)}


def _present(names: tuple[str, ...], form: Format, files: dict[str, Path]) -> tuple[str, ...]:
    """Return the names as this folder spells them: with the format's prefix, or where it leaves that out, without; or
    another one that stands for it."""

    def spell(name: str) -> str:
        full = name if name == "lm_head.weight" else form.prefix + name
        others = [re.sub(pattern, other, full) for pattern, other in form.other_names.items()]
        return next((each for each in (full, name, *others) if each in files), full)

    return tuple(map(spell, names))


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file ({error}): fetch it again") from error


def _shape(path: Path, name: str) -> list[int]:
    with _open(path) as file:
        try:
            return file.get_slice(name).get_shape()
        except SafetensorError as error:
            raise CheckpointError(f"{path} lacks {name}, although {INDEX} names it") from error


def _copy(target: Tensor, files: list[Path], names: tuple[str, ...], shapes: list[list[int]], transposed: bool) -> None:
    """Fill `target` with stored tensors, their rows one below the other."""
    turned = [shape[::-1] if transposed else shape for shape in shapes]
    rows = sum(shape[0] for shape in turned)
    if any([rows, *shape[1:]] != list(target.shape) for shape in turned):
        shown = " + ".join(map(str, shapes))
        raise CheckpointError(f"{names[0]} has shape {shown}, but config.json makes it {list(target.shape)}")
    first = 0
    for path, name, shape in zip(files, names, turned, strict=True):
        with _open(path) as file:
            tensor = file.get_tensor(name)
            if not tensor.is_floating_point():
                raise CheckpointError(f"{name} in {path} is {tensor.dtype}: quantised weights cannot be read")
            target[first : first + shape[0]].copy_(tensor.t() if transposed else tensor.view(shape))
        first += shape[0]
