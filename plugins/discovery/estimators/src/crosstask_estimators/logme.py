"""LogME: the evidence of a Bayesian linear model of the labels on the source's features."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from crosstask.options import component
from crosstask_discovery.arrays import Matrix, left_spectrum, targets, view
from crosstask_discovery.estimator import Estimator, Seen

_GRID = np.log(np.logspace(-8, 8, 81))  # of alpha / beta, relative to the largest squared singular value


def logme(features: Any, labels: Any) -> float:
    """LogME of features [N, D] and labels [N] (or regression targets [N, K]): the log evidence per sample, the mean
    over classes (You et al. 2021, equations 1 to 3). Higher is better; 0 for a single class.

    The evidence of y = F w + noise with w ~ N(0, 1/alpha) and noise ~ N(0, 1/beta) is maximised over both. For a fixed
    ratio alpha/beta the best beta is known in closed form, and so a search in one variable is left, which finds the
    maximum even where the fixed-point iteration of the paper oscillates. The ratio is kept within 1e±8 of the largest
    squared singular value: where the features fit the labels without error the evidence has no maximum.
    """
    rows = view(features).rows
    wanted, classes = targets(labels, len(rows))
    if classes and wanted.shape[1] < 2:
        return 0.0
    if not classes:
        wanted = wanted[:, np.abs(wanted).max(axis=0) > 0]
        if wanted.shape[1] == 0:
            return 0.0
    count = len(rows)
    left, squares = left_spectrum(rows)
    inside = (left.T @ wanted) ** 2
    outside = np.maximum((wanted**2).sum(axis=0) - inside.sum(axis=0), 0.0)
    largest = squares.max(initial=0.0) or 1.0

    # On the grid all columns have the same ratios.
    ratios = np.exp(_GRID) * largest
    spread = np.log1p(squares / ratios[:, None]).sum(axis=1) / count
    unexplained = (ratios[:, None] / (ratios[:, None] + squares)) @ inside + outside  # [R, K]
    tried = np.log(unexplained / count) + spread[:, None]
    best = tried.argmin(axis=0)
    low, high = _GRID[np.maximum(best - 1, 0)], _GRID[np.minimum(best + 1, len(_GRID) - 1)]
    found = np.minimum(_least(squares / largest, inside, outside, count, low, high, _GRID[best]), tried.min(axis=0))
    return float(-0.5 * (np.log(2 * np.pi) + 1 + found).mean())


def _least(
    squares: Matrix, inside: Matrix, outside: Matrix, count: int, low: Matrix, high: Matrix, point: Matrix
) -> Matrix:
    """[K]: the least cost between `low` and `high`: the log of the best 1/beta plus the log determinant per sample.

    Where its derivative by the log of the ratio is 0: by Newton's method from `point`, and by bisection where that
    would leave what is known to hold it.
    """
    for _ in range(60):
        ratio = np.exp(point)
        total = ratio + squares[:, None]
        kept, lost = ratio / total, squares[:, None] / total
        moved = kept * lost  # the derivative of `kept`, and of -`lost`
        unexplained = (inside * kept).sum(axis=0) + outside
        first = (inside * moved).sum(axis=0) / unexplained
        slope = first - lost.sum(axis=0) / count
        curve = (inside * moved * (lost - kept)).sum(axis=0) / unexplained - first**2 + moved.sum(axis=0) / count
        low, high = np.where(slope > 0, low, point), np.where(slope > 0, point, high)
        newton = point - np.divide(slope, curve, out=np.full_like(slope, np.inf), where=curve > 0)
        following = np.where((low <= newton) & (newton <= high), newton, (low + high) / 2)
        step, point = np.abs(following - point).max(), following
        if step < 1e-9:  # the cost is flat there: it is off by the square of this
            break
    ratio = np.exp(point)
    unexplained = (inside * ratio / (ratio + squares[:, None])).sum(axis=0) + outside
    found: Matrix = np.log(unexplained / count) + np.log1p(squares[:, None] / ratio).sum(axis=0) / count
    return found


@component
class LogME(Estimator):
    """Estimates transfer by `logme`. For classification and regression."""

    known_as: ClassVar[str] = "logme"
    regression: ClassVar[bool] = True

    def estimate(self, seen: Seen) -> float:
        return logme(seen.view, seen.targets)
