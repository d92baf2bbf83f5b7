"""Which examples make a batch, and batches of unequal sizes against the examples one at a time."""

import numpy as np
import pytest
import torch

from molino.base.errors import DataError
from molino.data.batches import Rows
from molino.data.examples_drawn import POOL, ByLength, ByTokens, Examples, draw_examples

STEPS = np.arange(3, 6)


def some_sizes(count: int, fields: int = 2) -> np.ndarray:
    return np.ceil(np.random.default_rng(0).lognormal(2.5, 0.5, (count, fields))).astype(int)


# Batches of equally many examples


@pytest.mark.parametrize(
    ("count", "batch"), [(100, 10), (103, 10), (7, 10), (1, 3), (3, 2), (10, 1), (4 * POOL + 3, 4), (5, 12), (1000, 7)]
)
def test_every_example_comes_once_an_epoch(count, batch):
    lengths = np.random.default_rng(0).integers(1, 50, count)
    order, epochs = ByLength(lengths, 5, batch), 5
    assert order.count == count / batch
    drawn = np.concatenate([order(number) for number in range(-(-epochs * count // batch))])
    drawn = drawn[: epochs * count].reshape(epochs, count)
    assert (np.sort(drawn, axis=1) == np.arange(count)).all()
    if count > 5:
        assert len({tuple(row) for row in drawn.tolist()}) == epochs


@pytest.mark.parametrize("count", [4000, 4003])
def test_batches_are_of_near_equal_lengths_in_no_order_of_lengths(count):
    batch, generator = 16, np.random.default_rng(1)
    lengths = np.ceil(generator.lognormal(3, 0.4, count)).astype(int)
    order = ByLength(lengths, 0, batch)
    drawn = lengths[np.stack([order(number) for number in range(2 * count // batch)])]
    padding = 1 - drawn.sum() / (drawn.max(axis=1) * batch).sum()
    by_chance = lengths[generator.permutation(count)][: count // batch * batch].reshape(-1, batch)
    assert padding < 0.05 < 0.3 < 1 - by_chance.sum() / (by_chance.max(axis=1) * batch).sum()
    # Short ones come as early as long ones.
    assert abs(np.corrcoef(drawn.mean(axis=1), np.arange(len(drawn)))[0, 1]) < 0.15


# Batches of equally many tokens


@pytest.mark.parametrize(("count", "room"), [(1000, 400), (1000, 30), (3, 10_000), (1, 1), (50, 1)])
def test_batches_by_tokens_are_full_and_hold_every_example_once_an_epoch(count, room):
    sizes = some_sizes(count)
    order = ByTokens(sizes, 5, room)
    batches = int(order.count)
    epochs = [[order(epoch * batches + number) for number in range(batches)] for epoch in range(3)]
    for drawn in epochs:
        assert (np.sort(np.concatenate(drawn)) == np.arange(count)).all()
        costs = [len(rows) * sizes[rows].max(axis=0).sum() for rows in drawn]
        assert all(cost <= room or len(rows) == 1 for cost, rows in zip(costs, drawn, strict=True))
    if room == 400:
        tokens, padded = sizes.sum(), sum(len(rows) * sizes[rows].max(axis=0).sum() for rows in epochs[0])
        assert tokens / padded > 0.75 and padded / batches / room > 0.75
        held = [{frozenset(rows.tolist()) for rows in drawn} for drawn in epochs]
        assert len(held[0] & held[1]) < batches / 4
        lengths = [sizes[rows].mean() for rows in epochs[0]]
        assert abs(np.corrcoef(lengths, np.arange(batches))[0, 1]) < 0.35


ORDERS = {
    "length": lambda seed: ByLength(some_sizes(103, 1)[:, 0], seed, 10),
    "tokens": lambda seed: ByTokens(some_sizes(103), seed, 200),
}


@pytest.mark.parametrize("make", ORDERS.values(), ids=ORDERS)
def test_orders_are_a_pure_function_of_seed_and_number(make):
    first, again = make(5), make(5)
    whole = [first(number) for number in range(60)]
    for number in (37, 0, 59, 3, *range(60)):  # in any order, also across epochs and back
        assert (again(number) == whole[number]).all()
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(whole, map(make(6), range(60)), strict=True))


# Blocks


def length_of(row: int) -> int:
    return 1 + row * 7 % 12


def taken(rows: np.ndarray) -> Rows:
    """Row r holds 100 * r + 1, 100 * r + 2, ... and zeros behind; `odd` counts its odd tokens."""
    lengths = 1 + rows * 7 % 12
    places = np.arange(lengths.max())
    tokens = np.where(places < lengths[:, None], 100 * rows[:, None] + 1 + places, 0)
    return Rows({"tokens": tokens, "numbers": rows}, {"odd": (tokens % 2).sum(axis=1)})


EXAMPLES = Examples(taken, np.array([[length_of(row)] for row in range(90)]), 3)


@pytest.mark.parametrize("asked", [(6, None), (12, None), (6, 60), (6, 100)], ids=str)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_micro_batch_is_as_long_as_its_longest_example_and_shared_by_processes(asked, accumulate):
    order = EXAMPLES.order(*asked)
    alone = draw_examples(EXAMPLES, order, ("loss", "odd"), STEPS, accumulate)
    shares = [draw_examples(EXAMPLES, order, ("loss", "odd"), STEPS, accumulate, rank, 3) for rank in range(3)]
    elements = 0
    for s, micro_batches in enumerate(alone.steps()):
        assert len(micro_batches) == accumulate
        for a, (fields, weights) in enumerate(micro_batches):
            rows = order(int(STEPS[s]) * accumulate + a)
            assert fields["numbers"].tolist() == rows.tolist()
            assert fields["tokens"].shape == (len(rows), max(map(length_of, rows)))
            for row, ids in zip(rows, fields["tokens"].tolist(), strict=True):
                assert [id for id in ids if id] == [100 * row + 1 + i for i in range(length_of(row))]
            mine = [share.fields[s][a] for share in shares]
            assert torch.cat([each["numbers"] for each in mine]).tolist() == rows.tolist()
            assert all(each["tokens"].shape[1] == max(map(length_of, each["numbers"].tolist())) for each in mine)
            elements += fields["tokens"].numel()
            assert weights.keys() == {"loss", "odd"}
        # A mean over shares, weighted so and averaged over processes, is the mean over whatever counts in the step.
        tokens = [field["tokens"] for field in alone.fields[s]]
        for part, total in (("loss", sum(map(len, tokens))), ("odd", sum(int((each % 2).sum()) for each in tokens))):
            for a in range(accumulate):
                for share in shares:
                    mine = share.fields[s][a]["tokens"]
                    count = len(mine) if part == "loss" else int((mine % 2).sum())
                    assert share.weights[part][s][a] == pytest.approx(3 * count / total)
    assert len(alone) == len(STEPS) and alone.elements(("tokens",)) == elements


def test_a_batch_that_is_too_small_for_the_processes_is_refused():
    with pytest.raises(DataError, match="shared by 4 processes"):
        draw_examples(EXAMPLES, EXAMPLES.order(2), ("loss",), STEPS, 1, 0, 4)
