"""TransRate: the coding rate of all features less that of each class."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from crosstask.options import component, option
from crosstask_discovery.arrays import Matrix, class_numbers, view
from crosstask_discovery.estimator import Estimator, Seen


def transrate(features: Any, labels: Any, epsilon: float = 1e-4) -> float:
    """TransRate of features [N, D] and labels [N]: R(Z) - Σ_c (N_c / N) R(Z_c), with the coding rate
    R(Z) = ½ log det(I + Zᵀ Z / (N ε)) (Huang et al. 2022, equations 5 to 7).

    Features are centred and divided by their root mean squared length, so that the score does not depend on their
    scale. At least 0, higher is better; 0 for a single class, or features that do not vary.
    """
    looked = view(features)
    rows, numbers = looked.centred, class_numbers(labels, len(looked))
    length = np.sqrt((rows**2).sum() / len(rows))
    if length == 0 or numbers.max() == 0:
        return 0.0
    rows = rows / length
    total = 0.5 * np.log1p(looked.spectrum[1] / (length**2 * len(rows) * epsilon)).sum()
    for number in range(int(numbers.max()) + 1):
        own = rows[numbers == number]
        total -= len(own) / len(rows) * _rate(own, epsilon)
    return float(total)


def _rate(rows: Matrix, epsilon: float) -> float:
    """½ log det(I + Zᵀ Z / (N ε)), in the smaller of the two spaces."""
    inner = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    inner /= len(rows) * epsilon
    inner[np.diag_indices(len(inner))] += 1.0
    return float(np.log(np.linalg.cholesky(inner).diagonal()).sum())


@component
class TransRate(Estimator):
    """Estimates transfer by `transrate`."""

    known_as: ClassVar[str] = "transrate"

    epsilon: float = option(1e-4, gt=0, help="squared distortion of the code")

    def estimate(self, seen: Seen) -> float:
        return transrate(seen.view, seen.targets, self.epsilon)
