"""LEEP against a naive loop over samples and classes, as the paper defines it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstask.errors import DataError
from crosstask_estimators.leep import leep, softmax


def by_hand(theta: np.ndarray, labels: np.ndarray) -> float:
    n, z_count = theta.shape
    total = 0.0
    for i in range(n):
        inner = 0.0
        for z in range(z_count):
            together = sum(theta[j, z] for j in range(n) if labels[j] == labels[i]) / n
            alone = sum(theta[j, z] for j in range(n)) / n
            inner += together / alone * theta[i, z] if alone > 0 else 0.0
        total += math.log(inner)
    return total / n


@given(st.integers(1, 25), st.integers(1, 5), st.integers(1, 4), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_definition(samples: int, source_classes: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    theta = rng.dirichlet(np.full(source_classes, 0.3), size=samples)
    labels = rng.integers(0, classes, samples)
    assert leep(theta, labels) == pytest.approx(by_hand(theta, labels), abs=1e-10)


def test_a_source_class_that_never_comes_up() -> None:
    theta, labels = np.array([[1.0, 0.0], [1.0, 0.0]]), [0, 1]
    assert leep(theta, labels) == pytest.approx(math.log(0.5))


def test_the_source_knows_the_label() -> None:
    labels = np.arange(12) % 3
    assert leep(np.eye(3)[labels], labels) == 0.0
    assert leep(np.eye(3)[labels], np.zeros(12, dtype=int)) == 0.0


def test_what_is_no_probability() -> None:
    with pytest.raises(DataError, match="sum to 1"):
        leep(np.ones((3, 2)), [0, 1, 0])
    with pytest.raises(DataError, match="sum to 1"):
        leep(np.array([[1.5, -0.5]]), [0])
    with pytest.raises(DataError, match="labels must be integers"):
        leep(np.array([[0.5, 0.5]]), [0.5])


def test_softmax_of_large_float32_outputs() -> None:
    outputs = torch.tensor([[1e30, 0.0], [-1e30, 3.0]])
    assert softmax(outputs).tolist() == [[1, 0], [0, 1]]
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert np.allclose(softmax(logits), logits.double().softmax(1).numpy())
