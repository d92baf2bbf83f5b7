"""Sums over batches and processes against the same numbers at once."""

import numpy as np
import pytest
import torch

from molino.evaluation.totals import Pairs, Totals, measure_all


def measured(rows: torch.Tensor) -> dict:
    """Sums of every shape, and rows that are kept."""
    counts = torch.zeros(3, 3, dtype=torch.long).index_put_(
        (rows[:, 0].long(), rows[:, 1].long()), torch.tensor(1), True
    )
    return {"sum": rows.sum(), "count": torch.tensor(len(rows)), "table": counts, "rows": Pairs(rows)}


ROWS = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (50, 2)).astype(np.float32))


def in_batches(rows: torch.Tensor, size: int) -> Totals:
    totals = Totals()
    for batch in rows.split(size):
        totals.add(measured(batch))
    return totals


@pytest.mark.parametrize("size", [1, 7, 50])
def test_batches_add_up(size):
    found, wanted = in_batches(ROWS, size).alone(), measured(ROWS)
    assert found["sum"] == wanted["sum"].item() and found["count"] == 50 and isinstance(found["count"], float)
    assert np.array_equal(found["table"], wanted["table"].numpy()) and found["table"].dtype == np.float64
    assert np.array_equal(found["rows"], ROWS.numpy())


def test_processes_with_unequally_many_rows_add_up():
    """As two processes would, each with the answers of both."""
    parts = [in_batches(part, 4) for part in (ROWS[:31], ROWS[31:])]
    flat = [torch.cat([total.flatten() for total in part.sums.values()]) for part in parts]
    counts = torch.tensor([[31.0], [19.0]], dtype=torch.float64)
    padded = [
        torch.cat([torch.cat(part.pairs["rows"]), torch.full((31 - n, 2), 9.0)])
        for part, n in zip(parts, (31, 19), strict=True)
    ]
    answers = {1: counts, 31: torch.stack(padded)}
    for part in parts:
        found = part.over(lambda tensor: sum(flat), lambda tensor: answers[len(tensor)])
        assert found["sum"] == ROWS.sum().item() and found["count"] == 50
        assert np.array_equal(found["rows"], ROWS.numpy())


def test_nothing_is_lost_in_a_large_sum():
    totals = Totals()
    for value in (2.0**24, 1.0, 1.0):
        totals.add({"x": torch.tensor(value)})
    assert totals.alone() == {"x": 2.0**24 + 2}


def test_a_network_is_measured_in_eval_mode_and_left_as_it_was():
    network = torch.nn.Dropout(0.5).train()
    found = measure_all(
        lambda net, batch: {"x": net(batch["x"]).sum()}, network, [{"x": torch.ones(8)}], torch.device("cpu")
    )
    assert found == {"x": 8.0} and network.training
    assert measure_all(lambda net, batch: {}, network.eval(), [{}], torch.device("cpu")) == {} and not network.training
