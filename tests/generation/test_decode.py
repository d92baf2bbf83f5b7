"""The decoding loop: exact frequencies, greedy by hand, independence of samples, stops."""

import math

import pytest
import torch
from torch import nn

from molino.base.errors import ConfigError, DataError, NonFiniteError
from molino.generation.decode import draw, generate
from molino.models.cache import CacheShape
from molino.models.capabilities import Capabilities


class Windowed(nn.Module):
    """Logits depend on all tokens in the window and on their places; dropout makes train mode visible.

    It knows no cache: what the loop does with one is tested on real models, in test_context.py.
    """

    def __init__(self, vocab_size: int = 11, block_size: int = 6):
        super().__init__()
        self.block_size = block_size
        self.token = nn.Embedding(vocab_size, 16)
        self.place = nn.Embedding(block_size, 16)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, vocab_size)

    def forward(self, tokens_BT):
        T = tokens_BT.shape[1]
        x_BTC = self.token(tokens_BT) * self.place(torch.arange(T))
        return self.head(3 * self.drop(x_BTC.cumsum(1)))


class Fixed(nn.Module):
    """The same distribution after every token."""

    def __init__(self, probabilities: list[float]):
        super().__init__()
        self.block_size, self.capabilities = 4, Capabilities(cache=CacheShape(0, 0, 0))
        self.logits_V = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, tokens_BT, cache=None):
        if cache is not None:
            cache.advance(tokens_BT.shape[1])
        return self.logits_V.expand(*tokens_BT.shape, -1)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Windowed().double()


def run(model, prompt=(1, 2), count=20, seed=0, **settings) -> list[list[int]]:
    """Token lists, one a sample."""
    generator = torch.Generator().manual_seed(seed)
    settings = {"cached": isinstance(model, Fixed), **settings}
    return torch.stack(list(generate(model, torch.tensor(prompt), count, generator=generator, **settings)), 1).tolist()


def chi_square(tokens: list[int], probabilities: list[float]) -> float:
    counts = torch.bincount(torch.tensor(tokens), minlength=len(probabilities)).tolist()
    assert all(count == 0 for count, p in zip(counts, probabilities, strict=True) if p == 0)
    expected = [p * len(tokens) for p in probabilities]
    return sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True) if e)


P = [0.4, 0.3, 0.2, 0.06, 0.04]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, P),
        ({"temperature": 0.5}, [p * p / sum(q * q for q in P) for p in P]),
        ({"top_k": 3}, [4 / 9, 3 / 9, 2 / 9, 0, 0]),
        ({"top_p": 0.65}, [4 / 7, 3 / 7, 0, 0, 0]),
        ({"min_p": 0.5}, [4 / 9, 3 / 9, 2 / 9, 0, 0]),
        ({"forbidden_ids": [0, 4]}, [0, 30 / 56, 20 / 56, 6 / 56, 0]),
        # 0.16 0.09 0.04 of temperature 0.5 and top-k 3; the first two are 0.862 of the three.
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.86}, [16 / 25, 9 / 25, 0, 0, 0]),
    ],
)
def test_frequencies_are_the_filtered_probabilities(settings, expected):
    samples = run(Fixed(P), count=200, samples=100, **settings)
    # 20,000 draws; a chi square with 4 degrees of freedom exceeds 18.5 once in a thousand.
    assert chi_square([token for sample in samples for token in sample], expected) < 18.5
    # Over samples at one step, and over steps of one sample: no stream repeats another.
    assert chi_square([sample[7] for sample in samples], expected) < 18.5
    assert chi_square(samples[3], expected) < 18.5


def test_a_draw_never_takes_a_token_without_mass():
    logits_BV = torch.tensor([[-math.inf, 0.0, -math.inf, 0.3, 0.1, -math.inf]], dtype=torch.float64).expand(3, -1)
    largest = 1 - 2.0**-53
    assert draw(logits_BV, torch.tensor([0.0, 0.5, largest], dtype=torch.float64)).tolist() == [1, 3, 4]


def test_greedy_is_argmax_over_a_window_that_moves_by_a_quarter(model):
    model.eval()
    tokens, start, stride = [1, 2], 0, 1  # a quarter of 6
    with torch.no_grad():
        for _ in range(20):
            while len(tokens) - start > model.block_size:
                start += stride
            tokens.append(int(model(torch.tensor([tokens[start:]]))[0, -1].argmax()))
    assert run(model, temperature=0, samples=2) == [tokens[2:]] * 2


def test_a_prompt_longer_than_the_window_equals_its_tail(model):
    long = [3, 1, 4, 1, 5, 9, 2, 6, 5]
    assert run(model, long) == run(model, long[-model.block_size :])
    assert run(model, long) != run(model, long[:2])


def test_a_seed_decides_and_the_global_state_is_left_alone(model):
    state = torch.get_rng_state()
    assert run(model, seed=1) == run(model, seed=1) != run(model, seed=2)
    prompt_T = torch.tensor([1])
    assert len({tuple(map(int, generate(model, prompt_T, 20, cached=False))) for _ in range(3)}) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_moves_on(model):
    generator = torch.Generator().manual_seed(0)
    first, second = (
        [int(t) for t in generate(model, torch.tensor([1]), 20, generator=generator, cached=False)] for _ in range(2)
    )
    assert first != second


def test_a_sample_depends_neither_on_later_samples_nor_on_the_length(model):
    many = run(model, samples=5, count=20)
    assert len({tuple(sample) for sample in many}) == 5
    assert run(model, samples=2, count=20) == many[:2]
    assert run(model, samples=5, count=8) == [sample[:8] for sample in many]


def test_stopped_samples_repeat_the_stop_and_all_stopped_end_the_loop(model):
    free = run(model, samples=4, count=60)
    stop = 3
    ends = [sample.index(stop) for sample in free]  # each sample meets the stop at its own step
    assert len(set(ends)) > 1
    stopped = run(model, samples=4, count=60, stop_id=stop)
    steps = max(ends) + 1
    assert steps < 60
    assert stopped == [sample[:end] + [stop] * (steps - end) for sample, end in zip(free, ends, strict=True)]


def test_forbidden_tokens_never_come_out(model):
    forbidden = [0, 3, 7]
    for settings in ({"temperature": 0}, {"temperature": 50.0}, {"top_k": 2}, {"top_p": 0.9}):
        samples = run(model, samples=20, count=20, forbidden_ids=forbidden, **settings)
        assert not {token for sample in samples for token in sample} & set(forbidden)
    assert {3, 7} & {token for sample in run(model, samples=20, count=20) for token in sample}


def test_a_chunk_changes_nothing(model):
    settings = {"samples": 3, "count": 20, "stop_id": 3, "repetition_penalty": 1.3}
    assert run(model, chunk=7, **settings) == run(model, **settings) == run(model, chunk=100, **settings)


def test_a_repetition_penalty_counts_the_prompt_and_what_was_drawn():
    # Negative logits are multiplied: a penalty of 1000 leaves a token no chance while an unseen one is left.
    for penalty, seen_again in ((1000.0, False), (1.0, True)):
        (tokens,) = run(Fixed(P), prompt=(0, 3), count=3, temperature=0, repetition_penalty=penalty)
        assert tokens == ([0, 0, 0] if seen_again else [1, 2, 4])


def test_tokens_are_plain_tensors_on_the_cpu(model):
    for tokens_B in generate(model, torch.tensor([1]), 3, samples=2, cached=False):
        assert (tokens_B.shape, tokens_B.dtype, tokens_B.device.type) == ((2,), torch.long, "cpu")
        assert not tokens_B.is_inference()
        assert not torch.is_inference_mode_enabled()
        tokens_B.zero_()  # the loop keeps its own copy


@pytest.mark.parametrize("leave", [lambda stream: list(stream), lambda stream: stream.close()])
def test_modes_are_restored_each_module_its_own(model, leave):
    model.train()
    model.head.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    stream = generate(model, torch.tensor([1]), 3, cached=False)
    next(stream)
    assert not any(module.training for module in model.modules())
    leave(stream)
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_what_cannot_be_generated_is_said_before_the_first_token(model):
    with pytest.raises(ConfigError, match="top_k=0"):
        generate(model, torch.tensor([1]), 3, top_k=0)
    for prompt_T in (torch.tensor([], dtype=torch.long), torch.tensor([[1]])):
        with pytest.raises(DataError, match="one token or more"):
            generate(model, prompt_T, 3, cached=False)
    with pytest.raises(DataError, match="there is no prompt to continue"):
        generate(model, [], 3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_model_is_named(model, value):
    model.head.bias.data[2] = value
    with pytest.raises(NonFiniteError, match="diverged"):
        next(generate(model, torch.tensor([1]), 3, cached=False))


def test_bfloat16_logits():
    assert len(run(Fixed(P).bfloat16(), samples=3, top_p=0.9)) == 3
