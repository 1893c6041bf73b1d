"""Intervals: of a share seen in some draws, and of one more draw from some values."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FEWEST = 5
"""With fewer values no regressor is used."""


def wilson(share: float, count: float) -> tuple[float, float]:
    """The two-sided 95 % interval of a share seen in `count` draws (Wilson 1927)."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def share_variance(share: float, count: float) -> float:
    """Of a share, with one success and one failure added: five right answers of five are no certainty."""
    fair = (share * count + 1) / (count + 2)
    return fair * (1 - fair) / count


def one_more(values: NDArray[np.float64], regressor: NDArray[np.float64], at: float) -> tuple[float, float, int, bool]:
    """What one more draw of `values` [N] is expected to be: (prediction, its standard error, degrees of freedom,
    whether the regressor was used). The `regressor` [N], `at` for that draw, is used where leaving one value out shows
    that it helps.
    """
    count = len(values)
    if count < 2:
        return float(values[0]), 0.0, 0, False
    without = (values - values.mean()) * count / (count - 1)  # each value less the mean of the others
    spread = float(values.std(ddof=1)) * math.sqrt(1 + 1 / count)
    if count < FEWEST or np.ptp(regressor) < 1e-9:
        return float(values.mean()), spread, count - 1, False
    design = np.stack([np.ones(count), regressor], axis=1)
    inverse = np.linalg.pinv(design.T @ design)
    weights = inverse @ design.T @ values
    residuals = values - design @ weights
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    left_out = residuals / np.clip(1 - leverage, 1e-6, None)
    if float(left_out @ left_out) >= float(without @ without):
        return float(values.mean()), spread, count - 1, False
    here = np.array([1.0, at])
    error = math.sqrt(float(residuals @ residuals) / (count - 2) * (1 + float(here @ inverse @ here)))
    return float(here @ weights), error, count - 2, True
