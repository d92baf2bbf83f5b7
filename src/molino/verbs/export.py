"""molino export: a run as a folder that `transformers` loads."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from molino.base.console import say
from molino.base.errors import ConfigError
from molino.base.files import explain_os_errors, make_directory
from molino.base.messages import typed
from molino.configuration.build import construct_arguments
from molino.configuration.request import Request
from molino.data.start import forbidden_tokens
from molino.data.tokenizers import Tokenizer
from molino.hub.heads import stored_head, templated
from molino.hub.write import find_format, write_model
from molino.models.capabilities import capabilities_of, require_next_token
from molino.models.cost import count_parameters
from molino.models.source_first import SourceFirst
from molino.models.trained_head import CHOICES, CLASSES, SPANS, Head
from molino.runs import directory
from molino.runs.measures import read_measures
from molino.tasks import earlier
from molino.tasks.holes import joins_spaces
from molino.tasks.masked_language_model import MASK
from molino.trained.load import LoadedRun, find_trained, load_run

CARD = """---
library_name: transformers
pipeline_tag: {pipeline}
---

# {name}

A {model_type} of {parameters:,} parameters, trained with molino on {corpus} (sha256 {corpus_sha256}) for {steps:,}
steps. Licence of the corpus: {licence}.

| | |
|---|---|
{figures}

```python
{example}
```

The settings of the training:

```yaml
{settings}```
"""

# What a folder holds beside what heads are for.
HIDDEN, TARGETS = "hidden tokens", "targets"
PIPELINES = {
    None: "text-generation", HIDDEN: "fill-mask", TARGETS: "text2text-generation", SPANS: "question-answering"
}  # fmt: skip
EXAMPLES = {
    HIDDEN: """from transformers import pipeline

fill = pipeline("fill-mask", model="path/to/this/folder")
print(fill(f"... {fill.tokenizer.mask_token} ..."))""",
    TARGETS: """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "path/to/this/folder"
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
read = tokenizer("...", return_tensors="pt")
print(tokenizer.decode(model.generate(**read)[0], skip_special_tokens=True))""",
    None: """from transformers import pipeline

generator = pipeline("text-generation", model="path/to/this/folder")
print(generator("...", max_new_tokens=100, do_sample=True, temperature=0.8)[0]["generated_text"])""",
    CLASSES: """from transformers import pipeline

classifier = pipeline("text-classification", model="path/to/this/folder")
print(classifier("..."))  # of pairs: classifier({"text": "...", "text_pair": "..."})""",
    SPANS: """import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

folder = "path/to/this/folder"
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForQuestionAnswering.from_pretrained(folder)
question, context = "...", "..."
# Of a context that is too long the beginning is read.
read = tokenizer(question, context, truncation="only_second", return_tensors="pt", return_offsets_mapping=True)
places = read.pop("offset_mapping")[0]
inside = torch.tensor([text == 1 for text in read.sequence_ids(0)])
told = model(**read)
begin, end = (logits[0].where(inside, -torch.inf) for logits in (told.start_logits, told.end_logits))
spans = torch.ones(len(end), len(end)).triu().tril(29).bool()  # up to 30 tokens
first, last = divmod(int((begin[:, None] + end).where(spans, -torch.inf).argmax()), len(end))
print(context[places[first, 0] : places[last, 1]].strip())""",
    CHOICES: """import torch
from transformers import AutoConfig, AutoTokenizer
import transformers

folder = "path/to/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = getattr(transformers, AutoConfig.from_pretrained(folder).architectures[0]).from_pretrained(folder)
question, choices = "...", ["...", "..."]
read = tokenizer([question] * len(choices), choices, padding=True, return_tensors="pt")
ends = read["attention_mask"].sum(1) - 1  # the last token of each, whose state the head reads
print(model(read["input_ids"][None], mc_token_ids=ends[None]).mc_logits.softmax(-1))""",
}


def run(request: Request) -> None:
    """Check the settings and export."""
    export(**construct_arguments(export, request.settings))


def export(run: str | None, checkpoint: str, to: str | None, format: str | None, paths: dict[str, Any]) -> None:
    """Write the folder `to`: config.json, model.safetensors, tokenizer, generation_config.json and a model card.

    The folder appears when it is whole.

    Args:
        run, checkpoint: which run, and which of its checkpoints.
        format: an architecture of `transformers`; None for the first that computes what the model does.

    Raises:
        ConfigError: there is no such architecture, or `to` exists.
    """
    if not to:
        raise ConfigError("there is no folder to write: add to=<folder>")
    target = Path(to).expanduser()
    if target.exists():
        raise ConfigError(f"{target} exists: choose another name, nothing is overwritten")
    loaded = load_run(find_trained(run, paths["outputs"]), checkpoint, torch.device("cpu"))
    model, head = what_is_exported(loaded)
    node = {**loaded.settings["model"], "vocab_size": model.vocab_size}
    form, kind = find_format(model, node, format), kind_of(model, head)
    if head is not None:
        stored_head(form, head)
    make_directory(target.parent)
    with explain_os_errors(target):
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            architecture = write_model(folder, model, form, node, special_ids(loaded, kind), head)
            segments = kind == SPANS and capabilities_of(model).segments
            write_tokenizer(folder, loaded.tokenizer, model.block_size, kind, head, segments)
            if kind in (None, TARGETS):
                write_generation_config(folder, loaded, kind)
            (folder / "README.md").write_text(card(loaded, checkpoint, form.model_type, kind), "utf-8")
            folder.chmod(0o755)  # mkdtemp made it private
            folder.rename(target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    say(f"{target}: {architecture}, {count_parameters(loaded.model):,} parameters")
    if kind is None:
        say(f'next: {typed("generate", f"source={target}")} prompt="...{marks_of(loaded)}"')
    elif kind == TARGETS:
        say(f'next: {typed("predict", f"source={target}")} text="..."')
    elif kind == HIDDEN:
        say(f'next: {typed("predict", f"source={target}")} text="... {MASK} ..."')
    elif kind == SPANS:
        say(f'next: {typed("predict", f"source={target}")} question="..." context="..."')
    elif kind == CLASSES:
        pair = ' pair="..."' if head.pairs else ""
        say(f'next: {typed("predict", f"source={target}")} text="..."{pair}')


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


def marks_of(loaded: LoadedRun) -> str:
    """Return what stands between what is read and what is written by a model that reads sources first."""
    if not isinstance(loaded.model, SourceFirst):
        return ""
    return "".join(map(loaded.tokenizer.token, (loaded.tokenizer.end_of_text_id, loaded.start_id)))


def special_ids(loaded: LoadedRun, kind: str | None) -> dict[str, int | None]:
    """Return the ids of special tokens under the names that configurations of `transformers` have for them."""
    end = loaded.tokenizer.end_of_text_id
    # Also where they are None: a class would fall back to those of the vocabulary it was published with.
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": loaded.tokenizer.padding_id}
    return ids | ({"decoder_start_token_id": loaded.start_id} if kind == TARGETS else {})


def write_tokenizer(
    folder: Path, tokenizer: Tokenizer, block_size: int, kind: str | None, head: Head | None, segments: bool
) -> None:
    """Write tokenizer.json and what `transformers` wants to know beside it.

    Args:
        segments: whether the model is told which of two texts a token is of.
    """
    tokenizer.save(folder / "tokenizer.json")
    if kind == HIDDEN and joins_spaces(tokenizer):
        content = json.loads(tokenizer.json())
        for token in content["added_tokens"]:
            # The space before a mask is hidden with it, as `predict` has it.
            token["lstrip"] |= token["id"] == tokenizer.mask_id
        _write_json(folder / "tokenizer.json", content)
    # Sources are read with their end.
    sequence = ((), (), (tokenizer.token(tokenizer.end_of_text_id),)) if kind == TARGETS else ((), (), ())
    if any(sequence := sequence if head is None else head.sequence):
        ids = {token: tokenizer.backend.token_to_id(token) for each in sequence for token in each}
        told = templated(tokenizer.json(), sequence, ids, segments)
        (folder / "tokenizer.json").write_text(told, "utf-8")
    ids = {"unk_token": tokenizer.unknown_id, "pad_token": tokenizer.padding_id, "eos_token": tokenizer.end_of_text_id}
    ids |= {"mask_token": tokenizer.mask_id} if kind == HIDDEN else {}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": block_size,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left" if kind is None else "right",
        # Architectures that are not told of parts would read token_type_ids as further tokens.
        "model_input_names": ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"],
        **{name: tokenizer.token(id) for name, id in ids.items() if id is not None},
    }
    _write_json(folder / "tokenizer_config.json", config)


def write_generation_config(folder: Path, loaded: LoadedRun, kind: str | None) -> None:
    """Write how to sample, or how targets are written: tokens that never come out here are suppressed there too."""
    tokenizer, model = loaded.tokenizer, loaded.model
    if hasattr(loaded.task, "generation"):
        content = loaded.task.generation(tokenizer, model.vocab_size, model.block_size)
    else:
        # A target always has an end.
        start_id = tokenizer.end_of_text_id if kind == TARGETS else loaded.start_id
        content = {"suppress_tokens": forbidden_tokens(tokenizer, start_id, model.vocab_size) or None}
    _write_json(folder / "generation_config.json", {**special_ids(loaded, kind), **content})


def card(loaded: LoadedRun, checkpoint: str, model_type: str, kind: str | None) -> str:
    """Return the model card: corpus, losses beside their floors, settings."""
    summary = directory.read_summary(loaded.path) if directory.is_done(loaded.path) else {}
    corpus = loaded.settings["data"]["corpus"]
    measures = read_measures(loaded.path) or earlier.measures(summary)
    tags = [metric.tag for metric in measures.metrics.values()] + list(measures.floors)
    figures = {tag: f"{summary[tag]:.4f}" for tag in tags if isinstance(summary.get(tag), int | float)}
    rows = {"checkpoint": f"{checkpoint}, after step {loaded.step:,}", **figures}
    return CARD.format(
        pipeline=PIPELINES.get(kind, "text-classification"),
        example=EXAMPLES[kind].replace('"..."', f'"...{marks_of(loaded)}"'),
        name=loaded.path.name,
        model_type=model_type,
        parameters=count_parameters(loaded.model),
        corpus=summary.get("corpus", corpus.get("name", corpus["_target_"].rsplit(".", 1)[-1])),
        corpus_sha256=summary.get("corpus_sha256", "unknown"),
        steps=loaded.step,
        licence=corpus.get("licence", "see its source"),
        figures="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
        settings=yaml.safe_dump({name: loaded.settings[name] for name in ("data", "model", "optimizer", "scheduler")}),
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
