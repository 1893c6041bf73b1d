"""The process against scikit-learn's, its gradient against differences, its kernel against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from crosstask_nas.gaussian_process import Everywhere, GaussianProcess, distances, ranks

MIXED = np.array([True, True, False, False])


def rows(count: int, seed: int, missing: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made = rng.random((count, 4))
    made[:, :2] = (np.floor(made[:, :2] * 3) + 0.5) / 3
    if missing:
        made[rng.random((count, 4)) < 0.3] = np.nan
    return made


def kernel_in_loops(process: GaussianProcess, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    weights, scale = np.exp(process.parameters[:-2]), np.exp(process.parameters[-2])
    found = np.zeros((len(a), len(b)))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            names = numbers = 0.0
            for d, categorical in enumerate(process.categorical):
                if math.isnan(x[d]) or math.isnan(y[d]):
                    apart = 0.0 if math.isnan(x[d]) and math.isnan(y[d]) else 1.0
                else:
                    apart = float(x[d] != y[d]) if categorical else (x[d] - y[d]) ** 2
                if categorical:
                    names += weights[d] * apart
                else:
                    numbers += weights[d] * apart
            r = math.sqrt(5 * numbers)
            found[i, j] = scale * math.exp(-names) * (1 + r + r * r / 3) * math.exp(-r)
    return found


def test_kernel_is_what_the_loops_give() -> None:
    process = GaussianProcess(MIXED)
    process.parameters = process.parameters + np.linspace(-0.5, 0.5, 6)
    a, b = rows(7, 0, missing=True), rows(5, 1, missing=True)
    kernel, _ = process._kernel(process.parameters, distances(a, b, MIXED))
    assert np.exp(process.parameters[-2]) * kernel == pytest.approx(kernel_in_loops(process, a, b), rel=1e-10)
    full = kernel_in_loops(process, a, a)
    assert np.linalg.eigvalsh(full).min() > -1e-9  # a kernel: no negative variance, missing parameters or not


def test_gradient_of_the_posterior_agrees_with_differences() -> None:
    process = GaussianProcess(MIXED)
    data, values = rows(15, 2, missing=True), np.random.default_rng(3).normal(size=15)
    apart, centre = distances(data, data, MIXED), process.prior()
    at = centre + np.random.default_rng(4).normal(0, 0.5, len(centre))
    _, gradient = process._loss(at, apart, values, centre)
    slopes = optimize.approx_fprime(at, lambda p: process._loss(p, apart, values, centre)[0], 1e-6)
    assert gradient == pytest.approx(slopes, rel=1e-4, abs=1e-4)


def test_real_numbers_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    data, values, new = rng.random((20, 3)), rng.normal(size=20), rng.random((30, 3))
    process = GaussianProcess(np.zeros(3, dtype=bool))
    process.parameters = np.log([3.0, 0.5, 8.0, 1.7, 0.05])
    process.condition(data, values)
    mean, deviation = process.predict(new)
    kernel = ConstantKernel(1.7) * Matern(1 / np.sqrt([3.0, 0.5, 8.0]), nu=2.5) + WhiteKernel(0.05 + 1e-6)
    theirs = GaussianProcessRegressor(kernel, optimizer=None, alpha=0.0).fit(data, values)
    their_mean, their_deviation = theirs.predict(new, return_std=True)
    assert mean == pytest.approx(their_mean, abs=1e-8)
    noiseless = np.sqrt(their_deviation**2 - (0.05 + 1e-6))
    assert deviation == pytest.approx(noiseless, abs=1e-6)
    likelihood = -process._loss(
        process.parameters, distances(data, data, process.categorical), values, process.parameters
    )[0]
    assert likelihood - 10 * math.log(2 * math.pi) == pytest.approx(theirs.log_marginal_likelihood_value_, abs=1e-6)


def test_fit_finds_what_matters() -> None:
    """Of four categories only the first decides: its weight becomes the largest, and the noise small."""
    rng = np.random.default_rng(0)
    data = (np.floor(rng.random((60, 4)) * 3) + 0.5) / 3
    values = ranks(10 * data[:, 0] + 0.01 * rng.normal(size=60))
    process = GaussianProcess(np.ones(4, dtype=bool))
    process.fit(data, values, steps=50)
    weights = process.parameters[:4]
    assert weights[0] > weights[1:].max() + 1.5
    process.condition(data, values)
    mean, _ = process.predict(data)
    assert np.corrcoef(mean, values)[0, 1] > 0.9


@given(hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e6, 1e6)))
def test_ranks_keep_the_order_and_share_ties(values: np.ndarray) -> None:
    scores = ranks(values)
    assert np.isfinite(scores).all()
    for i in range(len(values)):
        assert ((scores < scores[i]) == (values < values[i])).all()
        assert ((scores == scores[i]) == (values == values[i])).all()
    assert ranks(values * 2) == pytest.approx(scores)


@pytest.mark.parametrize("categorical", [np.ones(4, dtype=bool), MIXED])
def test_everywhere_says_what_the_process_says(categorical: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Observations one by one, one changed, some taken back, other parameters, missing values."""
    monkeypatch.setattr("crosstask_nas.gaussian_process._BLOCK", 200)
    grid, seen = rows(60, 0, missing=True), rows(25, 1, missing=True)
    values = np.random.default_rng(2).normal(size=25)
    process, known = GaussianProcess(categorical), Everywhere(grid)
    for first, count in ((8, 8), (8, 9), (8, 12), (8, 10), (12, 14), (12, 25)):
        if first == 12:
            process.parameters = process.parameters + 0.3
        others = seen.copy()
        if count == 10:
            others[9] = grid[3]
        process.condition(others[:count], values[:count])
        mean, deviation = known.predict(process, first)
        assert mean == pytest.approx(process.predict(grid)[0], abs=1e-9)
        assert deviation == pytest.approx(process.predict(grid)[1], abs=1e-7)


def test_a_space_of_choices_among_very_many_is_predicted_as_a_whole() -> None:
    """More values than are kept one by one: there the whole was a product of matrices that do not fit."""
    rng = np.random.default_rng(0)
    every = np.stack([np.repeat(np.arange(1200) / 1200, 2), np.tile([0.25, 0.75], 1200)], axis=1)
    seen, values = every[rng.choice(len(every), 12, replace=False)], rng.normal(size=12)
    process = GaussianProcess(np.array([True, True]))
    process.condition(seen, values)
    for got, expected in zip(Everywhere(every).predict(process, 8), process.predict(every), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
