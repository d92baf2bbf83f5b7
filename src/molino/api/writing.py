"""What `Run.generate` returns: a text, several of them, or the pieces of one."""

from collections.abc import Iterator, Sequence
from typing import Any

from molino.api.aside import Explained
from molino.base.errors import ConfigError
from molino.trained.load import LoadedRun
from molino.trained.reading import check_text
from molino.trained.writing import Opening, Sampling, Writer, few_remarks


def write_on(
    loaded: LoadedRun, prompt: str | Sequence[str], sampling: Sampling, new_text_only: bool, stream: bool
) -> Any:
    """Return how a run goes on with a prompt, or with each of a list; see molino.api.run.Run.generate.

    Raises:
        ConfigError: the settings do not go together, or the run tells no next token.
        DataError: a prompt is no text.
    """
    several = isinstance(prompt, Sequence) and not isinstance(prompt, str | bytes)
    prompts = list(prompt) if several else [prompt]
    for each in prompts:
        check_text(each)
    writer = Writer(loaded, sampling)
    if stream:
        for what, refused in ((f"samples={sampling.samples}", sampling.samples > 1), ("a list of prompts", several)):
            if refused:
                raise ConfigError(f"{what} cannot be streamed together: ask for one at a time")
        if new_text_only:
            raise ConfigError("stream=True tells the new text alone: leave new_text_only out")
        return _streamed(writer, writer.opening(prompt))
    before = [""] * len(prompts) if new_text_only else prompts
    with few_remarks():
        openings = [writer.opening(each) for each in prompts]
    written = writer.together(openings)
    texts = [[start + each.row.text for each in own] for start, own in zip(before, written, strict=True)]
    texts = [own[0] if sampling.samples == 1 else own for own in texts]
    return texts if several else texts[0]


def _streamed(writer: Writer, opening: Opening) -> Iterator[str]:
    with Explained():
        yield from writer.stream(opening)
