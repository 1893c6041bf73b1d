"""The small solvers against enumeration of all active sets, closed forms and optimality conditions."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstask import RunError
from crosstask.learning.gradients import MatrixGradients
from crosstask.learning.gradients.solvers import (
    Array,
    UnitGramian,
    adam_step,
    gram_array,
    min_norm_weights,
    nonnegative_qp,
    project_to_simplex,
    proportional_weights,
    pseudo_solve,
)


def gramian(tasks: int, size: int, seed: int, spread: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(tasks, size)) * np.exp(spread * rng.normal(size=(tasks, 1)))
    return matrix @ matrix.T


def enumerate_qp(matrix: Array, q: Array) -> Array:
    """The best feasible point among the solutions of all active sets."""
    best, least = np.zeros(len(q)), 0.0
    for size in range(1, len(q) + 1):
        for free in map(list, itertools.combinations(range(len(q)), size)):
            x = np.zeros(len(q))
            x[free] = np.linalg.solve(matrix[np.ix_(free, free)], -q[free])
            value = x @ matrix @ x / 2 + q @ x
            if (x >= 0).all() and value < least:
                best, least = x, value
    return best


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(6, 12), st.integers(0, 10**6))
def test_nonnegative_qp_against_enumeration(tasks: int, size: int, seed: int) -> None:
    matrix = gramian(tasks, size, seed)
    linear = np.random.default_rng(seed + 1).normal(size=(tasks, 3))
    expected = np.stack([enumerate_qp(matrix, q) for q in linear.T], axis=1)
    np.testing.assert_allclose(nonnegative_qp(matrix, linear), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("tasks", "size"), [(8, 3), (16, 10), (40, 20), (40, 45), (64, 40), (64, 500)])
def test_nonnegative_qp_meets_the_optimality_conditions_even_for_dependent_gradients(tasks: int, size: int) -> None:
    unit = UnitGramian.from_array(gramian(tasks, size, tasks, spread=1.0))
    linear = np.concatenate([unit.cosines / tasks, -1 / unit.norms[:, None]], axis=1)
    x = nonnegative_qp(unit.cosines, linear)
    slack = unit.cosines @ x + linear
    assert x.min() >= 0
    assert (slack >= -1e-9 * np.abs(linear).max(axis=0) - 1e-14 * x.max(axis=0)).all()  # rounding of cosines @ x
    # Complementary: relative to |x| and |slack| of each column, whatever their scales
    gap = (x * slack).sum(axis=0)
    assert np.abs(gap / (1e-300 + np.abs(linear * x).sum(axis=0))).max() < 1e-6


def test_the_guess_of_a_free_set_does_not_change_the_answer() -> None:
    matrix = gramian(7, 9, 0)
    linear = np.random.default_rng(3).normal(size=(7, 5))
    guess = np.random.default_rng(4).random((7, 5)) < 0.5
    np.testing.assert_allclose(nonnegative_qp(matrix, linear, guess), nonnegative_qp(matrix, linear), atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_shortest_vector_between_two_gradients(seed: int) -> None:
    matrix = np.random.default_rng(seed).normal(size=(2, 3))
    first, second = matrix
    share = np.clip((second - first) @ second / ((first - second) @ (first - second)), 0, 1)
    found = min_norm_weights(UnitGramian.from_array(matrix @ matrix.T))
    np.testing.assert_allclose(found, [share, 1 - share], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_shortest_vector_is_no_longer_than_any_convex_combination(tasks: int, seed: int) -> None:
    g = gramian(tasks, tasks + 2, seed, spread=1.0)
    found = min_norm_weights(UnitGramian.from_array(g))
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)
    square = found @ g @ found
    assert (g @ found).min() >= square - 1e-7 * g.diagonal().min()


def test_a_zero_gradient_is_the_shortest_vector() -> None:
    g = np.diag([1.0, 0.0, 4.0])
    np.testing.assert_array_equal(min_norm_weights(UnitGramian.from_array(g)), [0, 1, 0])


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("tasks", "size"), [(1, 1), (2, 5), (8, 4), (40, 100)])
def test_proportional_weights_solve_their_equation(tasks: int, size: int, power: float) -> None:
    unit = UnitGramian.from_array(gramian(tasks, size, 5), 1e-8)
    rates = np.random.default_rng(6).uniform(0.5, 2, size=tasks)
    for start in (None, np.random.default_rng(7).uniform(0.1, 10, size=tasks)):
        x = proportional_weights(unit.cosines, rates, power, start)
        assert (x > 0).all()
        np.testing.assert_allclose(unit.cosines @ x, rates * x**-power, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
def test_projection_to_the_simplex(values: list[float]) -> None:
    point = np.array(values)
    found = project_to_simplex(point)
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)
    # Nearest: the residual's inner product with the way to any corner is not positive
    assert ((point - found) @ (np.eye(len(point)) - found).T).max() <= 1e-9


def exact_projection(values: list[float]) -> list[float]:
    """By fractions: no digit is lost."""
    given = [Fraction(v) for v in values]
    total, shift = Fraction(0), Fraction(0)
    for place, value in enumerate(sorted(given, reverse=True), 1):
        total += value
        if value > (total - 1) / place:
            shift = (total - 1) / place
    return [float(max(v - shift, Fraction(0))) for v in given]


@pytest.mark.parametrize(
    "values",
    [
        [1e16, 1, 0], [1e20, 1e20, 0], [-1e18] * 3, [1e17, -3e17, 2], [1e16 + 2, 1e16, 1e16], [1e308, -1e308, 0],
        [-1e308, -1e308, 1e308], [1e-300, 0, -1e-300], [5.0], [-1e300], [0.1, 0.7, 0.4],
    ],
)  # fmt: skip
def test_projection_of_numbers_far_from_one(values: list[float]) -> None:
    np.testing.assert_allclose(project_to_simplex(np.array(values)), exact_projection(values), rtol=1e-15, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=8))
def test_projection_is_that_of_fractions(values: list[float]) -> None:
    np.testing.assert_allclose(project_to_simplex(np.array(values)), exact_projection(values), atol=1e-14)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_has_no_projection(odd: float) -> None:
    with pytest.raises(RunError, match="not finite"):
        project_to_simplex(np.array([1.0, odd]))


@pytest.mark.parametrize("scale", [1e-150, 1e-60, 1e-20, 1e-10, 1e10, 1e20, 1e60, 1e150])
def test_scales_far_from_one_change_nothing_but_the_scale(scale: float) -> None:
    g = gramian(4, 6, 0)
    unit = UnitGramian.from_array(g)
    far = UnitGramian.from_array(g * scale * scale)
    np.testing.assert_allclose(far.cosines, unit.cosines, rtol=1e-12)
    np.testing.assert_allclose(min_norm_weights(far), min_norm_weights(unit), rtol=1e-6)
    q = np.random.default_rng(1).normal(size=(4, 2))
    np.testing.assert_allclose(nonnegative_qp(unit.cosines, q * scale), nonnegative_qp(unit.cosines, q) * scale)
    ridge = unit.ridge
    expected = pseudo_solve(unit.cosines, q, ridge) * scale
    np.testing.assert_allclose(pseudo_solve(unit.cosines, q * scale, ridge), expected)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1e-150, 1e-60, 1e-20, 1e-10, 1e10, 1e20, 1e60, 1e150])
def test_proportional_weights_of_rates_far_from_one(scale: float, power: float) -> None:
    """With rates times s the solution is that times s^(1 / (1 + power)): both sides of the equation say so."""
    cosines = UnitGramian.from_array(gramian(4, 6, 0)).cosines
    rates = np.array([1.0, 2.0, 0.5, 1.0])
    found = proportional_weights(cosines, rates * scale, power)
    np.testing.assert_allclose(cosines @ found / (rates * scale * found**-power), 1, rtol=1e-9)
    np.testing.assert_allclose(found, proportional_weights(cosines, rates, power) * scale ** (1 / (1 + power)))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_proportional_weights_of_rates_far_from_each_other(power: float) -> None:
    cosines = UnitGramian.from_array(gramian(4, 6, 0)).cosines
    rates = np.array([1e-6, 1e-2, 1e2, 1e6]) ** (power - 1)
    found = proportional_weights(cosines, rates, power)
    np.testing.assert_allclose(cosines @ found, rates * found**-power, rtol=1e-9)


def test_pseudo_solve_ignores_what_the_ridge_made() -> None:
    matrix = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    found = pseudo_solve(matrix + 1e-8 * np.eye(3), np.array([2.0, 2.0, 4.0]), 1e-8)
    np.testing.assert_allclose(found, [1, 1, 2], atol=1e-7)


def test_adam_is_that_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=0.1, weight_decay=0.01)
    values, moments = parameter.detach().numpy().copy(), np.zeros((2, 2))
    for step in range(1, 6):
        gradient = np.array([0.3 * step, -1.0])
        values, moments = adam_step(values, gradient, moments, step, 0.1, 0.01)
        parameter.grad = torch.from_numpy(gradient)
        optimizer.step()
    np.testing.assert_allclose(values, parameter.detach().numpy(), rtol=1e-12)


def test_gradients_of_very_different_length_keep_their_precision() -> None:
    matrix = torch.tensor([[1e4, 0.0], [-1e-4, 1e-4]], dtype=torch.float32)
    unit = UnitGramian.of(MatrixGradients(matrix))
    np.testing.assert_allclose(unit.norms, [1e4, 1e-4 * np.sqrt(2)], rtol=1e-6)
    assert unit.cosines[0, 1] == pytest.approx(-np.sqrt(0.5), rel=1e-6)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(RunError, match="task 1 is not finite"):
        gram_array(MatrixGradients(torch.tensor([[1.0], [float("inf")]])))
