"""CKA against HSIC with a centring matrix, and the unbiased form against a sum over all quadruples."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from crosstask.errors import DataError
from crosstask_discovery.testing import labelled
from crosstask_estimators.cka import cka


def test_biased_by_the_centring_matrix() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(20, 5)), rng.normal(size=(20, 30))
    centring = np.eye(20) - 1 / 20

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        return np.trace(k @ centring @ m @ centring)

    k, m = one @ one.T, other @ other.T
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert cka(one, other, unbiased=False) == pytest.approx(expected, rel=1e-10)


def test_unbiased_by_quadruples() -> None:
    """HSIC's U-statistic: the mean over different i, j, q, r of K_ij (M_ij + M_qr - 2 M_iq)."""
    rng = np.random.default_rng(1)
    one = rng.normal(size=(7, 2))
    other = one @ rng.normal(size=(2, 3)) + 0.5 * rng.normal(size=(7, 3))

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        every = list(itertools.permutations(range(7), 4))
        return sum(k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in every) / len(every)

    k, m = one @ one.T, other @ other.T
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert cka(one, other) == pytest.approx(expected, rel=1e-9)


def test_unbiased_is_near_zero_for_views_that_have_nothing_in_common() -> None:
    rng = np.random.default_rng(2)
    values = [cka(rng.normal(size=(20, 200)), np.eye(2)[rng.integers(0, 2, 20)]) for _ in range(60)]
    biased = [cka(rng.normal(size=(20, 200)), np.eye(2)[rng.integers(0, 2, 20)], unbiased=False) for _ in range(60)]
    assert abs(np.mean(values)) < 0.05
    assert np.mean(biased) > 0.15


def test_a_view_with_itself_turned_and_scaled() -> None:
    features, _ = labelled()
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(7, 7)))[0]
    for unbiased in (True, False):
        assert cka(features, 3 * features @ turn, unbiased) == pytest.approx(1.0)


def test_mistakes() -> None:
    with pytest.raises(DataError, match="same samples"):
        cka(np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(DataError, match="at least four samples"):
        cka(np.ones((3, 2)), np.ones((3, 2)))
