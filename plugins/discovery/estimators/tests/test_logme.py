"""LogME against the evidence as scipy maximises it, and against the fixed point of the paper."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.stats import multivariate_normal

from crosstask_discovery.testing import labelled
from crosstask_estimators.logme import logme


def evidence(features: np.ndarray, target: np.ndarray) -> float:
    """max over alpha and beta of log N(y; 0, 1/beta + F Fᵀ / alpha), per sample."""
    kernel = features @ features.T

    def cost(logs: np.ndarray) -> float:
        alpha, beta = np.exp(np.clip(logs, -25, 25))
        covariance = np.eye(len(target)) / beta + kernel / alpha
        return -float(multivariate_normal.logpdf(target, np.zeros(len(target)), covariance)) / len(target)

    starts = [(a, b) for a in (-3, 0, 3, 6) for b in (-1, 2)]
    return -min(
        minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}).fun for start in starts
    )


@pytest.mark.parametrize(("samples", "width", "noise"), [(40, 5, 1.0), (30, 60, 2.0), (25, 25, 1.0)])
def test_the_evidence_is_maximal(samples: int, width: int, noise: float) -> None:
    features, labels = labelled(samples, width, classes=2, noise=noise)
    features = features / np.abs(features).max()
    expected = np.mean([evidence(features, (labels == c).astype(float)) for c in range(2)])
    assert logme(features, labels) == pytest.approx(expected, abs=1e-5)


def test_the_fixed_point_of_the_paper() -> None:
    """Algorithm 1 of You et al., written out."""
    features, labels = labelled(80, 6, classes=3)
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    found = []
    for c in range(3):
        y = (labels == c).astype(float)
        alpha = beta = 1.0
        for _ in range(500):
            gamma = (beta * s**2 / (alpha + beta * s**2)).sum()
            weights = beta * s * (u.T @ y) / (alpha + beta * s**2)  # in the basis of the right singular vectors
            missed = ((y - u @ (s * weights)) ** 2).sum()
            alpha, beta = gamma / (weights**2).sum(), (len(y) - gamma) / missed
        n, d = features.shape
        value = d * np.log(alpha) + n * np.log(beta) - np.log(alpha + beta * s**2).sum()
        value -= beta * missed + alpha * (weights**2).sum() + n * np.log(2 * np.pi)
        found.append(value / 2 / n)
    assert logme(features, labels) == pytest.approx(np.mean(found), abs=1e-8)


def test_regression() -> None:
    features, _ = labelled(50, 4)
    values = features @ np.array([1.0, -2.0, 0.5, 0.0])
    rng = np.random.default_rng(1)
    noisy = np.column_stack([values + rng.normal(size=50), rng.normal(size=50)])
    largest = np.abs(noisy).max()
    expected = np.mean([evidence(features, column / largest) for column in noisy.T])
    assert logme(features, noisy) == pytest.approx(expected, abs=1e-5)
    assert logme(features, noisy[:, 0]) > logme(features, noisy[:, 1] * np.abs(noisy[:, 0]).max())
    assert logme(features, np.zeros(50)) == 0.0


def test_labels_that_the_features_fit_without_error() -> None:
    """The evidence has no maximum there; the value is finite, and above that of any noisy features."""
    labels = np.arange(40) % 2
    perfect = logme(np.eye(2)[labels], labels)
    assert np.isfinite(perfect)
    assert perfect > logme(np.eye(2)[labels] + 0.1 * np.random.default_rng(0).normal(size=(40, 2)), labels)


@pytest.mark.parametrize(("samples", "width", "noise"), [(60, 8, 1.0), (30, 90, 2.0), (40, 12, 8.0), (40, 3, 0.05)])
def test_the_search_in_one_variable_against_scipy(samples: int, width: int, noise: float) -> None:
    """The evidence with the best beta for every ratio alpha / beta, from the covariance itself; a bounded search."""
    features, labels = labelled(samples, width, classes=3, noise=noise)
    kernel = (features @ features.T) / np.abs(features).max() ** 2
    largest = np.linalg.eigvalsh(kernel)[-1]
    found = []
    for c in range(3):
        y = (labels == c).astype(float)

        def cost(log_ratio: float, y: np.ndarray = y) -> float:
            covariance = np.eye(samples) + kernel / (np.exp(log_ratio) * largest)
            beta = samples / (y @ np.linalg.solve(covariance, y))
            return float(np.linalg.slogdet(covariance)[1] / samples - np.log(beta))

        grid = np.log(np.logspace(-8, 8, 161))
        best = grid[np.argmin([cost(u) for u in grid])]
        ends = max(best - 0.5, grid[0]), min(best + 0.5, grid[-1])
        near = minimize_scalar(cost, bounds=ends, method="bounded", options={"xatol": 1e-10})
        lowest = min(near.fun, cost(grid[0]), cost(grid[-1]))
        found.append(-0.5 * (np.log(2 * np.pi) + 1 + lowest))
    assert logme(features, labels) == pytest.approx(np.mean(found), abs=1e-10)
