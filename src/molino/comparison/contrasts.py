"""Each row against the best of its text: by how much it differs, and whether that is more than chance.

Where rows share seeds, and so the batches that each seed draws, differences are taken seed by seed. Values of p are
corrected for all pairs of rows that could have been compared: which row is the best was only known afterwards.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from molino.comparison.statistics import (
    SIGNIFICANT,
    Sample,
    describe,
    detectable,
    hedges,
    holm,
    paired,
    seeds_needed,
    welch,
)
from molino.configuration.identity import canonical

FEWEST_PAIRS = 3

if TYPE_CHECKING:
    from molino.comparison.rows import Row


@dataclass(frozen=True)
class Contrast:
    """A row beside the best one.

    Attributes:
        difference: its mean less the best's.
        effect: that in standard deviations; None where there is no spread.
        p: corrected; None where there are too few seeds.
        pairs: the differences seed by seed; None where they are not taken so.
        level: what a single p has to be below to be significant.
    """

    difference: float
    effect: float | None
    p: float | None
    pairs: Sample | None
    level: float

    @property
    def significant(self) -> bool | None:
        return None if self.p is None else self.p < SIGNIFICANT

    def power(self, one: Sample, other: Sample) -> tuple[int, float, int | None] | None:
        """Return the number of seeds, the least difference that they tell, and how many would tell this one."""
        if self.p is None:
            return None
        seeds = min(one.n, other.n)
        sd = self.pairs.sd if self.pairs else ((one.sd**2 + other.sd**2) / 2) ** 0.5
        if sd == 0:
            return None
        telling = {"level": self.level, "pairs": self.pairs is not None}
        needed = seeds_needed(self.difference, sd, **telling) if self.difference else None
        return seeds, detectable(sd, seeds, **telling), needed


def contrasts(rows: "list[Row]") -> dict[int, Contrast]:
    """Return the contrast of each row that has a best one beside it, by its place."""
    best = {row.text: row for row in rows if row.best}
    compared = {}
    for place, row in enumerate(rows):
        other, mean = best.get(row.text), row.samples[row.metric].mean
        if other is not None and row is not other and not row.pruned and mean is not None and math.isfinite(mean):
            compared[place] = (row.samples[row.metric], other.samples[row.metric], seed_by_seed(row, other))
    ps = {place: paired(pairs) if pairs else welch(one, other) for place, (one, other, pairs) in compared.items()}
    known = [place for place, p in ps.items() if p is not None]
    tests = _pairs(rows)
    corrected = dict(zip(known, holm([ps[place] for place in known], tests), strict=True))
    return {
        place: Contrast(
            one.mean - other.mean, hedges(one, other), corrected.get(place), pairs, SIGNIFICANT / max(tests, 1)
        )
        for place, (one, other, pairs) in compared.items()
    }


def seed_by_seed(row: "Row", other: "Row") -> Sample | None:
    """Return the differences of two rows that have the same seeds and draw the same batches; None of others, and of too
    few seeds for it: two differences say less than four values."""
    values = []
    for each in (row, other):
        found = {(canonical(run.seed), run.batches): run.metric(row.metric) for run in each.runs}
        values.append({key: value for key, value in found.items() if value is not None})
    return differences(*values) if len(values[0]) == len(row.runs) else None


def differences(one: Mapping[Any, float], other: Mapping[Any, float]) -> Sample | None:
    """Return the differences of values with the same keys, such as seeds and batches; None of others and of too few."""
    if len(one) < FEWEST_PAIRS or one.keys() != other.keys():
        return None
    return describe([value - other[key] for key, value in one.items()])


def _pairs(rows: "list[Row]") -> int:
    """Return how many pairs of rows could be tested."""
    testable: dict[tuple[str, ...], int] = {}
    for row in rows:
        if not row.pruned and row.samples[row.metric].sd is not None:
            testable[row.text] = testable.get(row.text, 0) + 1
    return sum(count * (count - 1) // 2 for count in testable.values())
