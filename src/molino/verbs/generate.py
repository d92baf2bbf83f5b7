"""molino generate: text from a run, written as it is drawn."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from molino.base.console import advancing, say
from molino.base.errors import ConfigError
from molino.base.files import atomic_write
from molino.base.streams import printable
from molino.configuration.build import construct_arguments
from molino.configuration.request import Request
from molino.data.prompt import ask, ask_prompt, remark
from molino.data.prompts import FIELD, read_prompt, read_prompts
from molino.machine.hardware import Hardware
from molino.trained.conversation import Chat, Conversation, read_chat
from molino.trained.load import load
from molino.trained.writing import Opening, Sampling, Writer, Written, few_remarks

with suppress(ImportError):
    import readline  # noqa: F401  # lines that are typed can be edited

NOTHING = '; an empty one, prompt="", starts from nothing'


def run(request: Request) -> None:
    """Check the settings and sample."""
    settings = dict(request.settings)
    for name in ("prompt", "stop"):
        value = settings[name]  # prompt=1605 is text too
        if value is not None:
            settings[name] = list(map(str, value)) if isinstance(value, list) else str(value)
    sample(**construct_arguments(sample, settings))


def sample(
    run: str | None,
    source: str | None,
    checkpoint: str,
    prompt: str | list[str] | None,
    prompts: str | None,
    prompts_field: str,
    chat: bool,
    system: str | None,
    new_text_only: bool,
    stop: str | list[str] | None,
    to: str | None,
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
    """Write `samples` continuations of each prompt to standard output, a single one piece by piece; or to a file.

    The model is that of `run`, or of the Hugging Face folder or hub id `source`. On a terminal, where no prompt is
    given, it is asked for one after the other, each of which goes on with the text so far.
    Remarks (unknown characters, a prompt longer than the context, tokens a second) go to standard error.
    """
    sampling = Sampling(
        max_new_tokens, samples, temperature, top_k, top_p, min_p, repetition_penalty, stop, cache, seed
    )
    check_shown(new_text_only, chat, system, to)
    target = check_target(to)
    # Several samples are no text to go on with, nor is what is not shown.
    asked = read_asked(prompt, prompts, prompts_field, in_turns=samples == 1 and target is None)
    chatting = read_chat(source, system) if chat else None
    hardware.apply()
    loaded = load(run, source, checkpoint, paths["outputs"], hardware.device, hardware.dtype)
    writer = Writer(loaded, sampling, scored=target is not None)
    if hardware.compile is True:
        # The length of the text changes with every token.
        loaded.model.compile(dynamic=True)
    with hardware.autocast():
        if asked is None:
            converse(Conversation(writer, chatting), new_text_only or chat)
        elif target is not None:
            save(target, asked, written(writer, asked, chatting, tell=True))
        else:
            before = [""] * len(asked) if new_text_only or chat else asked
            show(writer, asked, chatting, before)
    if writer.pace.tokens:
        remark(writer.pace.describe())


def check_shown(new_text_only: bool, chat: bool, system: str | None, to: str | None) -> None:
    """Refuse settings of what is shown that do not go together.

    Raises:
        ConfigError: there are such.
    """
    if new_text_only and to is not None:
        raise ConfigError(f"to={to} holds the prompt and the new text apart: leave new_text_only out")
    if new_text_only and chat:
        raise ConfigError("chat=true shows the answer alone: leave new_text_only out")
    if system is not None and not chat:
        raise ConfigError("system= is a message of a chat: add chat=true, or leave it out")


def check_target(to: str | None) -> Path | None:
    """Return where texts are to be written, before anything is read.

    Raises:
        ConfigError: it exists, or is not called as what is written.
    """
    if to is None:
        return None
    target = Path(to).expanduser()
    if target.suffix.lower() != ".jsonl":
        raise ConfigError(f"to={to} must end with .jsonl")
    if target.exists():
        raise ConfigError(f"{target} exists: choose another name, nothing is overwritten")
    return target


def read_asked(
    prompt: str | list[str] | None, prompts: str | None, prompts_field: str, in_turns: bool
) -> list[str] | None:
    """Return the prompts that were given, piped or typed; None where they are to be asked for in turns.

    Raises:
        ConfigError: they are given in two ways, or not at all.
        DataError: they cannot be read.
    """
    if prompt is not None and prompts is not None:
        raise ConfigError(f"prompt= and prompts={prompts} are two ways to ask: give one")
    if prompts == "":
        raise ConfigError('prompts="" names no file: name one, or - for standard input')
    if prompts is not None:
        return read_prompts(prompts, prompts_field)
    if prompts_field != FIELD:
        raise ConfigError(f"prompts_field={prompts_field} is for a table: add prompts=<file>, or leave it out")
    if isinstance(prompt, list) and not prompt:
        raise ConfigError("prompt=[] holds no prompt: give one or more")
    if prompt is not None:
        return prompt if isinstance(prompt, list) else [prompt]
    if not sys.stdin.isatty():
        return [read_prompt(NOTHING)]
    return None if in_turns else [ask_prompt(NOTHING)]


def converse(conversation: Conversation, new_text_only: bool) -> None:
    """Ask on a terminal for what is to be gone on with, until nothing is typed, or Ctrl-C or Ctrl-D."""
    with suppress(EOFError, KeyboardInterrupt):
        while typed := ask():
            pieces = conversation.turn(typed)  # with remarks on what was typed
            write("" if new_text_only else typed)
            for piece in pieces:
                write(piece)
            write("\n")
        return
    write("\n")


def written(writer: Writer, asked: list[str], chat: Chat | None, tell: bool = False) -> Iterator[list[Written]]:
    """Yield of each prompt its samples.

    Args:
        tell: show how far it has got.
    """
    with few_remarks():
        openings = [opening_of(writer, prompt, chat) for prompt in asked]
    if not tell:
        yield from writer.together(openings)
        return
    total = len(asked) * writer.sampling.samples * writer.sampling.max_new_tokens
    with advancing("writing", total) as told:
        yield from writer.together(openings, told)


def opening_of(writer: Writer, prompt: str, chat: Chat | None) -> Opening:
    """Return what a prompt is read as, of a chat as its first message."""
    if chat is None:
        return writer.opening(prompt)
    return writer.cut(chat.read(chat.messages(prompt), writer.loaded.tokenizer))


def show(writer: Writer, asked: list[str], chat: Chat | None, before: Sequence[str]) -> None:
    """Write texts to standard output: a single one while it is drawn.

    Args:
        before: what is shown before what is drawn of each prompt.
    """
    samples = writer.sampling.samples
    if len(asked) == samples == 1:
        opening = opening_of(writer, asked[0], chat)
        write(before[0])
        for piece in writer.stream(opening):
            write(piece)
        write("\n")
        return
    for number, (shown, each) in enumerate(zip(before, written(writer, asked, chat), strict=True), start=1):
        for sample, one in enumerate(each, start=1):
            named = [f"prompt {number}"] * (len(asked) > 1) + [f"sample {sample}"] * (samples > 1)
            write(f"--- {', '.join(named)} ---\n{shown}{one.row.text}\n")


def save(target: Path, asked: list[str], texts: Iterator[list[Written]]) -> None:
    """Write a line of JSON for each text, all of them or none."""
    count = 0
    with atomic_write(target) as file:
        for prompt, each in zip(asked, texts, strict=True):
            for sample, one in enumerate(each, start=1):
                count += 1
                line = json.dumps(as_record(prompt, sample, one), ensure_ascii=False)
                # Half a character, which a prompt may hold, is no UTF-8, but has an escape in JSON.
                file.write(f"{line}\n".encode("utf-8", "backslashreplace"))
    say(f"{target}: {count:,} texts")


def as_record(prompt: str, sample: int, one: Written) -> dict[str, Any]:
    """Return what a line tells of a text."""
    return {
        "prompt": prompt,
        "sample": sample,
        "text": one.row.text,
        "ended": one.row.ended,
        "tokens": one.row.tokens,
        "logprobs": one.row.logps,
        "seconds": one.seconds,
    }


def write(text: str) -> None:
    """Write to standard output at once. A terminal is spared control characters, which a model may produce."""
    if sys.stdout.isatty():
        text = printable(text)
    sys.stdout.write(text)
    sys.stdout.flush()
