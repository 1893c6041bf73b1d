"""LogME: the evidence of a Bayesian linear model of the labels on the source's features."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from crosstask.options import component
from crosstask_discovery.arrays import Matrix, left_spectrum, matrix, scaled, targets
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
    rows = scaled(matrix(features))
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

    def cost(log_ratio: Matrix) -> Matrix:
        """log of the best 1/beta plus the log determinant per sample, for ratios [R, K]."""
        ratio = np.exp(log_ratio)[:, None] * largest
        spread = np.log1p(squares[:, None] / ratio).sum(axis=1) / count
        unexplained = (inside * ratio / (ratio + squares[:, None])).sum(axis=1) + outside
        return np.log(unexplained / count) + spread

    tried = cost(np.repeat(_GRID[:, None], wanted.shape[1], axis=1))
    best = tried.argmin(axis=0)
    low, high = _GRID[np.maximum(best - 1, 0)], _GRID[np.minimum(best + 1, len(_GRID) - 1)]
    golden = (np.sqrt(5) - 1) / 2
    for _ in range(40):  # golden section, all columns at once: 0.618^40 of a grid step
        left_try, right_try = high - golden * (high - low), low + golden * (high - low)
        go_left = cost(left_try[None])[0] < cost(right_try[None])[0]
        low, high = np.where(go_left, low, left_try), np.where(go_left, right_try, high)
    found = np.minimum(cost(((low + high) / 2)[None])[0], tried.min(axis=0))
    return float(-0.5 * (np.log(2 * np.pi) + 1 + found).mean())


@component
class LogME(Estimator):
    """Estimates transfer by `logme`. For classification and regression."""

    known_as: ClassVar[str] = "logme"
    regression: ClassVar[bool] = True

    def estimate(self, seen: Seen) -> float:
        return logme(seen.features, seen.targets)
