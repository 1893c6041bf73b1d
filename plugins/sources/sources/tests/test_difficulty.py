"""The difficulty of a task agrees with scikit-learn's nearest centroid."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid

from crosstask_sources.difficulty import nearest_mean_difficulty


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5), shift=st.floats(0, 5))
def test_agrees_with_scikit_learn(seed: int, classes: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    labels, truth = np.arange(60) % classes, rng.permutation(40) % classes
    centres = shift * rng.standard_normal((classes, 2, 3))
    inputs, held = (centres[y] + rng.standard_normal((len(y), 2, 3)) for y in (labels, truth))
    guesses = NearestCentroid().fit(inputs.reshape(60, -1), labels).predict(held.reshape(40, -1))
    guessing = 1 - np.bincount(truth).max() / 40
    expected = min(1.0, (guesses != truth).mean() / guessing)
    assert nearest_mean_difficulty((inputs, labels), (held, truth), classes) == pytest.approx(expected, abs=1e-4)


def test_classes_without_training_samples_are_never_guessed() -> None:
    train = (np.array([[1.0], [9.0]]), np.array([1, 2]))
    held = (np.array([[0.0], [1.0], [8.0], [9.0]]), np.array([0, 1, 2, 2]))
    assert nearest_mean_difficulty(train, held, 3) == pytest.approx(0.25 / 0.5)


def test_where_guessing_is_always_right_nothing_is_easier() -> None:
    one = (np.zeros((3, 2)), np.zeros(3, dtype=int))
    assert nearest_mean_difficulty(one, one, 1) == 1.0
