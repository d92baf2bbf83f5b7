"""A Hugging Face folder or hub id loaded like a run: its model, its tokenizer, and the task that they are for."""

import json
from pathlib import Path
from typing import Any

import torch

from molino.base.errors import CheckpointError
from molino.base.processes import is_main_process
from molino.data.pretrained import load_tokenizer
from molino.data.prompt import remark
from molino.data.start import start_token
from molino.data.tokenizers import Tokenizer
from molino.hub.own import is_own
from molino.hub.read import architecture, find_folder, is_untied, load_model, read_head
from molino.models.capabilities import capabilities_of, device_of, dtype_of
from molino.models.trained_head import CLASSES, SPANS, Head
from molino.runs.measures import MAXIMIZE
from molino.tasks.labelled import LabelledTask
from molino.tasks.language_model import LanguageModel
from molino.tasks.masked_language_model import MaskedLanguageModel
from molino.tasks.sequence_to_sequence import SequenceToSequence
from molino.tasks.sequences import EXTRACT
from molino.tasks.span import Span
from molino.tasks.task import Task
from molino.trained.building import check_vocabulary
from molino.trained.loaded import LoadedRun
from molino.trained.own import load_own

GENERATION = "generation_config.json"


def load_source(source: str, device: torch.device, dtype: torch.dtype = torch.float32) -> LoadedRun:
    """Load a Hugging Face folder or hub id, or a folder of the same shape that molino alone reads."""
    folder = find_folder(source)
    if is_own(folder):
        return load_own(folder, device, dtype)[0]
    architecture(str(folder))  # whether it is a model at all shows before anything large is read
    tokenizer = load_tokenizer(folder)
    model = load_model(str(folder), device, dtype)
    check_vocabulary(tokenizer.size, model.vocab_size)
    remark_own_head(model, str(folder))
    if (head := read_head(str(folder))) is not None:
        return _with_head(folder, head, tokenizer, model)
    if capabilities_of(model).source:
        return LoadedRun(folder, {}, _task_of(model), tokenizer, model, None, _target_start(folder))
    prefix = tokenizer.prefix()
    # What ends a text also begins one, unless the folder says that the model has never seen it.
    documents = tokenizer.end_of_text_id not in suppressed_tokens(folder)
    start_id = prefix[-1] if prefix else start_token(tokenizer, documents)
    return LoadedRun(folder, {}, _task_of(model), tokenizer, model, None, start_id, prefix, end_tokens(folder))


def remark_own_head(model: torch.nn.Module, source: str) -> None:
    """Say of a model that its folder has a head of its own, where config.json says otherwise."""
    if is_main_process() and is_untied(model, source):
        remark(f"{source}: the file has a head of its own, another than the table of tokens: it is kept")


def _task_of(model: torch.nn.Module) -> Task:
    """Return the task of a folder without a head of another kind: what its model is used for is decided here."""
    can = capabilities_of(model)
    if can.source:
        return SequenceToSequence()
    return MaskedLanguageModel() if can.both_ways else LanguageModel()


def _with_head(folder: Path, head: Head, tokenizer: Tokenizer, model: torch.nn.Module) -> LoadedRun:
    """Return a folder whose head tells a class, the right choice, or where an answer stands."""
    if head.kind == SPANS:
        return _loaded(folder, Span(), head, tokenizer, model)
    # Its template says what stands behind a text that the head is to read.
    marked = EXTRACT in tokenizer.backend.encode("a", add_special_tokens=True).tokens
    told = {"classes": list(head.names)} if head.kind == CLASSES else {}
    of_classes = "entailment" if head.pairs else "classification"
    task = LabelledTask(
        of_classes if head.kind == CLASSES else "multiple_choice",
        "val/accuracy",
        MAXIMIZE,
        lm_coef=0.0,
        pooling="extract" if marked else "last",
        **told,
    )
    return _loaded(folder, task, head, tokenizer, model)


def _loaded(folder: Path, task: Task, head: Head, tokenizer: Tokenizer, model: torch.nn.Module) -> LoadedRun:
    network = task.network(model).to(device_of(model), dtype_of(model))
    task.begin(network, head)
    return LoadedRun(folder, {}, task, tokenizer, network.eval(), None, 0)


def suppressed_tokens(folder: Path) -> list[int]:
    """Return the tokens that a folder's generation_config.json says are never to be drawn."""
    return _said(folder, GENERATION).get("suppress_tokens") or []


def end_tokens(folder: Path) -> tuple[int, ...]:
    """Return the tokens that end a text, as generation_config.json or config.json names them, one or several; without
    those that are never to be drawn."""
    said = _said(folder, "config.json") | _said(folder, GENERATION)
    named, suppressed = said.get("eos_token_id"), suppressed_tokens(folder)
    named = named if isinstance(named, list) else [named]
    return tuple(each for each in named if isinstance(each, int) and each not in suppressed)


def _target_start(folder: Path) -> int:
    """Return the token that the targets of an encoder-decoder start from; where nothing names one, it is padding."""
    said = _said(folder, "config.json") | _said(folder, GENERATION)
    start_id = next((said[n] for n in ("decoder_start_token_id", "pad_token_id") if said.get(n) is not None), None)
    if not isinstance(start_id, int):
        raise CheckpointError(f"{folder} names no token that a target starts from: config.json lacks pad_token_id")
    return start_id


def _said(folder: Path, name: str) -> dict[str, Any]:
    """Return what a JSON file of a folder says, nothing where there is none."""
    try:
        return dict(json.loads((folder / name).read_text("utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / name} is damaged ({error}): fetch it again") from error
