"""The simple predictors, against closed forms and independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstask.errors import DataError
from crosstask_discovery.testing import part_of, transfer_world
from crosstask_gnn import Pairs
from crosstask_gnn.additive import additive
from crosstask_gnn.mean_z import mean_z
from crosstask_gnn.mixed import Design, Variances, mixed
from crosstask_gnn.pairs import mean_score, within_targets
from crosstask_gnn.soft_impute import complete, completions, soft_impute
from crosstask_gnn.source_mean import source_mean, target_mean


def test_means_of_sources_and_targets() -> None:
    known = np.full((3, 3), np.nan)
    known[0, 1], known[0, 2], known[1, 2] = 0.2, 0.4, -0.1
    pairs = Pairs.of(known)
    assert source_mean(pairs)[:, 0] == pytest.approx([0.3, -0.1, 0.5 / 3])
    assert target_mean(pairs)[0] == pytest.approx([0.5 / 3, 0.2, 0.15])


def test_additive_is_the_ridge_solution() -> None:
    truth, _, _ = transfer_world(8, seed=1)
    pairs = Pairs.of(part_of(truth, 0.5))
    source, target = np.argwhere(pairs.measured).T
    one = np.eye(8)
    design = np.hstack([np.ones((len(source), 1)), one[source], one[target]])
    penalty = np.diag([0.0] + [1.0] * 16)
    effects = np.linalg.solve(design.T @ design + penalty, design.T @ pairs.known[source, target])
    expected = effects[0] + effects[1:9, None] + effects[9:]
    assert additive(pairs, rounds=2000) == pytest.approx(expected, abs=1e-6)


def test_completion_is_soft_thresholded() -> None:
    """With everything seen the singular values of the solution are those of the matrix, less the penalty."""
    values = np.random.default_rng(0).normal(size=(9, 9))
    left, size, right = np.linalg.svd(values)
    expected = (left * np.maximum(size - 1.5, 0)) @ right
    assert complete(values, np.ones((9, 9), dtype=bool), 1.5, rounds=3000) == pytest.approx(expected, abs=1e-2)


def test_completion_agrees_with_iterated_singular_value_decompositions() -> None:
    """Mazumder et al., algorithm 1: fill in, decompose, threshold, until nothing changes."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(12, 2)) @ rng.normal(size=(2, 12)) + 0.1 * rng.normal(size=(12, 12))
    seen = rng.random((12, 12)) < 0.6
    filled = np.zeros_like(values)
    for _ in range(3000):
        left, size, right = np.linalg.svd(np.where(seen, values, filled))
        filled = (left * np.maximum(size - 0.5, 0)) @ right
    assert complete(values, seen, 0.5, rounds=3000) == pytest.approx(filled, abs=2e-2)


def test_large_matrices_are_started_from_their_leading_singular_vectors() -> None:
    from crosstask_gnn.soft_impute import _leading

    rng = np.random.default_rng(0)
    values = rng.normal(size=(220, 5)) @ rng.normal(size=(5, 210)) + 0.1 * rng.normal(size=(220, 210))
    left, size, right = _leading(values, 5)
    expected = np.linalg.svd(values)
    assert size[:5] == pytest.approx(expected[1][:5], rel=1e-6)
    assert np.abs((left[:, :5] * size[:5]) @ right[:5] - (expected[0][:, :5] * size[:5]) @ expected[2][:5]).max() < 1e-4


def test_several_penalties_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(4)
    values, seen = rng.normal(size=(9, 7)), rng.random((9, 7)) < 0.6
    together = completions(values, seen, [0.1, 1.0, 4.0])
    for penalty, made in zip([0.1, 1.0, 4.0], together, strict=True):
        assert made == pytest.approx(complete(values, seen, penalty), abs=1e-12)


def test_soft_impute_finds_a_low_rank_matrix_that_additive_cannot() -> None:
    rng = np.random.default_rng(2)
    truth = 0.3 * rng.normal(size=(30, 2)) @ rng.normal(size=(2, 30))
    pairs = Pairs.of(part_of(truth, 0.5))
    hidden = ~pairs.measured & ~np.eye(30, dtype=bool)
    found, plain = soft_impute(pairs), additive(pairs)
    assert np.square(found - truth)[hidden].mean() < 0.2 * np.square(plain - truth)[hidden].mean()


def test_z_scores_are_those_of_each_target() -> None:
    _, estimates, _ = transfer_world(6, seed=3)
    pairs = Pairs.of(np.full((6, 6), np.nan), estimates=estimates)
    column = np.delete(estimates[2][:, 4], 4)
    expected = (column - column.mean()) / column.std()
    assert np.delete(within_targets(pairs.estimates)[2][:, 4], 4) == pytest.approx(expected)


@given(scale=st.floats(1e-6, 1e6), shift=st.floats(-1e3, 1e3))
@settings(max_examples=20, deadline=None)
def test_an_estimators_units_change_nothing(scale: float, shift: float) -> None:
    _, estimates, _ = transfer_world(6, seed=4)
    moved = estimates.copy()
    moved[1, :, 2] = scale * (moved[1, :, 2] + shift)
    assert mean_score(Pairs.of(estimates[0], None, moved).estimates) == pytest.approx(
        mean_score(Pairs.of(estimates[0], None, estimates).estimates), abs=1e-5
    )


def test_equal_estimates_say_nothing() -> None:
    assert np.all(mean_score(np.full((2, 4, 4), 0.1)) == 0)
    assert np.all(mean_score(np.full((2, 4, 4), np.nan)) == 0)


def test_mean_z_finds_slope_and_targets() -> None:
    _, estimates, _ = transfer_world(12, seed=5)
    pairs = Pairs.of(np.full((12, 12), np.nan), estimates=estimates)
    level = np.linspace(-0.3, 0.3, 12)
    truth = level + 0.2 * mean_score(pairs.estimates)
    found = mean_z(Pairs.of(truth, estimates=estimates), shrinkage=0.0)
    off = ~np.eye(12, dtype=bool)
    assert found[off] == pytest.approx(truth[off], abs=1e-4)


def test_estimates_that_mislead_are_not_turned_round() -> None:
    _, estimates, _ = transfer_world(12, seed=5)
    truth = -0.2 * mean_score(estimates)
    assert np.ptp(mean_z(Pairs.of(truth, estimates=estimates)), axis=0) == pytest.approx(0)


def test_mixed_is_the_posterior_of_a_gaussian_process() -> None:
    """The same model in its other form: a kernel over the pairs, and no effects."""
    truth, estimates, nodes = transfer_world(7, seed=6)
    stated = np.full((7, 7), 0.05)
    pairs = Pairs.of(part_of(truth, 0.5), stated, estimates, nodes)
    design = Design.of(pairs)
    variances = Variances(np.array([0.05, 0.02, 0.03, 0.01, 0.02, 0.005]), 0.02)
    found = mixed(pairs, variances, design)
    source, target = np.indices((7, 7)).reshape(2, -1)
    kernel = np.ones((49, 49)) + 0.05 * (target[:, None] == target) + 0.02 * (source[:, None] == source)
    for size, rows in (
        (0.03, design.score[source, target]),
        (0.01, design.pair[source, target]),
        (0.02, design.target[target]),
        (0.005, design.source[source]),
    ):
        kernel += size * rows @ rows.T
    known = pairs.measured.flatten()
    values = pairs.known.flatten()[known]
    inner = np.linalg.inv(kernel[np.ix_(known, known)] + (0.02 + 0.05**2) * np.eye(known.sum()))
    mean = values.mean() + kernel[:, known] @ inner @ (values - values.mean())
    variance = np.diag(kernel - kernel[:, known] @ inner @ kernel[known]) + 0.02
    assert found.mean.flatten() == pytest.approx(mean, abs=1e-6)
    assert found.variance.flatten() == pytest.approx(variance, abs=1e-6)


def test_mixed_learns_how_much_each_kind_of_evidence_is_worth() -> None:
    truth, estimates, _ = transfer_world(30, seed=7)
    noise = np.random.default_rng(0).normal(size=estimates.shape)
    useful, useless = (mixed(Pairs.of(part_of(truth, 0.3), None, e)).variances for e in (estimates, noise))
    assert useful.groups[2] > 3 * useless.groups[2]
    assert useful.noise < useless.noise


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.zeros((2, 3)),), "square matrix, got shape"),
        ((np.zeros((3, 3)), None, np.zeros((2, 4, 4))), "estimates have shape"),
        ((np.zeros((3, 3)), None, None, np.zeros((2, 4))), "nodes have shape"),
        ((np.full((3, 3), np.inf),), "known hold values that are not finite"),
        ((np.zeros((3, 3)), None, None, np.full((3, 4), np.nan)), "nodes hold values that are not finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arguments: tuple[np.ndarray, ...], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Pairs.of(*arguments)
