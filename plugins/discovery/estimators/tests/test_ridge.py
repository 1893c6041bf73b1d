"""Ridge against scikit-learn fitted once per sample to all the others."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Peer

from crosstask_discovery.testing import labelled
from crosstask_estimators.ridge import PENALTIES, left_out_residuals, ridge


@pytest.mark.parametrize(("samples", "width"), [(30, 4), (20, 60)])
@pytest.mark.parametrize("penalty", [0.01, 10.0])
def test_leaving_one_out(samples: int, width: int, penalty: float) -> None:
    features, labels = labelled(samples, width)
    wanted = np.eye(3)[labels]
    missed = []
    for i in range(samples):
        rest = np.arange(samples) != i
        model = Peer(alpha=penalty).fit(features[rest], wanted[rest])
        missed.append(wanted[i] - model.predict(features[i : i + 1])[0])
    assert np.allclose(left_out_residuals(features, wanted, penalty), missed, atol=1e-9)


def test_the_score_is_that_of_the_best_penalty() -> None:
    features, labels = labelled(40, 10, noise=2.0)
    scaled = features / np.abs(features).max()
    length = ((scaled - scaled.mean(axis=0)) ** 2).sum() / 40
    wanted = np.eye(3)[labels]
    alone = sum(((wanted[i] - np.delete(wanted, i, 0).mean(axis=0)) ** 2).sum() for i in range(40))
    errors = []
    for penalty in PENALTIES:
        total = 0.0
        for i in range(40):
            model = Peer(alpha=penalty * length).fit(np.delete(scaled, i, 0), np.delete(wanted, i, 0))
            total += ((wanted[i] - model.predict(scaled[i : i + 1])[0]) ** 2).sum()
        errors.append(total)
    assert ridge(features, labels) == pytest.approx(1 - min(errors) / alone, rel=1e-8)


def test_features_that_say_nothing() -> None:
    rng = np.random.default_rng(0)
    values = [ridge(rng.normal(size=(40, 30)), rng.integers(0, 2, 40)) for _ in range(30)]
    assert np.mean(values) < 0.05
    assert ridge(np.ones((10, 3)), np.arange(10) % 2) == 0.0
