"""What is read before each token: the same with and without a cache, alone and beside others, also past the context."""

import pytest
import torch
from families import FAMILIES, ON_COUNTS, make, random_tokens

from molino.generation.context import Context, window_start
from molino.generation.decode import generate
from molino.models.cache import NOTHING
from molino.models.counting import BEFORE

BLOCK = 12
NAMES = pytest.mark.parametrize("name", FAMILIES)


def precise(name):
    """In float64 no rounding can flip a token."""
    return make(name, BLOCK).double()


def run(model, prompts, count=40, **settings):
    generator = torch.Generator().manual_seed(0)
    steps = generate(model, prompts, count, **{"generator": generator, "temperature": 0, **settings})
    return torch.stack(list(steps), dim=1).tolist()


def before(model, tokens_T, start):
    """What a model that counts reads before a window, by hand."""
    if not model.capabilities.counts:
        return {}
    there = tokens_T[:start].tolist()
    return {"before_BR": torch.tensor([([NOTHING] * BEFORE + there)[len(there) :]])}


@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 7, 12, 64])
def test_the_window_moves_by_a_quarter_of_the_context(block_size):
    start = 0
    for end in range(1, 5 * block_size + 9):
        while end - start > block_size:
            start += max(1, block_size // 4)
        assert window_start(end, block_size) == start


@NAMES
@pytest.mark.parametrize("length", [1, 5, 12, 30])
def test_a_cache_changes_no_token(name, length):
    model, prompt_T = precise(name), random_tokens(length)
    assert run(model, prompt_T) == run(model, prompt_T, cached=False)
    sampled = {"temperature": 1.0, "samples": 3}
    texts = run(model, prompt_T, **sampled)
    assert texts == run(model, prompt_T, cached=False, **sampled) and len({tuple(text) for text in texts}) == 3


@NAMES
@pytest.mark.parametrize("cached", [True, False])
def test_logits_across_the_end_of_the_context(name, cached):
    """At each of 40 steps those of the window, read whole, by hand."""
    model, prompts = make(name, BLOCK), [random_tokens(n, seed=n) for n in (3, 12, 7)]
    with torch.inference_mode():
        texts = Context(model, prompts, 1, 40, cached)
        for step in range(40):
            logits_BV, next_B = texts.logits(), random_tokens(3, seed=step)
            for row, prompt_T in enumerate(prompts):
                start = window_start(len(prompt_T), BLOCK)
                wanted_V = model(prompt_T[None, start:], **before(model, prompt_T, start))[0, -1]
                torch.testing.assert_close(logits_BV[row], wanted_V, atol=1e-5, rtol=0)
                prompts[row] = torch.cat((prompt_T, next_B[row : row + 1]))
            texts.append(next_B)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", ["kneser-ney", *ON_COUNTS])
def test_counts_read_what_a_long_prompt_has_before_the_context(name, cached):
    """Also in a context that is shorter than the n-grams."""
    block, prompt_T = 3, random_tokens(20, seed=5)
    model = make(name, block)
    with torch.inference_mode():
        logits_V = Context(model, [prompt_T], 1, 5, cached).logits()[0]
        wanted_V = model(prompt_T[None, -block:], **before(model, prompt_T, len(prompt_T) - block))[0, -1]
        torch.testing.assert_close(logits_V, wanted_V, atol=1e-5, rtol=0)
        if name == "kneser-ney":
            torch.testing.assert_close(logits_V, model(prompt_T[None])[0, -1])


@NAMES
@pytest.mark.parametrize("cached", [True, False])
def test_rows_go_on_as_if_they_were_alone(name, cached):
    model, prompts = precise(name), [random_tokens(n, seed=n) for n in (2, 12, 20, 7, 1)]
    together = run(model, prompts, cached=cached)
    assert together == [run(model, prompt_T)[0] for prompt_T in prompts]


def test_samples_come_prompt_by_prompt_and_share_its_reading():
    model, prompts = precise("llama-grouped"), [random_tokens(n, seed=n) for n in (6, 4)]
    sizes = []
    model.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape)))
    texts = run(model, prompts, count=4, samples=3)
    assert sizes == [(2, 5), *[(6, 1)] * 4]
    assert texts[0] == texts[2] == run(model, prompts[0], count=4)[0]
    assert texts[3] == texts[5] == run(model, prompts[1], count=4)[0]


def test_the_cache_is_as_large_as_the_texts_can_become_and_of_the_models_dtype():
    for block_size, new, capacity in ((BLOCK, 40, BLOCK), (64, 10, 15)):
        model = make("llama", block_size).bfloat16()
        cache = Context(model, [random_tokens(5)], 2, new, cached=True).cache
        assert cache.capacity == capacity and {t.dtype for t in cache.keys} == {torch.bfloat16}
        assert cache.keys[0].shape == (2, 4, capacity, 4)
    assert Context(model, [random_tokens(5)], 2, new, cached=False).cache is None


def test_what_a_row_has_seen_is_its_own_text():
    prompts = [torch.tensor([5, 6, 5]), torch.tensor([7]), torch.tensor([0, 9])]
    texts = Context(make("gpt", BLOCK), prompts, 2, 4, cached=False)
    seen = [row.nonzero().flatten().tolist() for row in texts.seen(23)]
    assert seen == [[5, 6], [5, 6], [7], [7], [0, 9], [0, 9]]


def test_a_repetition_penalty_beside_other_rows():
    model, prompts = precise("gpt"), [random_tokens(n, seed=n) for n in (2, 9)]
    together = run(model, prompts, repetition_penalty=1.5)
    assert together == [run(model, prompt_T, repetition_penalty=1.5)[0] for prompt_T in prompts]
    assert together != run(model, prompts)


@NAMES
@pytest.mark.parametrize("cached", [True, False])
def test_a_long_prompt_is_cut_to_its_last_tokens(name, cached):
    """By hand: the last BLOCK tokens are a text of their own, beside others of any length."""
    model, prompts = make(name, BLOCK), [random_tokens(n, seed=n) for n in (30, 13, 4)]
    with torch.inference_mode():
        logits_BV = Context(model, prompts, 1, 5, cached).logits()
        for row, prompt_T in enumerate(prompts):
            torch.testing.assert_close(logits_BV[row], model(prompt_T[None, -BLOCK:])[0, -1], atol=1e-5, rtol=0)


@NAMES
@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 5])
def test_a_cache_changes_no_token_of_the_smallest_contexts(name, block_size):
    model, prompts = make(name, block_size).double(), [random_tokens(n, seed=n) for n in (1, 2, 7)]
    assert run(model, prompts, count=12) == run(model, prompts, count=12, cached=False)


def test_under_autocast_the_cache_is_of_its_dtype():
    model = make("llama-grouped", BLOCK)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        cache = Context(model, [random_tokens(5)], 2, 3, cached=True).cache
    assert {tensor.dtype for tensor in (*cache.keys, *cache.values)} == {torch.bfloat16}


def greedy_by_hand(model, prompt_T, count, penalty):
    """Loops over the tokens of prompt and continuation: what is penalised is what the text holds, and no padding."""
    text = prompt_T.tolist()
    for _ in range(count):
        logits_V = model(torch.tensor([text[window_start(len(text), BLOCK) :]]))[0, -1]
        for token in set(text):
            logits_V[token] = logits_V[token] / penalty if logits_V[token] > 0 else logits_V[token] * penalty
        text.append(int(logits_V.argmax()))
    return text[len(prompt_T) :]


@pytest.mark.parametrize("name", ["gpt", "llama-window"])
@pytest.mark.parametrize("cached", [True, False])
def test_a_repetition_penalty_counts_prompt_and_continuation_by_hand(name, cached):
    model, prompts = precise(name), [random_tokens(n, seed=n) for n in (2, 9)]
    texts = run(model, prompts, repetition_penalty=1.5, cached=cached)
    with torch.no_grad():
        assert texts == [greedy_by_hand(model, prompt_T, 40, 1.5) for prompt_T in prompts]


def read_whole(model, tokens):
    """The logits after a text that began within the context, of its window alone, read anew."""
    start, tokens_T = window_start(len(tokens), BLOCK), torch.tensor(tokens)
    return model(tokens_T[None, start:], **before(model, tokens_T, start))[0, -1]


@NAMES
@pytest.mark.parametrize("cached", [True, False])
def test_a_text_that_is_followed_by_another_is_as_if_it_were_read_anew(name, cached):
    """Turns of any length, some that take back what was drawn, also past the end of the context."""
    model, text = make(name, BLOCK), random_tokens(3).tolist()
    with torch.inference_mode():
        texts = Context(model, [torch.tensor(text)], 1, 2, cached)
        for turn, (back, added, drawn) in enumerate(
            [(0, 2, 2), (1, 1, 3), (3, 0, 1), (0, 1, 4), (2, 9, 2), (0, 30, 5)]
        ):
            text = [*text[: len(text) - back], *random_tokens(added, seed=turn).tolist()]
            texts.follow(torch.tensor(text), drawn)
            for step in range(drawn):
                torch.testing.assert_close(texts.logits()[0], read_whole(model, text), atol=1e-5, rtol=0)
                next_B = random_tokens(1, seed=100 + step)
                texts.append(next_B)
                text.append(int(next_B))


def test_what_was_read_is_not_read_again():
    model, read = make("llama", 64), []
    model.register_forward_pre_hook(lambda module, args: read.append(args[0].shape[1]))
    with torch.inference_mode():
        texts = Context(model, [torch.tensor([5, 6, 7])], 1, 2, True)
        for _ in range(2):
            texts.logits()
            texts.append(torch.tensor([8]))
        assert read == [2, 1, 1] and texts.cache.capacity == 5
        # The token that was drawn last has not been read; of five that are added the last waits for its logits.
        texts.follow(torch.tensor([5, 6, 7, 8, 8, 9, 9, 9, 9, 9]), 3)
        texts.logits()
        assert read == [2, 1, 1, 5, 1] and texts.cache.capacity == 13
        texts.append(torch.tensor([4]))
        texts.follow(torch.tensor([5, 6, 7, 3]), 3)  # all of it but the last token has been read
        texts.logits()
        assert read == [2, 1, 1, 5, 1, 1] and texts.cache.capacity == 13
