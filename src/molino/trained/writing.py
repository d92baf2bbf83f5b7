"""A run that goes on with a text."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from molino.configuration.settings import check_seed
from molino.data.prompt import encode_prompt, remark
from molino.data.start import forbidden_tokens
from molino.data.tokenizers import Tokenizer
from molino.generation.decode import decode_text, generate
from molino.generation.filters import check_settings
from molino.models.capabilities import require_next_token
from molino.trained.load import LoadedRun


def continuations(
    loaded: LoadedRun, prompt: str, *, max_new_tokens: int, seed: int, **settings: Any
) -> tuple[Iterator[torch.Tensor], list[int]]:
    """Go on with a prompt: the next tokens_B of all samples, one after the other, and the tokens they come after.

    Args:
        settings: those of molino.generation.decode.generate.

    Raises:
        ConfigError: it is the run of a model that tells no next token.
    """
    require_next_token(loaded.model, "generate")
    tokenizer, model = loaded.tokenizer, loaded.model
    # A prompt may hold no token at all, such as white space where tokens are words.
    ids = (encode_prompt(prompt, tokenizer, loaded.prefix, loaded.line_end) if prompt else []) or [loaded.start_id]
    if len(ids) > model.block_size:
        remark(f"the prompt has {len(ids)} tokens; the model sees the last {model.block_size}, its context")
    steps = generate(
        model,
        torch.tensor(ids),
        max_new_tokens,
        generator=torch.Generator().manual_seed(seed),
        stop_id=tokenizer.end_of_text_id,
        forbidden_ids=forbidden_tokens(tokenizer, loaded.start_id, model.vocab_size),
        **settings,
    )
    # A text that starts from nothing starts after start_id, which is not part of it.
    return steps, ids[len(loaded.prefix) :] if prompt else []


def pieces(ids: Iterable[int], tokenizer: Tokenizer, context: list[int]) -> Iterator[str]:
    """Return the text of new tokens after `context`, up to <|endoftext|>, as it becomes readable."""

    def until_end() -> Iterator[int]:
        for token in ids:
            if token == tokenizer.end_of_text_id:
                return
            yield token

    return decode_text(tokenizer.decode, until_end(), context)


def check_sampling(
    seed: int,
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float,
) -> None:
    """Refuse settings of `continuations` that make no sense, before anything is loaded.

    Raises:
        ConfigError: there is one.
    """
    check_settings(temperature, top_k, top_p, samples, max_new_tokens, min_p, repetition_penalty)
    check_seed(seed)
