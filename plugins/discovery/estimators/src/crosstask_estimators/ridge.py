"""Ridge: how well a linear head fits the labels of samples that it was not fitted to."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from crosstask.options import component
from crosstask_discovery.arrays import Matrix, centred, left_spectrum, targets, view
from crosstask_discovery.estimator import Estimator, Seen

PENALTIES = tuple(float(p) for p in np.logspace(-4, 3, 15))
"""Tried, relative to the mean squared length of the centred features."""


def ridge(features: Any, labels: Any) -> float:
    """1 - PRESS / PRESS of the mean: the share of the variance of the labels (one column per class, or regression
    targets [N, K]) that ridge regression on features [N, D] explains of samples left out, one at a time, with the
    penalty of `PENALTIES` that does best. At most 1; 0 or less means that a linear head learns nothing.

    0 for a single class, targets that do not vary, or fewer than three samples.
    """
    looked = view(features)
    count = len(looked)
    wanted, _ = targets(labels, count)
    if count < 3 or (wanted == wanted[0]).all():
        return 0.0
    moved = wanted - wanted.mean(axis=0)
    alone = ((moved * count / (count - 1)) ** 2).sum()
    left, squares = looked.spectrum
    if len(squares) == 0:
        return 0.0
    kept = squares / (squares + np.array(PENALTIES)[:, None] * squares.sum() / count)  # [penalties, r]
    others = np.maximum(1 - 1 / count - left**2 @ kept.T, 1e-12).T  # [penalties, N]: 1 less the leverages
    inside = left.T @ moved
    errors = [
        (((moved - left @ (own[:, None] * inside)) / rest[:, None]) ** 2).sum()
        for own, rest in zip(kept, others, strict=True)
    ]
    return float(1 - min(errors) / alone)


def left_out_residuals(features: Matrix, wanted: Matrix, penalty: float) -> Matrix:
    """[N, K]: for each sample what ridge regression with an intercept, fitted to the others, misses it by (Allen 1974).

    e_i / (1 - h_i), with the residuals e and leverages h of one fit to all; the intercept is not penalised.
    """
    left, squares = left_spectrum(centred(features))
    return _left_out(left, squares, wanted - wanted.mean(axis=0), penalty)


def _left_out(left: Matrix, squares: Matrix, moved: Matrix, penalty: float) -> Matrix:
    kept = squares / (squares + penalty)
    fitted = left @ (kept[:, None] * (left.T @ moved))
    leverage = 1 / len(left) + (left**2 * kept).sum(axis=1)
    missed: Matrix = (moved - fitted) / np.maximum(1 - leverage, 1e-12)[:, None]
    return missed


@component
class Ridge(Estimator):
    """Estimates transfer by `ridge`. For classification and regression."""

    known_as: ClassVar[str] = "ridge"
    regression: ClassVar[bool] = True

    def estimate(self, seen: Seen) -> float:
        return ridge(seen.view, seen.targets)
