"""GBC against Bhattacharyya's coefficient by numerical integration, and the formula with full matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from crosstask_discovery.testing import labelled
from crosstask_estimators.gbc import gbc


def test_one_dimension_by_integration() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    values = np.where(labels == 0, rng.normal(0, 1.0, 80), rng.normal(1.5, 0.5, 80))
    spreads = [values[labels == c].var() for c in (0, 1)]
    floor = 0.01 * np.mean(spreads)
    sides = [norm(values[labels == c].mean(), np.sqrt(spreads[c] + floor)).pdf for c in (0, 1)]
    overlap = quad(lambda x: np.sqrt(sides[0](x) * sides[1](x)), -10, 10)[0]
    assert gbc(values[:, None], labels) == pytest.approx(-2 * overlap, rel=1e-6)


@pytest.mark.parametrize("covariance", ["spherical", "diagonal"])
def test_the_formula_with_matrices(covariance: str) -> None:
    features, labels = labelled(80, 6, classes=4)
    rows = features - features.mean(axis=0)
    rows = rows @ np.linalg.svd(rows, full_matrices=False)[2][:3].T  # three principal components
    means = [rows[labels == c].mean(axis=0) for c in range(4)]
    variances = np.array([rows[labels == c].var(axis=0) for c in range(4)])
    if covariance == "spherical":
        variances = np.repeat(variances.mean(axis=1, keepdims=True), 3, axis=1)
    variances = variances + 0.01 * variances.mean()
    total = 0.0
    for a in range(4):
        for b in range(4):
            if a != b:
                one, other = np.diag(variances[a]), np.diag(variances[b])
                both = (one + other) / 2
                gap = means[a] - means[b]
                distance = gap @ np.linalg.inv(both) @ gap / 8
                distance += 0.5 * np.log(np.linalg.det(both) / np.sqrt(np.linalg.det(one) * np.linalg.det(other)))
                total -= np.exp(-distance)
    assert gbc(features, labels, dimensions=3, covariance=covariance) == pytest.approx(total, rel=1e-9)


def test_a_class_with_one_sample() -> None:
    features, labels = labelled(30, 4, classes=2)
    labels[0] = 2
    assert -6 <= gbc(features, labels) < 0
    assert gbc(features[:3], [0, 1, 2]) == pytest.approx(0, abs=1e-3), "single samples do not overlap"
