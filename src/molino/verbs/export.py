"""molino export: a run as a folder that `transformers` loads, or molino alone where nothing there computes the same."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from molino.base.console import say
from molino.base.errors import ConfigError
from molino.base.files import whole_folder
from molino.base.messages import typed
from molino.configuration.build import construct_arguments, with_current_names
from molino.configuration.request import Request
from molino.configuration.settings import with_task
from molino.data.counts import digest_of_counts
from molino.data.start import forbidden_tokens
from molino.data.tokenizers import Tokenizer
from molino.hub.config import write_json
from molino.hub.format import Format
from molino.hub.formats import FORMATS
from molino.hub.heads import stored_head, templated
from molino.hub.own import MODEL_TYPE, write_own
from molino.hub.write import find_format, write_model
from molino.models.capabilities import capabilities_of, require_next_token
from molino.models.cost import count_parameters
from molino.models.source_first import SourceFirst
from molino.models.trained_head import SPANS, Head
from molino.runs import directory
from molino.tasks.holes import joins_spaces
from molino.trained.load import LoadedRun, find_trained, load_run
from molino.training.counting import name_of
from molino.verbs.card import HIDDEN, OTHER, TARGETS, asked_of, card, marks_of, whole_context


def run(request: Request) -> None:
    """Check the settings and export."""
    export(**construct_arguments(export, request.settings))


@dataclass(frozen=True)
class Shape:
    """What a run is exported as.

    Attributes:
        form: an architecture of transformers; None for the folder that molino alone reads.
        head: what its task has put beside the language model's head.
        kind: what the folder is for: that of its head, HIDDEN, TARGETS, or None for a language model.
        reason: why it is not one of transformers.
    """

    form: Format | None
    model: nn.Module
    head: Head | None
    kind: str | None
    reason: str | None = None

    @property
    def segments(self) -> bool:
        """Whether the model is told which of two texts a token is of."""
        return self.kind == SPANS and capabilities_of(self.model).segments


def export(run: str | None, checkpoint: str, to: str | None, format: str | None, paths: dict[str, Any]) -> None:
    """Write the folder `to`: config.json, model.safetensors, tokenizer, generation_config.json and a model card.

    The folder appears when it is whole.

    Args:
        run, checkpoint: which run, and which of its checkpoints.
        format: an architecture of `transformers`, or `molino` for a folder that molino alone reads; None for the first
            architecture that computes what the model does, and where none does for `molino`.

    Raises:
        ConfigError: there is no such architecture, or it computes something else, or `to` exists.
    """
    if not to:
        raise ConfigError("there is no folder to write: add to=<folder>")
    target = Path(to).expanduser()
    if target.exists():
        raise ConfigError(f"{target} exists: choose another name, nothing is overwritten")
    loaded = load_run(find_trained(run, paths["outputs"]), checkpoint, torch.device("cpu"))
    shape = shape_of(loaded, format)
    with whole_folder(target) as folder:
        ids = special_ids(loaded, shape.kind)
        if shape.form is None:
            architecture = name_of(loaded.model)
            write_own(folder, loaded.model, said_of(loaded), ids, loaded.path / directory.COUNTS)
            loaded.tokenizer.save(folder / "tokenizer.json")
        else:
            node = _complete(loaded, shape.model)
            architecture = write_model(folder, shape.model, shape.form, node, ids, shape.head)
            write_tokenizer(folder, loaded.tokenizer, shape)
        write_tokenizer_config(folder, loaded, shape)
        if shape.kind in (None, TARGETS):
            write_generation_config(folder, loaded, shape.kind)
        named = architecture if shape.form is None else shape.form.model_type
        (folder / "README.md").write_text(card(loaded, checkpoint, named, shape.kind, shape.reason), "utf-8")
    say(f"{target}: {architecture}, {count_parameters(loaded.model):,} parameters")
    if shape.reason is not None:
        say(f"for molino alone: {shape.reason}")
    if line := next_of(loaded, shape, target):
        say(f"next: {line}")


def shape_of(loaded: LoadedRun, format: str | None) -> Shape:
    """Return what a run is exported as; see `export`.

    Raises:
        ConfigError: it is not what is asked for.
    """
    own = Shape(None, loaded.model, None, own_kind(loaded), "format=molino was asked for")
    if format == MODEL_TYPE:
        return own
    try:
        model, head = what_is_exported(loaded)
        form = find_format(model, _complete(loaded, model), format)
        if head is not None:
            stored_head(form, head)
        return Shape(form, model, head, kind_of(model, head))
    except ConfigError as error:
        if format is None:
            return replace(own, reason=str(error))
        advice = "; format=molino writes it for molino alone" if format in FORMATS else ""
        raise ConfigError(f"{error}{advice}") from error


def _complete(loaded: LoadedRun, model: nn.Module) -> dict[str, Any]:
    return {**loaded.settings["model"], "vocab_size": model.vocab_size}


def next_of(loaded: LoadedRun, shape: Shape, target: Path) -> str | None:
    """Return what may be typed next."""
    if shape.form is not None and shape.kind is None:
        return f'{typed("generate", f"source={target}")} prompt="...{marks_of(loaded)}"'
    verb, asked = asked_of(loaded)
    return None if verb is None else f"{typed(verb, f'source={target}')} {asked}"


def said_of(loaded: LoadedRun) -> dict[str, Any]:
    """Return what the config.json of a folder that molino alone reads says of a run."""
    counts = loaded.path / directory.COUNTS
    return {
        "model": with_current_names(loaded.settings["model"]),
        "task": with_current_names(with_task(loaded.settings)["task"]),
        "block_size": whole_context(loaded),
        "start_id": loaded.start_id,
        "line_end": loaded.line_end,
        "counts": digest_of_counts(counts) if counts.is_file() else None,
    }


def what_is_exported(loaded: LoadedRun) -> tuple[nn.Module, Head | None]:
    """Return the model of a run, and the head that its task has put beside that of the language model.

    Raises:
        ConfigError: no format holds them.
    """
    if hasattr(loaded.task, "exported"):
        return loaded.task.exported(loaded.model)
    can = capabilities_of(loaded.model)
    if not (can.both_ways or can.source):
        require_next_token(loaded.model, "export")
    return loaded.model, None


def kind_of(model: nn.Module, head: Head | None) -> str | None:
    """Return what a folder is for: that of its head, HIDDEN, TARGETS, or None for a language model."""
    can = capabilities_of(model)
    if head is not None:
        return head.kind
    return HIDDEN if can.both_ways else TARGETS if can.source else None


def own_kind(loaded: LoadedRun) -> str | None:
    """Return what a folder that molino alone reads is for."""
    if isinstance(loaded.model, SourceFirst):
        return TARGETS
    if "context" in getattr(loaded.task, "fields", ()):
        return SPANS
    kind = kind_of(loaded.model, None)
    return OTHER if kind is None and not capabilities_of(loaded.model).next_token else kind


def special_ids(loaded: LoadedRun, kind: str | None) -> dict[str, int | None]:
    """Return the ids of special tokens under the names that configurations of `transformers` have for them."""
    end = loaded.tokenizer.end_of_text_id
    # Also where they are None: a class would fall back to those of the vocabulary it was published with.
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": loaded.tokenizer.padding_id}
    return ids | ({"decoder_start_token_id": loaded.start_id} if kind == TARGETS else {})


def write_tokenizer(folder: Path, tokenizer: Tokenizer, shape: Shape) -> None:
    """Write tokenizer.json, with the tokens that stand around what the model reads."""
    tokenizer.save(folder / "tokenizer.json")
    if shape.kind == HIDDEN and joins_spaces(tokenizer):
        content = json.loads(tokenizer.json())
        for token in content["added_tokens"]:
            # The space before a mask is hidden with it, as `predict` has it.
            token["lstrip"] |= token["id"] == tokenizer.mask_id
        write_json(folder / "tokenizer.json", content)
    # Sources are read with their end.
    sequence = ((), (), (tokenizer.token(tokenizer.end_of_text_id),)) if shape.kind == TARGETS else ((), (), ())
    if any(sequence := sequence if shape.head is None else shape.head.sequence):
        ids = {token: tokenizer.backend.token_to_id(token) for each in sequence for token in each}
        told = templated(tokenizer.json(), sequence, ids, shape.segments)
        (folder / "tokenizer.json").write_text(told, "utf-8")


def write_tokenizer_config(folder: Path, loaded: LoadedRun, shape: Shape) -> None:
    """Write what `transformers` wants to know of a tokenizer."""
    tokenizer = loaded.tokenizer
    ids = {"unk_token": tokenizer.unknown_id, "pad_token": tokenizer.padding_id, "eos_token": tokenizer.end_of_text_id}
    ids |= {"mask_token": tokenizer.mask_id} if shape.kind == HIDDEN else {}
    # What goes on with a text begins where that ends, and reads the end of one that is too long.
    side = "left" if shape.kind is None else "right"
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": shape.model.block_size,
        "clean_up_tokenization_spaces": False,
        "padding_side": side,
        "truncation_side": side,
        # Architectures that are not told of parts would read token_type_ids as further tokens.
        "model_input_names": ["input_ids", *(["token_type_ids"] if shape.segments else []), "attention_mask"],
        **{name: tokenizer.token(id) for name, id in ids.items() if id is not None},
    }
    write_json(folder / "tokenizer_config.json", config)


def write_generation_config(folder: Path, loaded: LoadedRun, kind: str | None) -> None:
    """Write how to sample, or how targets are written: tokens that never come out here are suppressed there too."""
    tokenizer, model = loaded.tokenizer, loaded.model
    if hasattr(loaded.task, "generation"):
        content = loaded.task.generation(tokenizer, model.vocab_size, model.block_size)
    else:
        # A target always has an end.
        start_id = tokenizer.end_of_text_id if kind == TARGETS else loaded.start_id
        content = {"suppress_tokens": forbidden_tokens(tokenizer, start_id, model.vocab_size) or None}
    write_json(folder / "generation_config.json", {**special_ids(loaded, kind), **content})
