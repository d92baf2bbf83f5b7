"""molino generate: text from a run, written as it is drawn."""

import sys
from collections.abc import Iterator
from typing import Any

import torch

from molino.base.streams import printable
from molino.configuration.build import construct_arguments
from molino.configuration.request import Request
from molino.data.prompt import ask_prompt
from molino.data.tokenizers import Tokenizer
from molino.machine.hardware import Hardware
from molino.models.capabilities import require_next_token
from molino.trained.load import load
from molino.trained.writing import check_sampling, continuations, pieces


def run(request: Request) -> None:
    """Check the settings and sample."""
    settings = dict(request.settings)
    if settings["prompt"] is not None:
        settings["prompt"] = str(settings["prompt"])  # prompt=1605 is text too
    sample(**construct_arguments(sample, settings))


def sample(
    run: str | None,
    source: str | None,
    checkpoint: str,
    prompt: str | None,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float,
    cache: bool,
    seed: int,
    hardware: Hardware,
    paths: dict[str, Any],
) -> None:
    """Write `samples` continuations of a prompt to standard output, a single one piece by piece.

    The model is that of `run`, or of the Hugging Face folder or hub id `source`.
    Remarks (unknown characters, a prompt longer than the context) go to standard error.
    """
    drawn = {
        "samples": samples,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
    }
    check_sampling(seed, **drawn)
    hardware.apply()
    loaded = load(run, source, checkpoint, paths["outputs"], hardware.device, hardware.dtype)
    require_next_token(loaded.model, "generate")
    prompt = ask_prompt('; an empty one, prompt="", starts from nothing') if prompt is None else prompt
    if hardware.compile is True:
        # The length of the text changes with every token.
        loaded.model.compile(dynamic=True)
    with hardware.autocast():
        steps, context = continuations(loaded, prompt, seed=seed, cached=cache, **drawn)
        show(steps, samples, prompt, loaded.tokenizer, context)


def show(steps: Iterator[torch.Tensor], samples: int, prompt: str, tokenizer: Tokenizer, context: list[int]) -> None:
    """Write texts of which `steps` yields the next tokens_B of all: a single one while it is drawn."""
    if samples == 1:
        write(prompt)
        for piece in pieces((int(tokens_B[0]) for tokens_B in steps), tokenizer, context):
            write(piece)
        write("\n")
        return
    for number, row in enumerate(torch.stack(list(steps), dim=1).tolist(), start=1):
        write(f"--- sample {number} ---\n{prompt}{''.join(pieces(row, tokenizer, context))}\n")


def write(text: str) -> None:
    """Write to standard output at once. A terminal is spared control characters, which a model may produce."""
    if sys.stdout.isatty():
        text = printable(text)
    sys.stdout.write(text)
    sys.stdout.flush()
