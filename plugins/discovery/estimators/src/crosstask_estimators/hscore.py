"""H-score: spread between the class means relative to the spread of all features."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from crosstask.options import component
from crosstask_discovery.arrays import class_numbers, one_hot, view
from crosstask_discovery.estimator import Estimator, Seen


def hscore(features: Any, labels: Any) -> float:
    """Shrunken H-score of features [N, D] and labels [N]: (1 - δ) tr(Σ_δ⁻¹ Σ_between), where Σ_δ = (1 - δ) Σ + δ μ I is
    Ledoit and Wolf's estimate of the covariance (Bao et al. 2019, definition 2; Ibrahim et al. 2022, section 4).

    At least 0, higher is better; 0 for a single class, or features that do not vary. All in the space that the N rows
    span: features that are constant, or more features than samples, need no pseudo-inverse.
    """
    looked = view(features)
    rows, numbers = looked.centred, class_numbers(labels, len(looked))
    left, squares = looked.spectrum
    if len(squares) == 0 or numbers.max() == 0:
        return 0.0
    count, width = rows.shape
    variances = squares / count  # the eigenvalues of Σ that are not zero
    level = variances.sum() / width
    shrinkage = _ledoit_wolf(rows, variances, level)
    members = one_hot(numbers)
    sizes = members.sum(axis=0)
    # Class means along the principal axes: V' Xᵀ e_c / n_c = S U' e_c / n_c.
    means = np.sqrt(squares)[:, None] * (left.T @ members) / sizes
    shrunk = (1 - shrinkage) * variances + shrinkage * level
    return float((1 - shrinkage) * ((means**2 * sizes / count).sum(axis=1) / shrunk).sum())


def _ledoit_wolf(rows: Any, variances: Any, level: float) -> float:
    """The shrinkage δ of Ledoit and Wolf (2004), lemma 3.4, of centred rows [N, D]."""
    count, width = rows.shape
    lengths = (rows**2).sum(axis=1)
    squared = (variances**2).sum()  # |Σ|²
    distance = squared - width * level**2  # |Σ - μI|²
    error = ((lengths**2).sum() / count - squared) / count  # mean of |x xᵀ - Σ|² / N
    return 1.0 if distance <= 0 else float(np.clip(error / distance, 0.0, 1.0))


@component
class HScore(Estimator):
    """Estimates transfer by `hscore`."""

    known_as: ClassVar[str] = "hscore"

    def estimate(self, seen: Seen) -> float:
        return hscore(seen.view, seen.targets)
