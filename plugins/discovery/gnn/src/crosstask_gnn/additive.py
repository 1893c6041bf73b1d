"""Shrunk effects of sources and targets."""

from __future__ import annotations

import numpy as np

from crosstask_gnn.pairs import Array, Pairs


def additive(pairs: Pairs, shrinkage: float = 1.0, rounds: int = 50) -> Array:
    """[n, n]: mean + effect of the source + effect of the target, each effect shrunk as if `shrinkage` more
    measurements had shown none.

    The ridge solution of the two-way model, by alternating exact solutions for one kind of effect given the other.
    """
    seen = pairs.measured
    values = np.where(seen, pairs.known, 0.0)
    count = max(int(seen.sum()), 1)
    rows, columns = np.zeros(pairs.count), np.zeros(pairs.count)
    mean = values.sum() / count
    for _ in range(rounds):
        rest = np.where(seen, values - mean - rows[:, None], 0.0)
        columns = rest.sum(0) / (seen.sum(0) + shrinkage)
        rest = np.where(seen, values - mean - columns, 0.0)
        rows = rest.sum(1) / (seen.sum(1) + shrinkage)
        mean = np.where(seen, values - rows[:, None] - columns, 0.0).sum() / count
    effects: Array = mean + rows[:, None] + columns
    return effects
