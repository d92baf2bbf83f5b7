"""Micro-batches that are cut to their longest row, against the rows one at a time."""

import numpy as np
import pytest
import torch

from molino.data.batches import Block, Draw, Rows, draw_block

WIDTH, STEPS = 12, np.arange(3, 6)


def length_of(row: int) -> int:
    return 1 + row * 7 % WIDTH


def rows_of(rows: np.ndarray) -> Rows:
    """Row r holds 100 * r + 1, 100 * r + 2, ... and zeros behind; of two sequences the other one is shorter."""
    places = np.arange(WIDTH)
    lengths = 1 + rows * 7 % WIDTH
    tokens = np.where(places < lengths[..., None], 100 * rows[..., None] + 1 + places, 0)
    pairs = np.stack([tokens, np.where(places < 1, tokens, 0)], axis=-2)
    fields = {"tokens": tokens, "pairs": pairs, "numbers": rows, "wide": np.repeat(rows[..., None], WIDTH, -1)}
    return Rows(fields, {}, lengths, ("tokens", "pairs"))


@pytest.mark.parametrize(("accumulate", "batch_size", "world_size"), [(1, 4, 1), (3, 4, 1), (1, 6, 2), (2, 6, 3)])
def test_a_micro_batch_is_as_long_as_its_longest_row(accumulate, batch_size, world_size):
    draw = Draw(rows_of, 10.0)
    seen, mine = [], batch_size // world_size
    for rank in range(world_size):
        block = draw_block(draw, ("loss",), STEPS, accumulate, batch_size, rank, world_size)
        elements = 0
        for step, micro_batches in zip(STEPS, block.steps(), strict=True):
            assert len(micro_batches) == accumulate
            for number, (fields, weights) in enumerate(micro_batches):
                first = (step * accumulate + number) * batch_size + rank * mine
                rows = list(range(first, first + mine))
                longest = max(map(length_of, rows))
                assert fields["numbers"].tolist() == rows and weights == {"loss": 1 / accumulate}
                assert fields["tokens"].shape == (mine, longest) and fields["pairs"].shape == (mine, 2, longest)
                assert fields["wide"].shape == (mine, WIDTH)
                assert all(field.is_contiguous() for field in fields.values())
                for row, ids in zip(rows, fields["tokens"].tolist(), strict=True):
                    whole = [100 * row + 1 + i for i in range(length_of(row))]
                    assert ids == whole + [0] * (longest - len(whole))
                assert torch.equal(fields["pairs"][:, 0], fields["tokens"])
                elements += fields["tokens"].numel() + fields["pairs"].numel() + fields["numbers"].numel()
                seen += rows
        assert block.elements(("tokens", "pairs", "numbers")) == elements
        assert block.elements(("pairs",)) == 2 * block.elements(("tokens",))
        assert block.elements(("wide",)) == len(STEPS) * accumulate * mine * WIDTH
    assert sorted(seen) == list(range(STEPS[0] * accumulate * batch_size, (STEPS[-1] + 1) * accumulate * batch_size))


def test_the_parts_of_a_batch_do_not_depend_on_the_processes():
    """Each process cuts its own rows, which are those of the whole batch."""
    alone = draw_block(Draw(rows_of, 1.0), ("loss",), STEPS, 2, 6)
    shares = [draw_block(Draw(rows_of, 1.0), ("loss",), STEPS, 2, 6, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat([share.fields["tokens"] for share in shares], dim=2), alone.fields["tokens"])
    longest = np.array([share.longest for share in shares])
    assert (longest.max(axis=0) == np.array(alone.longest)).all() and (longest < np.array(alone.longest)).any()


def test_without_lengths_nothing_is_cut():
    fields = {"tokens": torch.ones(2, 3, 4, 5), "targets": torch.ones(2, 3, 4)}
    block = Block(fields, {"loss": [[1.0] * 3] * 2})
    assert block.elements(("tokens", "targets")) == 2 * 3 * 4 * 6
    assert all(step.fields["tokens"].shape == (4, 5) for steps in block.steps() for step in steps)
