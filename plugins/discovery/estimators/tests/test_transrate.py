"""TransRate against the log determinants of its definition."""

from __future__ import annotations

import numpy as np
import pytest

from crosstask_discovery.testing import labelled
from crosstask_estimators.transrate import transrate


def rate(rows: np.ndarray, epsilon: float) -> float:
    return 0.5 * np.linalg.slogdet(np.eye(rows.shape[1]) + rows.T @ rows / (len(rows) * epsilon))[1]


@pytest.mark.parametrize(("samples", "width"), [(60, 7), (20, 50)])
@pytest.mark.parametrize("epsilon", [1e-4, 0.5])
def test_the_definition(samples: int, width: int, epsilon: float) -> None:
    features, labels = labelled(samples, width)
    rows = features - features.mean(axis=0)
    rows /= np.sqrt((rows**2).sum(axis=1).mean())
    within = sum((labels == c).mean() * rate(rows[labels == c], epsilon) for c in range(3))
    assert transrate(features, labels, epsilon) == pytest.approx(rate(rows, epsilon) - within, rel=1e-9)
