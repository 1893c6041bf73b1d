"""The estimators' mean, put on the scale of coefficients."""

from __future__ import annotations

import numpy as np

from crosstask_gnn.pairs import Array, Pairs, mean_score


def mean_z(pairs: Pairs, shrinkage: float = 1.0) -> Array:
    """[n, n]: shrunk mean of the target + slope * mean z-score of the estimators inside the target.

    The slope is fitted to what was measured and kept from turning negative: better estimates speak for a source.
    """
    seen, score = pairs.measured, mean_score(pairs.estimates)
    values = np.where(seen, pairs.known, 0.0)
    overall, slope = values.sum() / max(seen.sum(), 1), 0.0
    columns = np.full(pairs.count, overall)
    count = seen.sum(0)
    for _ in range(20):
        rest = np.where(seen, values - slope * score, 0.0)
        columns = (rest.sum(0) + shrinkage * overall) / (count + shrinkage)
        rest = np.where(seen, values - columns, 0.0)
        slope = max(0.0, float((rest * score).sum() / max((score**2)[seen].sum(), 1e-12)))
    line: Array = columns + slope * score
    return line
