"""GBC: how much the classes overlap in feature space, as Gaussians."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from crosstask.options import component, option
from crosstask_discovery.arrays import class_numbers, one_hot, view
from crosstask_discovery.estimator import Estimator, Seen

AT_ONCE = 2**16
"""Differences of means of classes that are looked at together."""


def gbc(features: Any, labels: Any, dimensions: int = 64, covariance: str = "spherical") -> float:
    """-Σ_{a ≠ b} exp(-D(a, b)) over ordered pairs of classes, of features [N, D] and labels [N]: D is Bhattacharyya's
    distance of Gaussians fitted to the classes (Pándy et al. 2022, equations 1 to 3), whose covariance is `spherical`
    or `diagonal`, on the first `dimensions` principal components.

    At most 0, which is best; 0 for a single class. To the variances of a class 1 % of the mean variance within all
    classes is added, so that a class with one sample, or one that does not vary, has a distance too.
    """
    looked = view(features)
    numbers = class_numbers(labels, len(looked))
    if numbers.max() == 0:
        return 0.0
    left, squares = looked.spectrum
    chosen = np.argsort(squares)[::-1][:dimensions]
    if len(chosen) == 0:  # features that do not vary: the classes overlap wholly
        return -float(int(numbers.max()) * (int(numbers.max()) + 1))
    rows = left[:, chosen] * np.sqrt(squares[chosen])
    members = one_hot(numbers)
    sizes = members.sum(axis=0)[:, None]
    means = members.T @ rows / sizes
    variances = members.T @ (rows - means[numbers]) ** 2 / sizes  # [C, d]
    if covariance == "spherical":
        variances = np.repeat(variances.mean(axis=1, keepdims=True), rows.shape[1], axis=1)
    floor = 0.01 * (variances * sizes).sum() / (len(rows) * rows.shape[1])
    variances = variances + max(floor, 1e-12 * squares.max() / len(rows))
    logs = np.log(variances).sum(axis=1)
    total, step = 0.0, max(1, AT_ONCE // variances.size)
    for start in range(0, len(means), step):  # some classes against all: [c, C, d]
        part = slice(start, start + step)
        both = (variances[part, None] + variances) / 2
        distance = ((means[part, None] - means) ** 2 / both).sum(axis=2) / 8
        distance += (np.log(both).sum(axis=2) - (logs[part, None] + logs) / 2) / 2
        overlap = np.exp(-distance)
        overlap[np.arange(len(overlap)), np.arange(len(overlap)) + start] = 0.0  # with itself
        total += overlap.sum()
    return -float(total)


@component
class GBC(Estimator):
    """Estimates transfer by `gbc`."""

    known_as: ClassVar[str] = "gbc"

    dimensions: int = option(64, ge=1, help="principal components of the features")
    covariance: str = option("spherical", choices=("spherical", "diagonal"), help="shape of a class")

    def estimate(self, seen: Seen) -> float:
        return gbc(seen.view, seen.targets, self.dimensions, self.covariance)
