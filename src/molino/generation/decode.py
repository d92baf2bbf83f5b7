"""The decoding loop: prompts in, tokens out, one step at a time.

Choosing a token happens where the model is, in float64 where the device knows it, and what was chosen comes to the CPU
in chunks, so that a GPU is not made to wait at every token. On the CPU a chunk is one token.

Shape suffixes: B rows (prompts times samples), T time (tokens), N new tokens, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from molino.base.errors import DataError, NonFiniteError
from molino.generation import filters
from molino.generation.context import Context
from molino.models.capabilities import device_of

CHUNK = 16  # tokens that a device other than the CPU is sent ahead


def generate(
    model: nn.Module,
    prompts: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    *,
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    generator: torch.Generator | None = None,
    stop_id: int | None = None,
    forbidden_ids: Sequence[int] = (),
    cached: bool = True,
    chunk: int | None = None,
) -> Iterator[Tensor]:
    """Continue each prompt `samples` times; yields the next tokens_B of all rows, int64 on the CPU, step by step.

    Rows are ordered by prompt. `molino.generation.context` says what the model reads once a text has outgrown its
    context. The model is in eval mode from the first token until the iterator is exhausted or closed, then as before. A
    row that has produced `stop_id` goes on yielding it, and the loop ends after `max_new_tokens` steps or when all rows
    have stopped.

    Each row is drawn from a random stream of its own, so it depends on the generator's seed, its prompt and its number,
    neither on how many rows come after it nor on how many tokens follow (but for the rounding of a model whose sums
    depend on the size of the batch). The global random state is neither read nor changed.

    Args:
        model: see `molino.models`, on any device.
        prompts: a LongTensor (T,) of one token or more, or several of any lengths.
        temperature, top_k, top_p, min_p, repetition_penalty: see `molino.generation.filters`; temperature 0 is argmax.
        generator: on the CPU; None takes a fresh one seeded by the operating system.
        forbidden_ids: tokens that never come out, such as <unk> and <pad>.
        cached: keep keys and values of what was read (KV cache), or read the whole context anew for every token.
        chunk: how many tokens are chosen before they are fetched; None for what suits the device.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a prompt is empty.
        NonFiniteError: (while iterating) the model's logits hold nan or inf, or nothing but -inf.
    """
    filters.check_settings(temperature, top_k, top_p, samples, max_new_tokens, min_p, repetition_penalty)
    prompts = checked(prompts)
    drawing = Drawing(temperature, top_k, top_p, min_p, repetition_penalty, tuple(forbidden_ids))
    seeds = seeds_of(generator, samples * len(prompts))
    return _tokens(
        go_on(
            model,
            lambda: Context(model, prompts, samples, max_new_tokens, cached),
            seeds,
            max_new_tokens,
            drawing,
            stop_id=stop_id,
            chunk=chunk,
        )
    )


@dataclass(frozen=True)
class Drawing:
    """How the next token is chosen: see `molino.generation.filters`; `forbidden_ids` never come out."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    forbidden_ids: tuple[int, ...] = ()

    def choose(self, logits_BV: Tensor, seen_BV: Tensor | None, forbidden: Tensor, uniform_B: Tensor) -> Tensor:
        """Return next tokens_B.

        Args:
            seen_BV: which tokens each text holds; None where that plays no part.
            forbidden: `forbidden_ids` where the logits are.
            uniform_B: in [0, 1), what they are drawn with.
        """
        logits_BV = logits_BV.index_fill(-1, forbidden, -torch.inf)
        if seen_BV is not None:
            logits_BV = filters.repetition_penalty(logits_BV, seen_BV, self.repetition_penalty)
        if self.temperature == 0:
            return logits_BV.argmax(-1)
        logits_BV = filters.temperature(logits_BV, self.temperature)
        kept = ((filters.top_k, self.top_k), (filters.top_p, self.top_p), (filters.min_p, self.min_p))
        for keep, value in kept:
            if value is not None:
                logits_BV = keep(logits_BV, value)
        return draw(logits_BV, uniform_B)


class Step(NamedTuple):
    """The next token of each row, tokens_B, int64 on the CPU; and logp_B, float64, the natural logarithm of the
    probability that the model itself gave it, before anything was forbidden, filtered or divided; None unless asked.
    """

    tokens_B: Tensor
    logp_B: Tensor | None


def go_on(
    model: nn.Module,
    texts: Callable[[], Context],
    seeds: Sequence[int],
    max_new_tokens: int,
    drawing: Drawing,
    *,
    stop_id: int | None = None,
    scored: bool = False,
    chunk: int | None = None,
) -> Iterator[Step]:
    """Let texts grow, as `generate` does, `chunk` tokens at a time.

    Args:
        texts: makes them, with room for `max_new_tokens`; called when the first token is asked for.
        seeds: one for each row, of what is drawn for it.
        scored: whether to tell logp_B.

    Raises:
        NonFiniteError: as `generate`.
    """
    chunk = chunk or (1 if device_of(model).type == "cpu" else CHUNK)
    rows = None
    with eval_mode(model):
        for first in range(0, max_new_tokens, chunk):
            with torch.inference_mode():
                if rows is None:
                    rows = _Rows(texts(), _uniforms(seeds, max_new_tokens), drawing, stop_id, scored)
                sane_N, tokens_NB, logp_NB = rows.grow(range(first, min(first + chunk, max_new_tokens)))
            # A clone is an ordinary tensor, which whoever receives it may change.
            for number, tokens_B in enumerate(tokens_NB.clone()):
                if not sane_N[number]:
                    raise NonFiniteError(
                        "the model's logits are nan or inf: it diverged; sample from an earlier checkpoint"
                    )
                yield Step(tokens_B, logp_NB[number].clone() if scored else None)
                if stop_id is not None and bool((tokens_B == stop_id).all()):
                    return


class _Rows:
    """Texts that grow, and what is kept of each row meanwhile."""

    def __init__(self, texts: Context, uniforms_BN: Tensor, drawing: Drawing, stop_id: int | None, scored: bool):
        self.texts, self.drawing, self.stop_id, self.scored = texts, drawing, stop_id, scored
        device = texts.tokens_BT.device
        self.precise = torch.float32 if device.type == "mps" else torch.float64
        self.uniforms_BN = uniforms_BN.to(device, self.precise)
        self.forbidden = torch.tensor(drawing.forbidden_ids, dtype=torch.long, device=device)
        self.stopped_B = torch.zeros(len(uniforms_BN), dtype=torch.bool, device=device)
        self.seen_BV: Tensor | None = None

    def grow(self, steps: range) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return of each step, on the CPU: whether the logits are sane, tokens_NB, and logp_NB where asked."""
        sane, columns, scores = [], [], []
        for step in steps:
            logits_BV = self.texts.logits()
            if self.drawing.repetition_penalty != 1 and self.seen_BV is None:
                self.seen_BV = self.texts.seen(logits_BV.shape[-1])
            # The highest tells: -inf elsewhere only excludes a token, while nan, which amax passes on, and inf leave no
            # distribution to draw from.
            sane.append(logits_BV.amax(-1).isfinite().all())
            logits_BV = logits_BV.to(self.precise)
            next_B = self.drawing.choose(logits_BV, self.seen_BV, self.forbidden, self.uniforms_BN[:, step])
            if self.stop_id is not None:
                next_B = next_B.masked_fill(self.stopped_B, self.stop_id)
                self.stopped_B |= next_B == self.stop_id
            if self.seen_BV is not None:
                self.seen_BV.scatter_(1, next_B[:, None], True)
            if self.scored:
                scores.append(logits_BV.log_softmax(-1).gather(1, next_B[:, None])[:, 0])
            self.texts.append(next_B)
            columns.append(next_B)
        logp_NB = torch.stack(scores).cpu().double() if self.scored else None
        return torch.stack(sane).cpu(), torch.stack(columns).cpu(), logp_NB


def _tokens(steps: Iterator[Step]) -> Iterator[Tensor]:
    """Yield the tokens_B of steps."""
    with closing(steps):
        for step in steps:
            yield step.tokens_B


def checked(prompts: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Return prompts as a list.

    Raises:
        DataError: there is none, or one is empty.
    """
    prompts = [prompts] if isinstance(prompts, Tensor) else list(prompts)
    if not prompts:
        raise DataError("there is no prompt to continue: give one or more")
    for prompt_T in prompts:
        if prompt_T.ndim != 1 or len(prompt_T) == 0:
            raise DataError(f"a prompt of shape {tuple(prompt_T.shape)} cannot be continued: give one token or more")
    return prompts


def draw(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """tokens_B by inversion of the distribution function: the first token whose cumulated mass exceeds uniform_B.

    Both of one dtype, uniform_B in [0, 1) as `torch.rand` makes it.
    """
    cumulated_BV = logits_BV.softmax(-1).cumsum(-1)
    # The last entry is 1 but for rounding. A number below 1 times that entry stays below it in floating point too, and
    # with right=True the token found has a mass above 0: no filtered token is ever drawn.
    tokens_B1 = torch.searchsorted(cumulated_BV, uniform_B[:, None] * cumulated_BV[:, -1:], right=True)
    # Beyond the last where the mass is nan, which is found out a chunk later.
    return tokens_B1[:, 0].clamp(max=logits_BV.shape[-1] - 1)


def seeds_of(generator: torch.Generator | None, count: int) -> list[int]:
    """Return seeds of streams that have nothing to do with each other: as many as rows are to be drawn.

    The first ones are the same however many there are.
    """
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return [int(torch.randint(2**63 - 1, (), generator=generator)) for _ in range(count)]


def _uniforms(seeds: Sequence[int], count: int) -> Tensor:
    """Return `count` float64 numbers in [0, 1) for each row, (B, N), from a stream of its own."""
    uniforms_BN = torch.empty(len(seeds), count, dtype=torch.float64)
    for seed, uniform_N in zip(seeds, uniforms_BN, strict=True):
        torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), out=uniform_N)
    return uniforms_BN


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside, and as it was afterwards: a model may hold frozen parts."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
