"""What holds for every estimator that looks at features and labels, on features of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstask.errors import DataError
from crosstask_discovery.arrays import View
from crosstask_discovery.testing import labelled
from crosstask_estimators.cka import cka
from crosstask_estimators.gbc import gbc
from crosstask_estimators.hscore import hscore
from crosstask_estimators.knn import knn
from crosstask_estimators.logme import logme
from crosstask_estimators.ridge import ridge
from crosstask_estimators.transrate import transrate


def label_cka(features: Any, labels: Any) -> float:
    labels = np.asarray(labels)
    return cka(features, np.eye(labels.max() + 1)[labels])


ESTIMATORS: dict[str, Callable[[Any, Any], float]] = {
    "logme": logme,
    "hscore": hscore,
    "transrate": transrate,
    "gbc": gbc,
    "cka": label_cka,
    "knn": knn,
    "ridge": ridge,
}
every = pytest.mark.parametrize("estimate", ESTIMATORS.values(), ids=ESTIMATORS.keys())
KINDS = {
    "ordinary": lambda x: x,
    "dead": lambda x: np.column_stack([x, np.zeros((len(x), 3)), np.full((len(x), 2), 7.0)]),
    "many": lambda x: np.column_stack([x] + [x + np.random.default_rng(n).normal(size=x.shape) for n in range(20)]),
    "low rank": lambda x: np.column_stack([x[:, :2], x[:, :2] @ np.array([[1.0, 2.0], [3.0, 1.0]])]),
    "far away": lambda x: x + 1e6,
}


@every
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 50), classes=st.integers(2, 4), scale=st.sampled_from([1e-200, 1e-6, 1e5, 1e150]))
def test_it_depends_on_nothing_that_means_nothing(
    estimate: Callable[[Any, Any], float], kind: str, seed: int, classes: int, scale: float
) -> None:
    """Order of the samples, names of the labels, scale and rotation of the features."""
    features, labels = labelled(36, 5, classes, seed=seed)
    features = KINDS[kind](features)
    value = estimate(features, labels)
    assert np.isfinite(value)
    rng = np.random.default_rng(seed)
    order = rng.permutation(36)
    near = pytest.approx(value, rel=1e-4 if kind == "far away" else 1e-6, abs=1e-6)
    assert estimate(features[order], labels[order]) == near
    assert (
        estimate(features, np.array([7, 2, 9, 4])[labels] if estimate is not label_cka else (labels + 1) % classes)
        == near
    )
    assert estimate(features * scale, labels) == near
    turn = np.linalg.qr(rng.normal(size=(features.shape[1],) * 2))[0]
    assert estimate(features @ turn, labels) == near


@every
def test_classes_that_lie_apart_are_better(estimate: Callable[[Any, Any], float]) -> None:
    values = [np.mean([estimate(*labelled(60, 6, 3, noise, s)) for s in range(5)]) for noise in (0.2, 1.0, 4.0)]
    shuffled = []
    for seed in range(5):
        features, labels = labelled(60, 6, 3, 0.2, seed)
        shuffled.append(estimate(features, np.random.default_rng(seed).permutation(labels)))
    assert values[0] > values[1] > values[2]
    assert values[1] > np.mean(shuffled)


@every
def test_float32_tensors_are_computed_in_float64(estimate: Callable[[Any, Any], float]) -> None:
    features, labels = labelled(40, 6)
    tensors = torch.tensor(features, dtype=torch.float32, requires_grad=True), torch.tensor(labels)
    exact = estimate(tensors[0].detach().double().numpy(), labels)
    assert estimate(*tensors) == exact
    assert estimate(tensors[0].bfloat16(), labels) == pytest.approx(exact, rel=0.05, abs=0.02)


@every
def test_a_view_that_others_have_looked_at(estimate: Callable[[Any, Any], float]) -> None:
    """Estimators share decompositions: the order in which they come is nothing to any of them."""
    features, labels = labelled(30, 9)
    looked = View(features)
    for other in ESTIMATORS.values():
        other(looked, labels)
    assert estimate(looked, labels) == estimate(features, labels)


@every
def test_features_or_labels_that_do_not_vary(estimate: Callable[[Any, Any], float]) -> None:
    features, labels = labelled(20, 4)
    assert estimate(features, np.zeros(20, dtype=int)) == 0.0 or estimate is label_cka
    for flat in (np.zeros((20, 4)), np.full((20, 4), 3.3)):
        value = estimate(flat, labels)
        assert np.isfinite(value)
        assert value <= estimate(features, labels)


@every
def test_mistakes(estimate: Callable[[Any, Any], float]) -> None:
    features, labels = labelled(20, 4)
    features[3, 2] = np.nan
    with pytest.raises(DataError, match="NaN or infinite"):
        estimate(features, labels)
    if estimate is not label_cka:
        with pytest.raises(DataError, match=r"20 samples need labels of shape \(20,\), got \(19,\)"):
            estimate(np.ones((20, 4)), labels[1:])
