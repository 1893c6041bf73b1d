"""Which pairs to measure next: a decision on matrices alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from crosstask.errors import DataError

Matrix = NDArray[np.float64]


def next_pairs(
    mean: ArrayLike, spread: ArrayLike, open_: ArrayLike, count: int, noise: float = 0.05
) -> list[tuple[int, int]]:
    """Up to `count` pairs (source, target) to measure together, the most valuable first.

    `mean`, `spread` [n, n], row: source, column: target: what is believed of every coefficient, and its standard
    deviation (near 0 where it was measured); NaN where there is no such pair. `open_` [n, n]: the pairs that may be
    measured. `noise`: standard error of a measurement. DataError for matrices that do not fit together.

    Greedy: the pair with the largest `expected_gain` is taken, and treated as measured with the value that is believed,
    before the next one is chosen. Where none promises anything, the pairs nearest to being chosen as a source come
    first, so that a budget is spent on them.
    """
    means, spreads = np.array(mean, dtype=np.float64), np.array(spread, dtype=np.float64)
    free = np.array(open_, dtype=bool)
    if means.ndim != 2 or not means.shape == spreads.shape == free.shape:
        raise DataError(f"matrices of one shape are needed, got {means.shape}, {spreads.shape} and {free.shape}")
    if (spreads < 0).any():
        raise DataError("standard deviations must be at least 0")
    free &= np.isfinite(means) & np.isfinite(spreads)
    chosen: list[tuple[int, int]] = []
    gain = _priority(means, spreads, noise)
    while len(chosen) < count and free.any():
        source, target = np.unravel_index(np.where(free, gain, -np.inf).argmax(), gain.shape)
        chosen.append((int(source), int(target)))
        free[source, target] = False
        spreads[source, target] = _left(spreads[source, target], noise)
        column = slice(target, target + 1)  # nothing changes for other targets
        gain[:, column] = _priority(means[:, column], spreads[:, column], noise)
    return chosen


def expected_gain(mean: ArrayLike, spread: ArrayLike, noise: float = 0.05) -> Matrix:
    """[n, n]: by how much measuring a pair is expected to raise the coefficient of its target's best known source.

    The knowledge gradient for independent normal beliefs (Frazier et al. 2008, equations 4.6 and 4.7): a measurement
    with error `noise` moves the mean of the pair by a normal variable of standard deviation s = v / sqrt(v + noise²), v
    being its variance. The choice changes if this lifts the pair above the best of the others, or lowers the best below
    them: s (φ(z) + z Φ(z)), with z = -|mean - best of the others| / s. NaN where there is no pair.
    """
    means, spreads = np.asarray(mean, dtype=np.float64), np.asarray(spread, dtype=np.float64)
    moves = np.divide(spreads**2, np.hypot(spreads, noise), out=np.zeros_like(spreads), where=spreads > 0)
    # Beyond 30 standard deviations the gain is 0 in floating point
    z = -np.minimum(np.divide(_gap(means), moves, out=np.full_like(means, 30.0), where=moves > 1e-30), 30.0)
    gain = moves * np.maximum(norm.pdf(z) + z * norm.cdf(z), 0.0)
    return np.where(np.isnan(means), np.nan, gain)


def _gap(means: Matrix) -> Matrix:
    """|mean - the best of the others of the same target|; infinite where there are no others."""
    filled = np.where(np.isnan(means), -np.inf, means)
    order = np.sort(filled, axis=0)
    best = order[-1]
    second = order[-2] if len(order) > 1 else np.full_like(best, -np.inf)
    others = np.where(filled == best, second, best)
    with np.errstate(invalid="ignore"):  # -inf less -inf: no pair, and no others
        gap = np.abs(filled - others)
    return np.where(np.isnan(gap), np.inf, gap)


def _priority(means: Matrix, spreads: Matrix, noise: float) -> Matrix:
    """The expected gain, and a trace of the order in which sources would be chosen to part those without any."""
    gap = np.minimum(_gap(means), 1e6)
    priority: Matrix = expected_gain(means, spreads, noise) - 1e-12 * gap
    return priority


def _left(spread: float, noise: float) -> float:
    """Standard deviation after one measurement."""
    return float(spread * noise / np.hypot(spread, noise)) if spread > 0 else 0.0
