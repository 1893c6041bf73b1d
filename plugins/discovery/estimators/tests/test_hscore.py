"""H-score against scikit-learn's Ledoit-Wolf covariance and an explicit inverse."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from crosstask_discovery.testing import labelled
from crosstask_estimators.hscore import hscore


@pytest.mark.parametrize(("samples", "width", "classes"), [(60, 7, 3), (40, 90, 4), (30, 30, 2), (200, 5, 10)])
def test_with_an_explicit_covariance(samples: int, width: int, classes: int) -> None:
    features, labels = labelled(samples, width, classes)
    fitted = LedoitWolf().fit(features)
    means = np.stack([features[labels == c].mean(axis=0) for c in range(classes)])[labels]
    between = np.cov(means.T, bias=True)
    expected = (1 - fitted.shrinkage_) * np.trace(np.linalg.inv(fitted.covariance_) @ between)
    assert hscore(features, labels) == pytest.approx(expected, rel=1e-9)


def test_dead_features_change_only_the_shrinkage() -> None:
    """Constant features are no 0/0, and the score is that of the definition."""
    features, labels = labelled(50, 4)
    padded = np.column_stack([features, np.full((50, 3), 5.0), np.zeros((50, 2))])
    fitted = LedoitWolf().fit(padded)
    means = np.stack([padded[labels == c].mean(axis=0) for c in range(3)])[labels]
    expected = (1 - fitted.shrinkage_) * np.trace(np.linalg.inv(fitted.covariance_) @ np.cov(means.T, bias=True))
    assert hscore(padded, labels) == pytest.approx(expected, rel=1e-9)
