"""molino generate: text from a run, written as it is drawn."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from molino.base.errors import ConfigError
from molino.base.streams import printable
from molino.configuration.build import construct_arguments
from molino.configuration.request import Request
from molino.data.prompt import ask_prompt, encode_prompt, remark
from molino.data.start import forbidden_tokens
from molino.data.tokenizers import Tokenizer
from molino.generation.decode import decode_text, generate
from molino.generation.filters import check_settings
from molino.machine.hardware import Hardware
from molino.models.capabilities import require_next_token
from molino.trained.load import load


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
    check_settings(temperature, top_k, top_p, samples, max_new_tokens, min_p, repetition_penalty)
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed} must be a whole number from 0 to 2**32 - 1")
    hardware.apply()
    loaded = load(run, source, checkpoint, paths["outputs"], hardware.device, hardware.dtype)
    tokenizer, model = loaded.tokenizer, loaded.model
    require_next_token(model, "generate")
    prompt = ask_prompt('; an empty one, prompt="", starts from nothing') if prompt is None else prompt
    # A prompt may hold no token at all, such as white space where tokens are words.
    ids = (encode_prompt(prompt, tokenizer, loaded.prefix) if prompt else []) or [loaded.start_id]
    if len(ids) > model.block_size:
        remark(f"the prompt has {len(ids)} tokens; the model sees the last {model.block_size}, its context")
    # A text that starts from nothing starts after start_id, which is not part of it.
    context = ids[len(loaded.prefix) :] if prompt else []
    if hardware.compile is True:
        # The length of the text changes with every token.
        model.compile(dynamic=True)
    with hardware.autocast():
        steps = generate(
            model,
            torch.tensor(ids),
            max_new_tokens,
            samples=samples,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            generator=torch.Generator().manual_seed(seed),
            stop_id=tokenizer.end_of_text_id,
            forbidden_ids=forbidden_tokens(tokenizer, loaded.start_id, model.vocab_size),
            cached=cache,
        )
        show(steps, samples, prompt, tokenizer, context)


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


def pieces(ids: Iterable[int], tokenizer: Tokenizer, context: list[int]) -> Iterator[str]:
    """Return the text of new tokens after `context`, up to <|endoftext|>, as it becomes readable."""

    def until_end() -> Iterator[int]:
        for token in ids:
            if token == tokenizer.end_of_text_id:
                return
            yield token

    return decode_text(tokenizer.decode, until_end(), context)


def write(text: str) -> None:
    """Write to standard output at once. A terminal is spared control characters, which a model may produce."""
    if sys.stdout.isatty():
        text = printable(text)
    sys.stdout.write(text)
    sys.stdout.flush()
