"""A run that goes on with texts: one of them piece by piece, or many together."""

import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, redirect_stderr
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from molino.base.errors import ResourceError
from molino.configuration.settings import check_seed
from molino.data.prompt import encode_prompt, remark
from molino.data.start import forbidden_tokens
from molino.generation.context import Context
from molino.generation.decode import Drawing, Step, go_on, seeds_of
from molino.generation.filters import check_settings
from molino.generation.stopping import Row, check_stops
from molino.models.capabilities import capabilities_of, require_next_token
from molino.trained.load import LoadedRun

# Numbers that texts drawn at once may need for what is kept of them, and for the logits of their prompts.
ROOM = 2**27
MOST_ROWS = 256
FEW = 5  # remarks on many prompts
MOST_TOKENS = 2**33  # of all samples of a prompt, which are kept until the last is there


@contextmanager
def few_remarks() -> Iterator[None]:
    """Let at most FEW of the remarks that are made within be seen, each once, and say how many more there were."""
    heard = io.StringIO()
    try:
        with redirect_stderr(heard):
            yield
    finally:
        said = list(dict.fromkeys(heard.getvalue().splitlines(keepends=True)))
        sys.stderr.write("".join(said[:FEW]))
        if len(said) > FEW:
            remark(f"and {len(said) - FEW:,} more such remarks")


@dataclass(frozen=True)
class Sampling:
    """How texts are gone on with.

    Attributes:
        samples: continuations of each prompt.
        temperature, top_k, top_p, min_p, repetition_penalty: see molino.generation.filters.
        stop: texts that end one, see molino.generation.stopping.
        cache: keep keys and values of what was read.

    Raises:
        ConfigError: a setting makes no sense.
        ResourceError: it asks for more than fits into memory.
    """

    max_new_tokens: int = 300
    samples: int = 1
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    stop: str | list[str] | None = None
    cache: bool = True
    seed: int = 0

    def __post_init__(self):
        check_settings(
            self.temperature,
            self.top_k,
            self.top_p,
            self.samples,
            self.max_new_tokens,
            self.min_p,
            self.repetition_penalty,
        )
        check_seed(self.seed)
        check_stops(self.stops)
        if self.samples * self.max_new_tokens > MOST_TOKENS:
            raise ResourceError(
                f"out of memory: samples={self.samples} times max_new_tokens={self.max_new_tokens} are kept: lower one"
            )

    @property
    def stops(self) -> list[str]:
        """The texts that end one, as a list."""
        return [] if self.stop is None else [self.stop] if isinstance(self.stop, str) else list(self.stop)

    def drawing(self, loaded: LoadedRun) -> Drawing:
        """Return how a run's next token is chosen. A token that a folder says ends a text may come."""
        forbidden = forbidden_tokens(loaded.tokenizer, loaded.start_id, loaded.model.vocab_size)
        return Drawing(
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.repetition_penalty,
            tuple(each for each in forbidden if each not in loaded.ends),
        )


class Opening(NamedTuple):
    """What a text begins with: the tokens that are read, and those of them after which its text is readable."""

    ids: list[int]
    context: list[int]


@dataclass
class Pace:
    """How many tokens were drawn, in how many seconds."""

    tokens: int = 0
    seconds: float = 0.0

    def timed(self, steps: Iterator[Step]) -> Iterator[Step]:
        """Yield steps, and count the time that they take."""
        while True:
            begun = time.perf_counter()
            step = next(steps, None)
            self.seconds += time.perf_counter() - begun
            if step is None:
                return
            yield step

    def describe(self) -> str:
        """Return both in words."""
        return (
            f"{self.tokens:,} new tokens in {self.seconds:.2f} s: {self.tokens / max(self.seconds, 1e-9):,.0f} a second"
        )


@dataclass
class Written:
    """A text that was gone on with: its row, and the seconds of decoding until it had ended, beside others."""

    row: Row
    seconds: float = 0.0


@dataclass
class Writer:
    """A run, and how it goes on with texts.

    Every prompt is gone on with as if it were alone: what is drawn for a sample depends on the seed, on the prompt and
    on the number of the sample, neither on other prompts nor on how many are drawn at once (but for the rounding of
    sums that depend on the size of a batch).

    Attributes:
        scored: whether to tell the probability of each token.
        pace: of all that was written.

    Raises:
        ConfigError: it is the run of a model that tells no next token.
    """

    loaded: LoadedRun
    sampling: Sampling
    scored: bool = False
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self):
        require_next_token(self.loaded.model, "generate")

    def opening(self, prompt: str) -> Opening:
        """Return what a prompt is read as, with a remark on what is unknown of it, or cut off."""
        loaded = self.loaded
        # A prompt may hold no token at all, such as white space where tokens are words.
        given = encode_prompt(prompt, loaded.tokenizer, loaded.prefix, loaded.line_end) if prompt else []
        ids = given or [loaded.start_id]
        # A text that starts from nothing starts after start_id, which is not part of it.
        return self.cut(Opening(ids, ids[len(loaded.prefix) :] if prompt else []))

    def cut(self, opening: Opening) -> Opening:
        """Say of an opening that it is longer than the context, if so."""
        count, block_size = len(opening.ids), self.loaded.model.block_size
        if count > block_size:
            remark(f"the prompt has {count} tokens; the model sees the last {block_size}, its context")
        return opening

    def stream(self, opening: Opening) -> Iterator[str]:
        """Yield the first continuation of a text, piece by piece as it becomes readable."""
        seeds = seeds_of(torch.Generator().manual_seed(self.sampling.seed), 1)
        row = self.row(opening)
        yield from (pieces[0] for pieces in self.grow(self._texts([opening], 1), seeds, [Written(row)]) if pieces[0])

    def together(
        self, openings: Sequence[Opening], told: Callable[[int], None] | None = None
    ) -> Iterator[list[Written]]:
        """Yield of each text all samples of how it goes on, in order; as many are drawn at once as there is room for.

        Args:
            told: is told of each further part of `max_new_tokens` times all rows.
        """
        samples, most = self.sampling.samples, self.sampling.max_new_tokens
        seeds = seeds_of(torch.Generator().manual_seed(self.sampling.seed), samples)
        at_once, beside = self._room(max((len(each.ids) for each in openings), default=1))
        for first in range(0, len(openings), at_once):
            batch = openings[first : first + at_once]
            found: list[list[Written]] = [[] for _ in batch]
            for start in range(0, samples, beside):
                own = seeds[start : start + beside]
                rows = [Written(self.row(opening, live=False)) for opening in batch for _ in own]
                done = 0
                for _ in self.grow(self._texts(batch, len(own)), own * len(batch), rows):
                    done += 1
                    if told is not None and done <= most:
                        told(len(rows))
                if told is not None:
                    told(max(most - done, 0) * len(rows))
                for number, each in enumerate(rows):
                    found[number // len(own)].append(each)
            yield from found

    def row(self, opening: Opening, live: bool = True) -> Row:
        """Return a row of how a text goes on, see molino.generation.stopping."""
        tokenizer = self.loaded.tokenizer
        ends = {*self.loaded.ends, tokenizer.end_of_text_id} - {None}
        return Row(tokenizer.decode, opening.context, ends, self.sampling.stops, live)

    def grow(self, texts: Callable[[], Context], seeds: Sequence[int], written: list[Written]) -> Iterator[list[str]]:
        """Let texts go on until all have ended; yield what each step lets be shown of each row.

        Args:
            texts, seeds: see molino.generation.decode.go_on.
            written: takes up what is drawn.
        """
        drawing, begun = self.sampling.drawing(self.loaded), self.pace.seconds
        steps = go_on(self.loaded.model, texts, seeds, self.sampling.max_new_tokens, drawing, scored=self.scored)
        with closing(steps):
            for step in self.pace.timed(steps):
                logps = step.logp_B.tolist() if step.logp_B is not None else [None] * len(written)
                pieces = [""] * len(written)
                for number, (each, token, logp) in enumerate(zip(written, step.tokens_B.tolist(), logps, strict=True)):
                    if each.row.ended is None:
                        pieces[number], each.seconds = each.row.take(token, logp), self.pace.seconds - begun
                        self.pace.tokens += 1
                yield pieces
                if all(each.row.ended for each in written):
                    return
        yield [each.row.finish() for each in written]

    def _texts(self, openings: Sequence[Opening], samples: int) -> Callable[[], Context]:
        prompts = [torch.tensor(each.ids) for each in openings]
        most, cached = self.sampling.max_new_tokens, self.sampling.cache
        return lambda: Context(self.loaded.model, prompts, samples, most, cached)

    def _room(self, longest: int) -> tuple[int, int]:
        """Return how many prompts may be gone on with at once, and with how many samples of each."""
        model, shape = self.loaded.model, capabilities_of(self.loaded.model).cache
        read = min(longest, model.block_size)
        kept = min(longest + self.sampling.max_new_tokens, model.block_size)
        if self.sampling.cache and shape is not None:
            rows = ROOM // (kept * shape.numbers_per_token + model.vocab_size)
        else:
            rows = ROOM // (kept * model.vocab_size)
        rows = max(1, min(rows, MOST_ROWS))
        samples = min(self.sampling.samples, rows)
        return max(1, min(rows // samples, ROOM // (read * model.vocab_size))), samples
