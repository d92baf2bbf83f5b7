"""The decoding loop: prompts in, tokens out, one step at a time.

Choosing a token happens where the model is, in float64 where the device knows it, and what was chosen comes to the CPU
in chunks, so that a GPU is not made to wait at every token. On the CPU a chunk is one token.

Shape suffixes: B rows (prompts times samples), T time (tokens), N new tokens, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

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
    prompts = [prompts] if isinstance(prompts, Tensor) else list(prompts)
    if not prompts:
        raise DataError("there is no prompt to continue: give one or more")
    for prompt_T in prompts:
        if prompt_T.ndim != 1 or len(prompt_T) == 0:
            raise DataError(f"a prompt of shape {tuple(prompt_T.shape)} cannot be continued: give one token or more")
    device = device_of(model)
    precise = torch.float32 if device.type == "mps" else torch.float64
    uniforms_BN = _uniforms(samples * len(prompts), max_new_tokens, generator).to(device, precise)
    forbidden = torch.tensor(forbidden_ids, dtype=torch.long, device=device)

    def choose(logits_BV: Tensor, seen_BV: Tensor | None, step: int) -> Tensor:
        logits_BV = logits_BV.to(precise).index_fill(-1, forbidden, -torch.inf)
        if seen_BV is not None:
            logits_BV = filters.repetition_penalty(logits_BV, seen_BV, repetition_penalty)
        if temperature == 0:
            return logits_BV.argmax(-1)
        logits_BV = filters.temperature(logits_BV, temperature)
        for keep, value in ((filters.top_k, top_k), (filters.top_p, top_p), (filters.min_p, min_p)):
            if value is not None:
                logits_BV = keep(logits_BV, value)
        return draw(logits_BV, uniforms_BN[:, step])

    chunk = chunk or (1 if device.type == "cpu" else CHUNK)
    return _loop(model, prompts, samples, max_new_tokens, choose, repetition_penalty != 1, stop_id, cached, chunk)


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


def decode_text(
    decode: Callable[[list[int]], str], tokens: Iterable[int], context: Sequence[int] = ()
) -> Iterator[str]:
    """The text of a stream of tokens, piece by piece as it becomes readable.

    A character whose UTF-8 bytes are spread over several tokens is held back until its last byte, or the end of the
    stream, has come. The pieces joined are the text that `decode` makes of all tokens after that of `context`.

    Args:
        decode: a tokenizer's decoding of a list of ids, which shows incomplete bytes as U+FFFD.
        context: the tokens before the stream (the prompt's), so that the first piece joins them with the right spaces.
    """
    # Decoders look at neighbours (a space between words), so a piece is what it adds to the text of the one before.
    shown, pending = list(context), []
    for token in tokens:
        pending.append(token)
        piece = decode(shown + pending)[len(decode(shown)) :]
        if piece and not piece.endswith("\ufffd"):
            yield piece
            shown, pending = pending, []
    if pending and (piece := decode(shown + pending)[len(decode(shown)) :]):
        yield piece


def _loop(
    model: nn.Module,
    prompts: Sequence[Tensor],
    samples: int,
    max_new_tokens: int,
    choose: Callable[[Tensor, Tensor | None, int], Tensor],
    remember: bool,
    stop_id: int | None,
    cached: bool,
    chunk: int,
) -> Iterator[Tensor]:
    """Let texts grow by what `choose(logits_BV, seen_BV, step)` picks, `chunk` tokens at a time."""
    with eval_mode(model):
        texts, seen_BV = None, None
        for first in range(0, max_new_tokens, chunk):
            with torch.inference_mode():
                if texts is None:
                    texts = Context(model, prompts, samples, max_new_tokens, cached)
                    stopped_B = torch.zeros(len(texts.ends), dtype=torch.bool, device=texts.tokens_BT.device)
                sane, columns = [], []
                for step in range(first, min(first + chunk, max_new_tokens)):
                    logits_BV = texts.logits()
                    if remember and seen_BV is None:
                        seen_BV = texts.seen(logits_BV.shape[-1])
                    # The highest tells: -inf elsewhere only excludes a token, while nan, which amax passes on, and inf
                    # leave no distribution to draw from.
                    sane.append(logits_BV.amax(-1).isfinite().all())
                    next_B = choose(logits_BV, seen_BV, step)
                    if stop_id is not None:
                        next_B = next_B.masked_fill(stopped_B, stop_id)
                        stopped_B |= next_B == stop_id
                    if seen_BV is not None:
                        seen_BV.scatter_(1, next_B[:, None], True)
                    texts.append(next_B)
                    columns.append(next_B)
                sane, tokens_NB = torch.stack(sane).cpu(), torch.stack(columns).cpu()
            # A clone is an ordinary tensor, which whoever receives it may change.
            for step, tokens_B in enumerate(tokens_NB.clone()):
                if not sane[step]:
                    raise NonFiniteError(
                        "the model's logits are nan or inf: it diverged; sample from an earlier checkpoint"
                    )
                yield tokens_B
                if stop_id is not None and bool((tokens_B == stop_id).all()):
                    return


def _uniforms(samples: int, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` float64 numbers in [0, 1) a sample, each row from a stream of its own that `generator` seeds."""
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    uniforms_BN = torch.empty(samples, count, dtype=torch.float64)
    for uniform_N in uniforms_BN:
        seed = int(torch.randint(2**63 - 1, (), generator=generator))
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
