"""NCE against scikit-learn's mutual information: -H(Y|Z) = I(Y; Z) - H(Y)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score

from crosstask_estimators.nce import nce


@given(st.integers(1, 60), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_by_mutual_information(samples: int, source_classes: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, classes, samples), rng.integers(0, source_classes, samples)
    expected = mutual_info_score(labels, predicted) - entropy(np.bincount(labels))
    assert nce(predicted, labels) == pytest.approx(expected, abs=1e-9)


def test_a_class_that_determines_the_label() -> None:
    assert nce([3, 3, 7, 9], [0, 0, 1, 1]) == 0.0
    assert nce([1, 1], [0, 1]) == pytest.approx(-np.log(2))
