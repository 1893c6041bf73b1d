"""kNN against scikit-learn fitted once per sample to all the others."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from crosstask_discovery.testing import labelled
from crosstask_estimators.knn import knn


@pytest.mark.parametrize("neighbours", [1, 3, 8])
def test_leaving_one_out(neighbours: int) -> None:
    features, labels = labelled(40, 5)
    values = []
    for i in range(40):
        rest = np.arange(40) != i
        model = KNeighborsClassifier(neighbours).fit(features[rest], labels[rest])
        values.append(model.predict_proba(features[i : i + 1])[0, list(model.classes_).index(labels[i])])
    assert knn(features, labels, neighbours) == pytest.approx(np.mean(values), abs=1e-12)


def test_regression() -> None:
    features, _ = labelled(40, 3)
    values = features @ np.array([1.0, 2.0, -1.0])
    guesses = []
    for i in range(40):
        rest = np.arange(40) != i
        guesses.append(KNeighborsRegressor(3).fit(features[rest], values[rest]).predict(features[i : i + 1])[0])
    expected = 1 - ((np.array(guesses) - values) ** 2).mean() / values.var()
    assert knn(features, values, 3) == pytest.approx(expected, rel=1e-9)


def test_neighbours_at_the_same_distance_share() -> None:
    """Samples that are all alike: every other sample is as near, whatever the order they come in."""
    labels = np.array([0, 0, 0, 1, 1])
    assert knn(np.ones((5, 2)), labels, 1) == pytest.approx((3 * 2 / 4 + 2 * 1 / 4) / 5)
