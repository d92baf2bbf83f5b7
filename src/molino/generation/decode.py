"""The decoding loop: prompt in, tokens out, one step at a time.

Everything after the model's logits happens in float64 on the CPU, where the tokens are wanted anyway: there a draw is
exact, the same on every machine, and allowed in torch's deterministic mode.

Shape suffixes: B samples, T time (tokens), N new tokens, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from molino.errors import DataError, NonFiniteError
from molino.generation import filters


def generate(
    model: nn.Module,
    prompt_T: Tensor,
    max_new_tokens: int,
    *,
    samples: int = 1,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    stop_id: int | None = None,
    forbidden_ids: Sequence[int] = (),
) -> Iterator[Tensor]:
    """Continue one prompt `samples` times; yields the next tokens_B of all samples, int64 on the CPU, step by step.

    The model sees the last `model.block_size` tokens. It is in eval mode from the first token until the iterator is
    exhausted or closed, then as before. A sample that has produced `stop_id` goes on yielding it, and the loop ends
    after `max_new_tokens` steps or when all samples have stopped.

    Sample i is drawn from a random stream of its own, so it depends on the generator's seed and on i, neither on how
    many samples are drawn beside it nor on how many tokens follow (but for the rounding of a model whose sums depend on
    the size of the batch). The global random state is neither read nor changed.

    Args:
        model: `forward(tokens_BT) -> logits_BTV`, on any device.
        prompt_T: LongTensor of one token or more.
        temperature, top_k, top_p: the filters of `molino.generation.filters`, in this order; temperature 0 is argmax.
        generator: on the CPU; None takes a fresh one seeded by the operating system.
        forbidden_ids: tokens that never come out, such as <unk> and <pad>.

    Raises:
        ConfigError: a setting is out of range.
        DataError: the prompt is empty.
        NonFiniteError: (while iterating) the model's logits hold nan or inf, or nothing but -inf.
    """
    filters.check_settings(temperature, top_k, top_p, samples, max_new_tokens)
    if prompt_T.ndim != 1 or len(prompt_T) == 0:
        raise DataError(f"a prompt of shape {tuple(prompt_T.shape)} cannot be continued: give one token or more")
    uniforms_BN = _uniforms(samples, max_new_tokens, generator)
    forbidden = torch.tensor(forbidden_ids, dtype=torch.long)

    def choose(logits_BV: Tensor, step: int) -> Tensor:
        logits_BV = filters.temperature(logits_BV.index_fill(-1, forbidden, -torch.inf), temperature)
        if top_k is not None:
            logits_BV = filters.top_k(logits_BV, top_k)
        if top_p is not None:
            logits_BV = filters.top_p(logits_BV, top_p)
        return draw(logits_BV, uniforms_BN[:, step])

    return _loop(model, prompt_T, samples, max_new_tokens, choose, stop_id)


def draw(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """tokens_B by inversion of the distribution function: the first token whose cumulated mass exceeds uniform_B.

    Both float64 on the CPU, uniform_B in [0, 1) as `torch.rand` makes it.
    """
    cumulated_BV = logits_BV.softmax(-1).cumsum(-1)
    # The last entry is 1 but for rounding. A number below 1 times that entry stays below it in floating point too, and
    # with right=True the token found has a mass above 0: no filtered token is ever drawn.
    return torch.searchsorted(cumulated_BV, uniform_B[:, None] * cumulated_BV[:, -1:], right=True)[:, 0]


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
    prompt_T: Tensor,
    samples: int,
    max_new_tokens: int,
    choose: Callable[[Tensor, int], Tensor],
    stop_id: int | None,
) -> Iterator[Tensor]:
    """Fill a buffer of prompt and new tokens column by column with what `choose(logits_BV, step)` picks."""
    start = len(prompt_T)
    device = next(model.parameters()).device
    tokens_BT = torch.empty(samples, start + max_new_tokens, dtype=torch.long, device=device)
    tokens_BT[:, :start] = prompt_T
    stopped_B = torch.zeros(samples, dtype=torch.bool)
    with _eval_mode(model):
        for step in range(max_new_tokens):
            end = start + step
            # All samples still share the prompt at the first step: one row says it for all.
            rows = 1 if step == 0 else samples
            logits_BV = _next_logits(model, tokens_BT[:rows, max(0, end - model.block_size) : end])
            next_B = choose(logits_BV.expand(samples, -1), step)
            if stop_id is not None:
                next_B[stopped_B] = stop_id
                stopped_B |= next_B == stop_id
            tokens_BT[:, end] = next_B
            yield next_B
            if stopped_B.all():
                return


@torch.inference_mode()
def _next_logits(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    """logits_BV of the token after tokens_BT, in float64 on the CPU."""
    logits_BV = model(tokens_BT)[:, -1].cpu().double()
    # The highest tells: -inf elsewhere only excludes a token, while nan, which amax passes on, and inf leave no
    # distribution to draw from.
    if not logits_BV.amax(-1).isfinite().all():
        raise NonFiniteError("the model's logits are nan or inf: it diverged; sample from an earlier checkpoint")
    return logits_BV


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
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside, and as it was afterwards: a model may hold frozen parts."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
