"""Heads beside a language model's, as `transformers` has them: for classes, for choices, for answers inside a text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from molino.base.errors import CheckpointError, ConfigError
from molino.hub.format import Format
from molino.models.trained_head import CHOICES, CLASSES, SPANS, Head

LANGUAGE = "lm_head."  # what the name of a language model's head begins with, mostly
PAIRS = "reads_pairs"  # a further entry of config.json, which transformers keeps


@dataclass(frozen=True)
class StoredHead:
    """Where an architecture keeps its head.

    Attributes:
        architecture: the class of `transformers`.
        kind: CLASSES, CHOICES or SPANS.
        weight: name of the matrix (outputs, C).
        bias: name of its bias, of which those of ours that have none are zeros.
        language: what the names of the language model's head begin with, if that is not beside it; None if it is.
        config: further entries of config.json.
    """

    architecture: str
    kind: str
    weight: str
    bias: str | None = None
    language: str | None = LANGUAGE
    config: tuple[tuple[str, Any], ...] = ()


SUMMARY = (
    ("summary_type", "cls_index"), ("summary_use_proj", True), ("summary_activation", None),
    ("summary_proj_to_labels", True),
)  # fmt: skip


def _double(architecture: str) -> StoredHead:
    name = "multiple_choice_head.summary"
    return StoredHead(architecture, CHOICES, f"{name}.weight", f"{name}.bias", None, SUMMARY)


STORED = {
    **{
        (form, CLASSES): StoredHead(f"{name}ForSequenceClassification", CLASSES, "score.weight")
        for form, name in {
            "gpt2": "GPT2", "openai-gpt": "OpenAIGPT", "llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2",
            "qwen3": "Qwen3", "phi3": "Phi3",
        }.items()
    },
    ("gpt2", CHOICES): _double("GPT2DoubleHeadsModel"),
    ("openai-gpt", CHOICES): _double("OpenAIGPTDoubleHeadsModel"),
    ("bert", SPANS): StoredHead("BertForQuestionAnswering", SPANS, "qa_outputs.weight", "qa_outputs.bias", "cls."),
    ("gpt2", SPANS): StoredHead("GPT2ForQuestionAnswering", SPANS, "qa_outputs.weight", "qa_outputs.bias"),
}  # fmt: skip


def stored_head(form: Format, head: Head) -> StoredHead:
    """Return where a format keeps such a head.

    Raises:
        ConfigError: it has none.
    """
    if (form.model_type, head.kind) not in STORED:
        known = ", ".join(model_type for model_type, kind in STORED if kind == head.kind)
        raise ConfigError(f"{form.model_type} has no head for {head.kind} in transformers, only {known}")
    return STORED[form.model_type, head.kind]


def tensors_of(head: Head, stored: StoredHead) -> dict[str, Tensor]:
    """Return what a file holds of a head."""
    weight = head.weight.detach().cpu().clone()
    if stored.bias is None:
        return {stored.weight: weight}
    bias = torch.zeros(len(weight)) if head.bias is None else head.bias.detach().cpu().clone()
    return {stored.weight: weight, stored.bias: bias}


def config_of(head: Head, stored: StoredHead) -> dict[str, Any]:
    """Return what config.json says of a head."""
    if head.kind == SPANS:
        return dict(stored.config)
    names = ["LABEL_0"] if head.names is None else list(head.names)
    labels = {
        "id2label": {str(n): name for n, name in enumerate(names)},
        "label2id": {v: n for n, v in enumerate(names)},
    }
    problem = {"problem_type": "single_label_classification"} if head.kind == CLASSES else {}
    return {**dict(stored.config), **labels, **problem, PAIRS: head.pairs}


def find_head(config: dict[str, Any]) -> StoredHead | None:
    """Return where a folder with this config.json keeps a head beside the language model's; None if it has none."""
    named = config.get("architectures") or []
    return next((stored for stored in STORED.values() if stored.architecture in named), None)


def names_of(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Return the names of the classes of a folder, in order.

    Raises:
        CheckpointError: they are none.
    """
    try:
        named = {int(number): str(name) for number, name in config["id2label"].items()}
        return tuple(named[number] for number in range(len(named)))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} names no classes of its head (id2label)") from error


def templated(
    tokenizer_json: str, sequence: Sequence[tuple[str, ...]], ids: dict[str, int], segments: bool = False
) -> str:
    """Return a tokenizer.json that puts tokens around a text by itself.

    Args:
        sequence: those before a text, between two, and behind.
        ids: of these tokens.
        segments: whether a model is told which text a token is of.
    """
    before, between, behind = sequence

    def marks(tokens: Sequence[str], type_id: int) -> list[dict[str, Any]]:
        return [{"SpecialToken": {"id": token, "type_id": type_id}} for token in tokens]

    def text(name: str, type_id: int = 0) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": type_id}}

    second = int(segments)
    content = json.loads(tokenizer_json)
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [*marks(before, 0), text("A"), *marks(behind, 0)],
        "pair": [*marks(before, 0), text("A"), *marks(between, 0), text("B", second), *marks(behind, second)],
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]} for each in sequence for token in each
        },
    }
    return json.dumps(content, ensure_ascii=False)
