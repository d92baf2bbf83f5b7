"""The model card of a folder that is exported: what it is, what it comes to, and an example that runs."""

import re
from pathlib import PurePosixPath
from typing import Any

import yaml

from molino.configuration.door import BUILT_IN
from molino.configuration.settings import with_task
from molino.models.capabilities import capabilities_of
from molino.models.cost import count_parameters
from molino.models.source_first import SourceFirst
from molino.models.trained_head import CHOICES, CLASSES, SPANS
from molino.runs import directory
from molino.runs.measures import read_measures
from molino.tasks import earlier
from molino.tasks.masked_language_model import MASK
from molino.trained.load import LoadedRun

CARD = """---
library_name: {library}
pipeline_tag: {pipeline}
---

# {name}

A {model_type} of {parameters:,} parameters, trained with molino on {corpus} (sha256 {corpus_sha256}) for {steps:,}
steps. Licence of the corpus: {licence}.

| | |
|---|---|
{figures}

{use}

The settings of the training:

```yaml
{settings}```
"""

# What a folder holds beside what heads are for.
HIDDEN, TARGETS, OTHER = "hidden tokens", "targets", "something else"
PIPELINES = {
    None: "text-generation", HIDDEN: "fill-mask", TARGETS: "text2text-generation", SPANS: "question-answering",
    CLASSES: "text-classification", CHOICES: "multiple-choice", OTHER: "other",
}  # fmt: skip
FOLDER = "path/to/this/folder"
# What a prompt and a new text have of a context each, where both have to fit, and the longest new text of an example.
SHARE, LONGEST = 4, 100
EXAMPLES = {
    HIDDEN: """from transformers import pipeline

fill = pipeline("fill-mask", model="path/to/this/folder")
text = "...".replace("<mask>", fill.tokenizer.mask_token)
print(fill(text, tokenizer_kwargs={"truncation": True}))""",
    TARGETS: """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "path/to/this/folder"
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder)
# Of a text that is too long the beginning is read.
read = tokenizer("...", truncation=True, return_tensors="pt")
print(tokenizer.decode(model.generate(**read)[0], skip_special_tokens=True))""",
    None: """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "path/to/this/folder"
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
# Of a prompt that is too long the end is read.
read = tokenizer("...", truncation=True, max_length={prompt}, return_tensors="pt")
told = model.generate(**read, max_new_tokens={new}, do_sample=True, temperature=0.8)
print(tokenizer.decode(told[0]))""",
    CLASSES: """from transformers import pipeline

classifier = pipeline("text-classification", model="path/to/this/folder")
print(classifier("...", truncation=True))  # of pairs: classifier({"text": "...", "text_pair": "..."})""",
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
read = tokenizer([question] * len(choices), choices, padding=True, truncation=True, return_tensors="pt")
ends = read["attention_mask"].sum(1) - 1  # the last token of each, whose state the head reads
print(model(read["input_ids"][None], mc_token_ids=ends[None]).mc_logits.softmax(-1))""",
}
CONTEXT = """

Prompt and new text share a context of {block_size} tokens. `molino generate` goes on past its end, with a window that
moves; transformers does not: there a model of learned positions raises an error, and others write what they were never
trained for."""
OWN = """transformers does not load this folder: {reason}. molino does, as if it were the run:

```bash
{commands}
```

```python
import molino

run = molino.load("path/to/this/folder")
print({call})
```"""


def card(loaded: LoadedRun, checkpoint: str, model_type: str, kind: str | None, reason: str | None) -> str:
    """Return the model card: corpus, losses beside their floors, an example, settings without this machine's paths.

    Args:
        reason: why transformers does not load it; None if it does.
    """
    summary = directory.read_summary(loaded.path) if directory.is_done(loaded.path) else {}
    corpus = loaded.settings["data"]["corpus"]
    measures = read_measures(loaded.path) or earlier.measures(summary)
    tags = [metric.tag for metric in measures.metrics.values()] + list(measures.floors)
    figures = {tag: f"{summary[tag]:.4f}" for tag in tags if isinstance(summary.get(tag), int | float)}
    rows = {"checkpoint": f"{checkpoint}, after step {loaded.step:,}", **figures}
    settings = {name: portable(loaded.settings[name]) for name in ("data", "model", "optimizer", "scheduler")}
    return CARD.format(
        library="transformers" if reason is None else "molino",
        pipeline=PIPELINES[kind],
        use=use_in_transformers(loaded, kind) if reason is None else use_in_molino(loaded, reason),
        name=loaded.path.name,
        model_type=model_type,
        parameters=count_parameters(loaded.model),
        corpus=summary.get("corpus", corpus.get("name", corpus["_target_"].rsplit(".", 1)[-1])),
        corpus_sha256=summary.get("corpus_sha256", "unknown"),
        steps=loaded.step,
        licence=corpus.get("licence", "see its source"),
        figures="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
        settings=yaml.safe_dump(settings),
    )


def use_in_transformers(loaded: LoadedRun, kind: str | None) -> str:
    """Return an example that runs with transformers, and of a language model what it does at the end of its context."""
    example, more = EXAMPLES[kind], ""
    if kind is None:
        block_size = whole_context(loaded)
        prompt = max(block_size // SHARE, 1)
        example = example.replace("{prompt}", str(prompt)).replace("{new}", str(min(LONGEST, block_size - prompt)))
        more = CONTEXT.format(block_size=block_size)
    filled = f'"... {MASK} ..."' if kind == HIDDEN else f'"...{marks_of(loaded)}"'
    example = example.replace('"..."', filled)
    return f"```python\n{example}\n```{more}"


def use_in_molino(loaded: LoadedRun, reason: str) -> str:
    """Return how molino uses a folder that it alone loads."""
    verb, asked = asked_of(loaded)
    goes_on = capabilities_of(loaded.model).next_token
    data = "data=text data.path=mine.txt" if goes_on else "data=..."
    task = ("" if goes_on else " task=...") + (" task.on_floor=true" if getattr(loaded.task, "on_floor", False) else "")
    commands = [f"molino {verb} source={FOLDER} {asked}"] if verb else []
    commands += [
        f"molino evaluate source={FOLDER} {data}",
        f"molino train model=pretrained model.source={FOLDER} data.block_size={loaded.model.block_size} {data}{task}",
    ]
    if next(loaded.model.parameters(), None) is None:
        commands.pop()  # it is trained by counting, from nothing
    packages = {with_task(loaded.settings)[part]["_target_"].partition(".")[0] for part in ("model", "task")}
    if own := sorted(packages - {each.partition(".")[0] for each in BUILT_IN}):
        commands.insert(0, f"export MOLINO_ALLOW={','.join(own)}  # the packages that its parts are of")
    call = {"generate": 'run.generate("...")', "predict": "run.predict(...)"}.get(verb, "run.model")
    if verb == "predict":
        fields = fields_of(loaded)
        values = {f: ["...", "..."] if f == "choices" else hole_of(loaded) if f == "text" else "..." for f in fields}
        call = f"run.predict({values})".replace("'", '"')
    return OWN.format(reason=reason, commands="\n".join(commands), call=call)


def asked_of(loaded: LoadedRun) -> tuple[str | None, str]:
    """Return which verb asks a run, and with which settings; None if only evaluate does."""
    if capabilities_of(loaded.model).next_token:
        return "generate", 'prompt="..."'
    if not hasattr(loaded.task, "predict"):
        return None, ""
    filled = {"choices": "choices=[...,...]", "text": f'text="{hole_of(loaded)}"'}
    return "predict", " ".join(filled.get(field, f'{field}="..."') for field in fields_of(loaded))


def fields_of(loaded: LoadedRun) -> tuple[str, ...]:
    """Return what a run's task reads of an example."""
    return getattr(loaded.task, "fields", ("text",))


def hole_of(loaded: LoadedRun) -> str:
    """Return a text for a run's task, with what stands for what it is to tell."""
    hole = getattr(loaded.task, "hole", None)
    return "..." if hole is None else f"... {hole} ..."


def marks_of(loaded: LoadedRun) -> str:
    """Return what stands between what is read and what is written by a model that reads sources first."""
    if not isinstance(loaded.model, SourceFirst):
        return ""
    return "".join(map(loaded.tokenizer.token, (loaded.tokenizer.end_of_text_id, loaded.start_id)))


def whole_context(loaded: LoadedRun) -> int:
    """Return how many tokens the language model of a run reads; one that reads sources first has half for each."""
    return (loaded.model.model if isinstance(loaded.model, SourceFirst) else loaded.model).block_size


def portable(settings: Any) -> Any:
    """Return settings without the places of this machine: of a path its name, of caches and mirrors nothing."""
    if isinstance(settings, dict):
        return {name: portable(each) for name, each in settings.items() if name not in ("cache", "mirror")}
    if isinstance(settings, list | tuple):
        return [portable(each) for each in settings]
    if isinstance(settings, str) and re.match(r"(/|~|\.\./|file:|[A-Za-z]:[\\/])", settings):
        return PurePosixPath(settings.replace("\\", "/")).name
    return settings
