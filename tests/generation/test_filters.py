"""The filters on distributions worked out by hand, with ties, and against brute force."""

import math
from itertools import combinations

import pytest
import torch
import transformers

from molino.base.errors import ConfigError
from molino.generation.filters import check_settings, min_p, repetition_penalty, temperature, top_k, top_p


def kept(logits_BV: torch.Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero().flatten().tolist() for row in logits_BV]


def logits_of(*rows: list[float], dtype=torch.float64) -> torch.Tensor:
    return torch.tensor(rows, dtype=dtype).log()


def test_temperature_sharpens_and_flattens():
    logits_BV = logits_of([0.8, 0.2])
    assert temperature(logits_BV, 1.0).softmax(-1)[0].tolist() == pytest.approx([0.8, 0.2])
    assert temperature(logits_BV, 0.5).softmax(-1)[0].tolist() == pytest.approx([0.64 / 0.68, 0.04 / 0.68])
    assert temperature(logits_BV, 2.0).softmax(-1)[0].tolist() == pytest.approx([2 / 3, 1 / 3])


def test_temperature_zero_keeps_the_first_of_the_highest():
    logits_BV = torch.tensor([[1.0, 3.0, 3.0, -math.inf], [5.0, 0.0, 0.0, 0.0]])
    assert kept(temperature(logits_BV, 0)) == [[1], [0]]


@pytest.mark.parametrize("value", [1e-320, 1e-45, 1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_temperatures_stay_distributions(value, dtype):
    p_V = temperature(torch.tensor([[1e4, -1e4, 9.0, -math.inf]], dtype=dtype), value).softmax(-1)[0]
    expected = [1 / 3, 1 / 3, 1 / 3, 0] if value > 1 else [1, 0, 0, 0]
    assert p_V.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("k", "first", "second"),
    [(1, [2], [0]), (2, [0, 2], [0, 1]), (3, [0, 1, 2], [0, 1, 2]), (4, [0, 1, 2, 3], [0, 1, 2, 3])],
)
def test_top_k_keeps_exactly_k_of_equals_the_lowest_ids(k, first, second):
    logits_BV = torch.tensor([[1.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert kept(top_k(logits_BV, k)) == [first, second]


def test_top_k_beyond_the_vocabulary_keeps_all():
    logits_BV = torch.tensor([[1.0, 1.0, 2.0]])
    assert torch.equal(top_k(logits_BV, 10**9), logits_BV)


def test_top_k_on_many_ties():
    logits_BV = torch.randint(0, 4, (50, 30), generator=torch.Generator().manual_seed(0)).float()
    for k in range(1, 31):
        for row, ids in zip(logits_BV.tolist(), kept(top_k(logits_BV, k)), strict=True):
            assert ids == sorted(sorted(range(30), key=lambda i: (-row[i], i))[:k])


@pytest.mark.parametrize(
    ("p", "count"), [(1e-9, 1), (0.5, 1), (0.9, 1), (0.9001, 2), (0.95, 2), (0.96, 3), (0.98, 3), (0.981, 4), (1, 4)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_top_p_keeps_the_exact_nucleus(p, count, dtype):
    logits_BV = logits_of([0.9, 0.05, 0.03, 0.02], [0.02, 0.05, 0.9, 0.03], dtype=dtype)
    order = [2, 1, 3, 0]
    assert kept(top_p(logits_BV, p)) == [list(range(count)), sorted(order[:count])]


def test_top_p_takes_the_lowest_ids_of_equals():
    assert kept(top_p(torch.zeros(1, 8), 0.5)) == [[0, 1, 2, 3]]
    assert kept(top_p(torch.zeros(1, 8), 0.51)) == [[0, 1, 2, 3, 4]]


def test_top_p_is_the_smallest_set_by_brute_force():
    p_BV = torch.rand(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p_BV = p_BV / p_BV.sum(-1, keepdim=True)
    for p in (0.1, 0.37, 0.6, 0.83, 0.97):
        for row, ids in zip(p_BV.tolist(), kept(top_p(p_BV.log(), p)), strict=True):
            sets = [s for size in range(1, 7) for s in combinations(range(6), size) if sum(row[i] for i in s) >= p]
            smallest = min(len(s) for s in sets)
            assert ids == list(max((s for s in sets if len(s) == smallest), key=lambda s: sum(row[i] for i in s)))


def test_what_is_excluded_stays_excluded_and_the_rest_is_untouched():
    logits_BV = torch.tensor([[-math.inf, 2.0, 1.0, -math.inf]])
    assert kept(top_k(logits_BV, 3)) == kept(top_p(logits_BV, 0.999)) == kept(temperature(logits_BV, 0.7)) == [[1, 2]]
    before_BV = logits_BV.clone()
    assert top_k(logits_BV, 1)[0, 1] == top_p(logits_BV, 0.1)[0, 1] == 2.0
    assert torch.equal(logits_BV, before_BV)


@pytest.mark.parametrize(
    ("p", "expected"), [(0, [0, 1, 2, 3]), (0.1, [0, 1, 2]), (0.25, [0, 1, 2]), (0.26, [0, 1]), (0.5, [0, 1]), (1, [0])]
)
@pytest.mark.parametrize("shift", [0.0, 1e3])
def test_min_p_compares_with_the_likeliest(p, expected, shift):
    assert kept(min_p(logits_of([0.56, 0.28, 0.14, 0.02]) + shift, p)) == [expected]


def test_min_p_1_keeps_all_of_equals():
    assert kept(min_p(torch.tensor([[2.0, 2.0, 1.0]]), 1)) == [[0, 1]]


@pytest.mark.parametrize("penalty", [0.5, 1.0, 1.5])
def test_repetition_penalty_as_in_transformers(penalty):
    logits_BV = torch.randn(3, 9, generator=torch.Generator().manual_seed(0)) * 3
    tokens_BT = torch.tensor([[0, 1, 2, 2], [8, 8, 8, 8], [3, 5, 7, 0]])
    seen_BV = torch.zeros(3, 9, dtype=torch.bool).scatter_(1, tokens_BT, True)
    expected_BV = transformers.RepetitionPenaltyLogitsProcessor(penalty)(tokens_BT, logits_BV)
    torch.testing.assert_close(repetition_penalty(logits_BV, seen_BV, penalty), expected_BV)


def test_repetition_penalty_leaves_what_may_not_be_drawn():
    logits_BV = torch.tensor([[-math.inf, 1.0]])
    assert kept(repetition_penalty(logits_BV, torch.tensor([[True, True]]), 2.0)) == [[1]]


GOOD = {"temperature": 1.0, "top_k": None, "top_p": None, "samples": 1, "max_new_tokens": 1}


@pytest.mark.parametrize(
    "changed",
    [
        *({}, {"temperature": 0}, {"top_k": 1}, {"top_p": 1}, {"top_p": 1e-9}, {"min_p": 0}, {"min_p": 1}),
        *({"repetition_penalty": 0.5}, {"samples": 100, "max_new_tokens": 10**6}),
    ],
)
def test_settings_in_range(changed):
    check_settings(**GOOD | changed)


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", value) for value in (-0.1, math.nan, math.inf)]
    + [("top_k", 0), ("top_k", -3)]
    + [("top_p", value) for value in (0, -0.5, 1.01, math.nan)]
    + [("min_p", value) for value in (-0.1, 1.01, math.nan)]
    + [("repetition_penalty", value) for value in (0, -1.0, math.inf, math.nan)]
    + [("samples", 0), ("max_new_tokens", 0)],
)
def test_settings_out_of_range_are_named_in_one_line(name, value):
    with pytest.raises(ConfigError, match=f"^{name}={value} [^\n]*$"):
        check_settings(**GOOD | {name: value})
